# ruff: noqa: RUF001  (characters that look alike are what is tested)
"""FastWordPieceTokenizer: its own ways in and out, how it is made, and what it refuses."""

from __future__ import annotations

import itertools
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from toy_tokenizers import (
    CASED_PIECES,
    HOSTILE,
    PIECES,
    SENTENCES,
    compare,
    peer,
    with_peer,
)
from toy_vocabulary import HARD, TEXT, TINY, write_base

from edad_fast.errors import InputError
from edad_fast.vocabulary import (
    FastWordPieceTokenizer,
    build_vocabulary,
    encode_documents,
    load_tokenizer,
    save_tokenizer,
)


@pytest.fixture(scope="module", params=[True, False], ids=["uncased", "cased"])
def both(request: pytest.FixtureRequest) -> tuple[FastWordPieceTokenizer, Any]:
    return with_peer(request.param)


@pytest.fixture(scope="module")
def fast() -> FastWordPieceTokenizer:
    return FastWordPieceTokenizer(PIECES, model_max_length=48)


# Flat


def test_flat(both: tuple[FastWordPieceTokenizer, Any]) -> None:
    ours, theirs = both
    for special in (False, True):
        ids, offsets = ours.encode_flat(SENTENCES, add_special_tokens=special)
        assert (ids.dtype, offsets.dtype) == (np.int32, np.int64)
        expected = theirs(SENTENCES, add_special_tokens=special)["input_ids"]
        assert [ids[a:b].tolist() for a, b in itertools.pairwise(offsets)] == expected
        for threads in (2, 7):
            again = ours.encode_flat(SENTENCES * 3, special, n_threads=threads)
            assert again[0].tolist() == ids.tolist() * 3
    ids, offsets, spans, words = ours.encode_flat_with_offsets(SENTENCES)
    expected = theirs(SENTENCES, add_special_tokens=False, return_offsets_mapping=True)
    assert [tuple(span) for span in spans.tolist()] == list(itertools.chain(*expected["offset_mapping"]))
    assert words.tolist() == [n for encoding in expected.encodings for n in encoding.word_ids]
    ids, offsets = ours.encode_flat([], add_special_tokens=True)
    assert (ids.shape, offsets.tolist()) == ((0,), [0])
    assert ours.encode_flat([""])[1].tolist() == [0, 0]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_arrow(fast: FastWordPieceTokenizer, kind: Any) -> None:
    texts: list[Any] = [*SENTENCES, None, "", "the"]
    plain = ["" if text is None else text for text in texts]
    array = pa.array(texts, pa.string()).cast(kind)
    nothing = pa.array([], kind)
    for column, expected in (
        (array, plain),
        (array[3:-1], plain[3:-1]),
        (pa.chunked_array([array[:4], nothing, array[4:]]), plain),
        (nothing, []),
        (pa.chunked_array([], kind), []),
    ):
        for ours, theirs in zip(
            fast.encode_flat_with_offsets(column), fast.encode_flat_with_offsets(expected), strict=True
        ):
            assert (ours.dtype, ours.tolist()) == (theirs.dtype, theirs.tolist())
    assert dict(fast(array)) == dict(fast(plain))
    assert dict(fast(array, pa.array(plain))) == dict(fast(plain, plain))
    with pytest.raises(InputError, match="holds int64, not strings"):
        fast.encode_flat(pa.array([1, 2]))


def test_arrow_column_of_another_library(fast: FastWordPieceTokenizer) -> None:
    class Column:
        def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
            return pa.chunked_array([["the", "a b"]]).__arrow_c_stream__(requested_schema)

    assert fast.encode_flat(Column())[1].tolist() == [0, 1, 3]


def test_files(fast: FastWordPieceTokenizer, tmp_path: Path) -> None:
    import gzip

    texts = [TEXT + "\n\nThe\r\n" + HARD[0], "", "the treating\n", *HOSTILE[4:7]]
    paths = [tmp_path / f"{number}.txt" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(text.encode())
    expected = fast.encode_flat(texts)
    for threads in (1, 3):
        for ours, theirs in zip(fast.encode_files(paths, n_threads=threads), expected, strict=True):
            assert (ours.dtype, ours.tolist()) == (theirs.dtype, theirs.tolist())
    lines = [line for text in texts for line in text.removesuffix("\n").split("\n") if text]
    by_line = fast.encode_files(paths, rows="line")
    assert [a.tolist() for a in by_line] == [a.tolist() for a in fast.encode_flat(lines)]
    (tmp_path / "z.txt.gz").write_bytes(gzip.compress(texts[0].encode()))
    assert fast.encode_files(str(tmp_path / "*.gz"))[0].tolist() == fast.encode_flat(texts[:1])[0].tolist()


@pytest.mark.parametrize("rows", ["file", "line"])
def test_large_files_are_read_in_blocks(
    fast: FastWordPieceTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: Any
) -> None:
    from edad_fast.corpus import blocks
    from edad_fast.vocabulary import file_input

    path = tmp_path / "a.txt"
    path.write_text((TEXT + "\n") * 20 + "naïve " * 50 + "\n\n" + HARD[0], encoding="utf-8")
    expected = fast.encode_files(path, rows=rows)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 64)
    monkeypatch.setattr(file_input, "_PART_BYTES", 100)
    assert [a.tolist() for a in fast.encode_files(path, rows=rows)] == [a.tolist() for a in expected]


def test_bad_files(fast: FastWordPieceTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"the\ntreating \xe2\x28 the\n")
    with pytest.raises(InputError, match=r"a\.txt: invalid UTF-8 at byte 13 \(line 2\)"):
        fast.encode_files(path)
    replaced = fast.encode_files(path, encoding_errors="replace")[0].tolist()
    assert replaced == fast.encode_flat(["the\ntreating \ufffd( the"])[0].tolist()
    path.write_bytes(b"the\0the")
    with pytest.raises(InputError, match="NUL byte at byte 3"):
        fast.encode_files(path)
    assert len(fast.encode_files(path, encoding_errors="replace")[0]) == 2
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(InputError, match=r"no plain text"):
        fast.encode_files(tmp_path / "a.jsonl")
    with pytest.raises(InputError, match="rows is 'page'"):
        fast.encode_files(path, rows="page")  # type: ignore[arg-type]


# Made from, and copied


def test_made_from_what_a_user_has(tmp_path: Path) -> None:
    folder = write_base(tmp_path / "base")
    theirs = load_tokenizer(folder)
    save_tokenizer(theirs, tmp_path / "saved")
    for source in (TINY, folder / "vocab.txt", str(folder), tmp_path / "saved"):
        ours = FastWordPieceTokenizer(source)
        assert ours.encode(HARD[0]) == theirs.encode(HARD[0])
    assert FastWordPieceTokenizer(folder).model_max_length == 512
    assert FastWordPieceTokenizer(tmp_path / "saved", model_max_length=9).model_max_length == 9
    assert FastWordPieceTokenizer.from_tokenizer(theirs).encode(HARD[0]) == theirs.encode(HARD[0])
    cased = FastWordPieceTokenizer(CASED_PIECES)
    assert cased.tokenize("The") == ["The"]
    assert FastWordPieceTokenizer(CASED_PIECES, lowercase=True).tokenize("The") == ["the"]
    kept = FastWordPieceTokenizer(PIECES, strip_accents=False)
    assert kept.tokenize("É") == ["é"]
    assert FastWordPieceTokenizer(PIECES).tokenize("É") == ["e"]
    assert FastWordPieceTokenizer(TINY, handle_chinese_chars=False).tokenize("a中") == ["[UNK]"]
    assert FastWordPieceTokenizer(TINY, clean_text=False).tokenize("a\x01") == ["[UNK]"]


def test_modes_differ_where_they_should() -> None:
    text = "\U0002b820a"
    pieces = [*TINY, "\U0002b820", "##σ", "σ", "ς", "##ς", "α"]
    by_mode = {mode: FastWordPieceTokenizer(pieces, compat=mode).tokenize("ΑΣ") for mode in ("hf", "slow")}
    assert by_mode == {"hf": ["α", "##σ"], "slow": ["α", "##ς"]}
    assert FastWordPieceTokenizer(pieces, compat="slow").tokenize(text) == ["\U0002b820", "a"]
    with pytest.raises(InputError, match="compat is 'fast'"):
        FastWordPieceTokenizer(TINY, compat="fast")  # type: ignore[arg-type]


def test_half_a_surrogate_pair(fast: FastWordPieceTokenizer) -> None:
    with pytest.raises(InputError, match=r"texts\[1\]"):
        fast.encode_flat(["a", "b\ud800"])
    slow = FastWordPieceTokenizer(PIECES, compat="slow")
    assert slow.tokenize("a\ud800b") == slow.tokenize("ab")


def _encode_in_child(tokenizer: FastWordPieceTokenizer) -> list[list[int]]:
    return [tokenizer.encode_flat(SENTENCES, n_threads=threads)[0].tolist() for threads in (1, 3)]


def test_pickle_fork_and_threads(fast: FastWordPieceTokenizer) -> None:
    expected = fast.encode_flat(SENTENCES, n_threads=2)[0].tolist()
    copy = pickle.loads(pickle.dumps(fast))
    assert copy.encode_flat(SENTENCES)[0].tolist() == expected
    assert (copy.model_max_length, copy.pieces) == (48, fast.pieces)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(_encode_in_child, (fast,)) == [expected, expected]
    with ThreadPoolExecutor(4) as threads:
        for result in threads.map(lambda n: fast.encode_flat(SENTENCES, n_threads=n), [1, 2, 3, 1] * 4):
            assert result[0].tolist() == expected


def test_documents_are_text_throughout(fast: FastWordPieceTokenizer) -> None:
    ids, _ = encode_documents(fast, ["[MASK]"])
    assert ids.tolist() == fast.convert_tokens_to_ids(["[", "m", "##a", "##s", "##k", "]"])


# Errors


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (["a"], {"padding": "longer"}, "padding is 'longer', not one of longest, max_length"),
        (["a"], {"truncation": "first"}, "truncation is 'first'"),
        (["a"], {"return_tensors": "tf"}, "return_tensors is 'tf'"),
        (["a"], {"max_length": 1, "truncation": True}, "max_length 1 leaves no room for 2 special tokens"),
        (
            ["a b c d"],
            {"max_length": 4, "truncation": True, "stride": 2},
            r"text 0: stride 2 is not below the 2",
        ),
        (
            ["a"],
            {"max_length": 9, "truncation": True, "padding": True, "pad_to_multiple_of": 8},
            "max_length 9 is no multiple of pad_to_multiple_of 8",
        ),
        (["a"], {"stride": -1}, "stride is -1; give 0 or more"),
        (["a"], {"stride": 1.5}, "stride is 1.5; give a whole number"),
        (["a"], {"max_length": -1}, "max_length is -1; give 0 or more"),
        (["a"], {"pad_to_multiple_of": 0, "padding": True}, "pad_to_multiple_of is 0; give 1 or more"),
        (["a"], {"pad_to_multiple_of": -8}, "pad_to_multiple_of is -8"),
        (["secret"], {"n_threads": -2}, "n_threads is -2; give 1 or more$"),
        (["secret"], {"n_threads": 2**70}, "n_threads is 1180591620717411303424; give 4096 or less$"),
        (["secret"], {"n_threads": "2"}, "n_threads is '2'; give a whole number$"),
        (["a"], {"text_pair": ["b", "c"]}, "text_pair is 2 texts, text has 1 texts"),
        (["a"], {"text_pair": "b"}, "text_pair is one str"),
        ([("a", "b"), "c"], {}, r"text\[1\] is no pair of texts"),
        ([1], {}, r"texts\[0\] is not a str"),
        (1, {}, r"text is of type int|not a str"),
    ],
)
def test_bad_calls(fast: FastWordPieceTokenizer, texts: Any, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fast(texts, **options)


def test_a_dictionary_goes_by_id() -> None:
    theirs = peer(PIECES)
    shuffled = dict(sorted(theirs.get_vocab().items(), reverse=True))
    assert list(shuffled) != PIECES
    ours = FastWordPieceTokenizer(shuffled)
    assert ours.pieces == PIECES
    assert ours.encode(TEXT) == theirs.encode(TEXT)
    assert ours.with_pieces(shuffled).pieces == PIECES
    for ids, message in [
        ({"[UNK]": 0, "a": 2}, "the id of 'a' is 2; 2 pieces have the ids 0 to 1, without a gap"),
        ({"[UNK]": 0, "a": -1}, "the id of 'a' is -1"),
        ({"[UNK]": 0, "a": 0}, r"'\[UNK\]' and 'a' both have the id 0"),
        ({"[UNK]": 0, "a": "1"}, "the id of 'a' is '1'; give a whole number"),
    ]:
        with pytest.raises(InputError, match=message):
            FastWordPieceTokenizer(ids)  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [1, 5, 20, 150])
def test_longest_word_as_the_model_says(limit: int) -> None:
    theirs = peer(PIECES)
    theirs.backend_tokenizer.model.max_input_chars_per_word = limit
    ours = FastWordPieceTokenizer.from_tokenizer(theirs)
    texts = ["a" * n for n in (1, 19, 20, 21, 99, 100, 101, 149, 150, 151)] + ["É" * n for n in (20, 21)]
    compare((ours, theirs), texts)
    with pytest.raises(InputError, match=rf"max_input_chars_per_word is {limit}; .* BERT's 100"):
        build_vocabulary(theirs, [], size=10_000)


def test_models_that_are_none_of_berts() -> None:
    from tokenizers.models import WordPiece

    ids = {piece: number for number, piece in enumerate(PIECES)}
    theirs = peer(PIECES)
    theirs.backend_tokenizer.model = WordPiece(ids, unk_token="[UNK]", continuing_subword_prefix="@@")
    with pytest.raises(InputError, match="continuation pieces start with '@@', not '##'"):
        FastWordPieceTokenizer.from_tokenizer(theirs)
    theirs = peer(PIECES)
    theirs.backend_tokenizer.model = WordPiece(ids, unk_token="the")
    with pytest.raises(InputError, match=r"unk_token is '\[UNK\]', but its WordPiece model gives 'the'"):
        FastWordPieceTokenizer.from_tokenizer(theirs)
    theirs.unk_token = None
    ours = FastWordPieceTokenizer.from_tokenizer(theirs)
    assert ours.encode("\u20ac") == theirs.encode("\u20ac") == [2, PIECES.index("the"), 3]


def test_bad_vocabularies(tmp_path: Path) -> None:
    for vocabulary, message in [
        (["[UNK]", "a\ud800"], "piece 1 holds half of a surrogate pair at character 1"),
        (["[UNK]", 3], "piece 1 is 3, not a str"),
        (3, "the vocabulary is 3; give a list of pieces"),
    ]:
        with pytest.raises(InputError, match=message):
            FastWordPieceTokenizer(vocabulary)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="lowercase is 'false'; give True or False"):
        FastWordPieceTokenizer(TINY, lowercase="false")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="n_threads is 0"):
        FastWordPieceTokenizer(TINY, n_threads=0)
    with pytest.raises(InputError, match=r"no \[UNK\]"):
        FastWordPieceTokenizer(["a"])
    with pytest.raises(InputError, match="'a' appears twice"):
        FastWordPieceTokenizer(["[UNK]", "a", "a"])
    with pytest.raises(InputError, match=r"no \[CLS\] and no \[SEP\]"):
        FastWordPieceTokenizer(["[UNK]", "a"])("a")
    assert FastWordPieceTokenizer(["[UNK]", "a"])("a", add_special_tokens=False)["input_ids"] == [1]
    with pytest.raises(InputError, match=r"no \[PAD\]"):
        FastWordPieceTokenizer([*TINY[1:], "é"])(["a", "a b"], padding=True)
    with pytest.raises(InputError, match="no such directory"):
        FastWordPieceTokenizer(tmp_path / "nowhere")
    with pytest.raises(InputError, match="give a list of str"):
        FastWordPieceTokenizer(TINY).encode_flat("one text")


def test_tokens_found_by_other_rules_are_refused(tmp_path: Path) -> None:
    from tokenizers import AddedToken, processors

    theirs = load_tokenizer(write_base(tmp_path / "base"))
    theirs.add_tokens([AddedToken("treat", lstrip=True, normalized=False)])
    with pytest.raises(InputError, match="'treat' is looked for with lstrip"):
        FastWordPieceTokenizer.from_tokenizer(theirs)
    other = load_tokenizer(tmp_path / "base")
    other.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0", pair="[CLS]:0 $A:0 $B:1", special_tokens=[("[CLS]", 2)]
    )
    with pytest.raises(InputError, match="other special tokens around a text"):
        FastWordPieceTokenizer.from_tokenizer(other)
