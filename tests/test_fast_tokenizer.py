# ruff: noqa: RUF001  (characters that look alike are what is tested)
"""FastWordPieceTokenizer against transformers' BertTokenizerFast, and its own ways in and out."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import pickle
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_vocabulary import CASED_TEXT, HARD, TEXT, TINY, write_base
from transformers import BatchEncoding, BertTokenizerFast, DataCollatorWithPadding

from edad_fast.errors import InputError
from edad_fast.vocabulary import (
    FastWordPieceTokenizer,
    build_vocabulary,
    encode_documents,
    load_tokenizer,
    save_tokenizer,
    write_vocab,
)

PIECES = [
    *TINY,
    "é",
    "##é",
    "中",
    "i̇",
    "ı",
    "##ß",
    "ß",
    "σ",
    "##σ",
    "##ς",
    "[unused0]",
    "!",
    "hep",
    "##atitis",
]
CASED_PIECES = [*PIECES, "A", "B", "T", "The", "##A", "É"]
HOSTILE = [
    *HARD,
    "\u200b \u00ad\ufeff\x00\x01 a\x07b \ufffd",
    "[CLS] [SEP][MASK][mask] [UNK]x[PAD] [MASK",
    "e\u0301e\u0327\u0301 \u1e9b\u0323 \uac00\u1100\u1161 ﬁ Å Ω ſ",
    "a\u2028b\u2029c\u0085d\u00a0e\u3000f\tg\r\nh",
    "\U0001f600\U0001f468\u200d\U0001f469 \U0002b820\U0002b920 \ue000 \U000e0001",
    "ΑΣ Σ ΟΔΟΣ İI ı ß ẞ ﬀ K",
    "（ｆｕｌｌ）１２ ｶﾞ 中文ab!!,,¿¡«»“”…‰",
    "x" * 99 + " " + "x" * 100 + " " + "x" * 101 + " " + "é" * 60,
    " ",
    "the " * 70,
]
SHORT = [TEXT[:60], "the treating", *(text[:24] for text in HOSTILE)]
SENTENCES = [TEXT, CASED_TEXT, *HOSTILE, "hepatitis"]


def peer(pieces: list[str], lowercase: bool = True) -> Any:
    options: dict[str, Any] = {"do_lower_case": lowercase, "model_max_length": 48}
    if transformers.__version__.startswith("4."):
        with tempfile.TemporaryDirectory() as folder:
            write_vocab(Path(folder) / "vocab.txt", pieces)
            return BertTokenizerFast(vocab_file=str(Path(folder) / "vocab.txt"), **options)
    return BertTokenizerFast(vocab={piece: number for number, piece in enumerate(pieces)}, **options)


@pytest.fixture(scope="module", params=[True, False], ids=["uncased", "cased"])
def both(request: pytest.FixtureRequest) -> tuple[FastWordPieceTokenizer, Any]:
    pieces = PIECES if request.param else CASED_PIECES
    return FastWordPieceTokenizer(pieces, request.param, model_max_length=48), peer(pieces, request.param)


@pytest.fixture(scope="module")
def fast() -> FastWordPieceTokenizer:
    return FastWordPieceTokenizer(PIECES, model_max_length=48)


def check_same(ours: Any, theirs: Any) -> None:
    """Same keys in the same order, same values of the same types, same words, sequences and tokens."""
    assert list(ours) == list(theirs)
    for key in theirs:
        if hasattr(theirs[key], "shape"):
            assert type(ours[key]) is type(theirs[key])
            assert (ours[key].dtype, ours[key].shape) == (theirs[key].dtype, theirs[key].shape)
            assert ours[key].tolist() == theirs[key].tolist(), key
        else:
            assert ours[key] == theirs[key], key
    assert ours.n_sequences in (theirs.n_sequences, 2)  # a pair cut to nothing counts as one sequence there
    for row, encoding in enumerate(theirs.encodings):
        assert ours.word_ids(row) == encoding.word_ids
        assert ours.sequence_ids(row) == encoding.sequence_ids
        assert ours.tokens(row) == encoding.tokens


ALL = {"return_offsets_mapping": True, "return_special_tokens_mask": True, "return_length": True}


def compare(both: tuple[FastWordPieceTokenizer, Any], *texts: Any, **options: Any) -> None:
    ours, theirs = both
    check_same(ours(*texts, **options, **ALL), theirs(*texts, **options, **ALL))


# The same as transformers


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("padding", [False, True, "max_length"])
def test_rows(both: tuple[FastWordPieceTokenizer, Any], padding: Any, special: bool) -> None:
    compare(both, SENTENCES, padding=padding, add_special_tokens=special)
    compare(both, SENTENCES, SENTENCES[::-1], padding=padding, add_special_tokens=special)
    compare(both, list(zip(SENTENCES, SENTENCES[::-1], strict=True)), padding=padding)
    for text in HOSTILE:
        compare(both, text, padding=padding, add_special_tokens=special)
        compare(both, text, "the treating", padding=padding, add_special_tokens=special)
        compare(both, text, "", padding=padding)


@pytest.mark.parametrize("max_length", [None, 2, 3, 5, 16])
@pytest.mark.parametrize("side", ["right", "left"])
def test_truncation(both: tuple[FastWordPieceTokenizer, Any], max_length: int | None, side: Any) -> None:
    ours, theirs = both
    ours.truncation_side = theirs.truncation_side = side
    try:
        for stride, padding, overflow in [(0, True, True), (1, False, True), (3, True, False)]:
            options: dict[str, Any] = {
                "max_length": max_length, "truncation": True, "stride": stride, "padding": padding,
                "return_overflowing_tokens": overflow,
            }  # fmt: skip
            content = (max_length or 48) - 2
            if stride == 0 or stride < content:
                compare(both, SENTENCES, **options)
            if (max_length or 48) > 3 and stride < (content - 1) // 2:
                compare(both, SHORT, SHORT[::-1], **options)
                compare(both, SHORT[0], SHORT[1], **options)
    finally:
        ours.truncation_side = theirs.truncation_side = "right"


@functools.cache
def made(lowercase: bool) -> tuple[FastWordPieceTokenizer, Any]:
    pieces = PIECES if lowercase else CASED_PIECES
    return FastWordPieceTokenizer(pieces, lowercase), peer(pieces, lowercase)


@settings(max_examples=150, deadline=None)
@given(
    first=st.lists(st.integers(0, 30), min_size=1, max_size=5),
    second=st.lists(st.integers(0, 30), min_size=5, max_size=5),
    strategy=st.sampled_from(["longest_first", "only_first", "only_second"]),
    options=st.fixed_dictionaries(
        {
            "max_length": st.integers(3, 24),
            "stride": st.integers(0, 4),
            "padding": st.sampled_from([False, True, "max_length"]),
            "padding_side": st.sampled_from(["left", "right"]),
            "return_overflowing_tokens": st.booleans(),
            "add_special_tokens": st.booleans(),
        }
    ),
    side=st.sampled_from(["left", "right"]),
)
def test_pairs_of_all_lengths(
    first: list[int], second: list[int], strategy: str, options: dict[str, Any], side: Any
) -> None:
    ours, theirs = made(True)
    ours.truncation_side = theirs.truncation_side = side
    texts = [" ".join("abcdefghij"[n % 10] for n in range(count)) for count in first]
    pairs = [" ".join("klmnopqrst"[n % 10] for n in range(count)) for count in second[: len(first)]]
    try:
        expected = theirs(texts, pairs, truncation=strategy, **options)
    except BaseException as error:
        if "tokenizer stride set" in str(error):
            return  # refused there even where nothing has to be cut
        if "Truncation error" not in str(error) and "stride" not in str(error):
            raise
        with pytest.raises(InputError, match=r"truncation|stride"):
            ours(texts, pairs, truncation=strategy, **options)
    else:
        check_same(ours(texts, pairs, truncation=strategy, **options), expected)


def test_only_first_and_only_second(both: tuple[FastWordPieceTokenizer, Any]) -> None:
    short = ["the treating", "a b", ""]
    for strategy, texts in (("only_first", (SENTENCES[:3], short)), ("only_second", (short, SENTENCES[:3]))):
        for overflow in (True, False):
            options = {"truncation": strategy, "stride": 2, "return_overflowing_tokens": overflow}
            compare(both, *texts, max_length=20, padding=True, **options)
    ours, _ = both
    with pytest.raises(InputError, match=r"text 0: truncation='only_first' would have to remove"):
        ours(short, SENTENCES[:3], truncation="only_first", max_length=20)
    with pytest.raises(InputError, match="only_second"):
        ours(TEXT, truncation="only_second", max_length=20)
    compare(both, "the", truncation="only_second", max_length=20)


@pytest.mark.parametrize("kind", ["np", "pt"])
def test_tensors(both: tuple[FastWordPieceTokenizer, Any], kind: str) -> None:
    options: dict[str, Any] = {"padding": True, "truncation": True, "max_length": 24, "return_tensors": kind}
    compare(both, SENTENCES, **options)
    compare(both, SHORT, SHORT, **options, return_overflowing_tokens=True)
    compare(both, SENTENCES[0], **options)
    compare(
        both, SENTENCES, **{**options, "padding": "max_length"}, pad_to_multiple_of=8, padding_side="left"
    )
    compare(both, "the", return_tensors=kind)
    ours, _ = both
    with pytest.raises(InputError, match=r"3 to 5 tokens and make no tensor; give padding=True"):
        ours(["the", "a b c"], return_tensors=kind)
    empty = ours([], return_tensors=kind)
    assert tuple(empty["input_ids"].shape) == (0, 0)


@pytest.mark.parametrize("choice", list(itertools.product([True, False, None], repeat=2)))
def test_chosen_outputs(both: tuple[FastWordPieceTokenizer, Any], choice: tuple[Any, Any]) -> None:
    compare(both, SENTENCES, return_token_type_ids=choice[0], return_attention_mask=choice[1])


def test_words_given(both: tuple[FastWordPieceTokenizer, Any]) -> None:
    words = [["the", "treat-ment", "", "of Hépatitis", "[MASK]"], ["中文", "a"], []]
    for options in ({}, {"padding": True, "truncation": True, "max_length": 6}):
        compare(both, words, is_split_into_words=True, **options)
        compare(both, words, words[::-1], is_split_into_words=True, return_overflowing_tokens=True, **options)
        compare(both, words[0], is_split_into_words=True, **options)
        compare(both, words[0], words[1], is_split_into_words=True, **options)


def test_special_tokens_in_the_text_as_text(both: tuple[FastWordPieceTokenizer, Any]) -> None:
    compare(both, HOSTILE, split_special_tokens=True)
    compare(both, HOSTILE, split_special_tokens=False)
    ours, _ = both
    assert FastWordPieceTokenizer(PIECES, split_special_tokens=True).tokenize("[MASK]")[0] == "["
    assert ours.tokenize("[MASK]") == ["[MASK]"]


def test_length_without_options_is_unlimited(both: tuple[FastWordPieceTokenizer, Any]) -> None:
    ours, theirs = FastWordPieceTokenizer(PIECES), peer(PIECES)
    theirs.model_max_length = int(1e30)
    for padding in (False, True, "max_length"):
        check_same(
            ours(SENTENCES, truncation=True, padding=padding),
            theirs(SENTENCES, truncation=True, padding=padding),
        )


def test_vocabulary_methods(both: tuple[FastWordPieceTokenizer, Any]) -> None:
    ours, theirs = both
    assert ours.get_vocab() == theirs.get_vocab()
    assert (ours.vocab_size, len(ours)) == (theirs.vocab_size, len(theirs))
    for name in ("cls", "sep", "pad", "mask", "unk"):
        assert getattr(ours, f"{name}_token_id") == getattr(theirs, f"{name}_token_id")
        assert getattr(ours, f"{name}_token") == getattr(theirs, f"{name}_token")
    assert sorted(ours.all_special_ids) == sorted(theirs.all_special_ids)
    assert ours.convert_tokens_to_ids(["the", "nothing"]) == theirs.convert_tokens_to_ids(["the", "nothing"])
    assert ours.convert_tokens_to_ids("the") == theirs.convert_tokens_to_ids("the")
    ids = ours.encode(CASED_TEXT)
    assert ids == theirs.encode(CASED_TEXT)
    assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)
    assert ours.convert_ids_to_tokens(5) == theirs.convert_ids_to_tokens(5)
    for skip in (True, False):
        assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
        assert ours.batch_decode([ids[:9], ids], skip) == theirs.batch_decode(
            [ids[:9], ids], skip_special_tokens=skip
        )
    assert ours.decode(torch.tensor(ids)) == theirs.decode(ids)
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        _ = ours.colour


@pytest.mark.parametrize("lowercase", [True, False])
@settings(max_examples=600, deadline=None, derandomize=False, print_blob=True)
@given(
    text=st.text(
        st.one_of(
            st.characters(exclude_categories=["Cs"]),
            st.sampled_from("aT é\u0301[MASK]#中.\x1f\u2028\u200dßİΣ "),
        ),
        max_size=40,
    )
)
def test_any_text(lowercase: bool, text: str) -> None:
    compare(made(lowercase), text)


def test_real_text(shared: Path) -> None:
    """Sentences of papers, tweets and reviews under the vocabulary of a real teacher."""
    from edad_fast.corpus import iter_documents

    theirs = load_tokenizer(shared / "data/models/minilm-l6-h384-uncased")
    ours = FastWordPieceTokenizer.from_tokenizer(theirs)
    documents = iter_documents([shared / "data/corpus/valid.txt.xz"])
    texts = [document.text[:2000] for document in itertools.islice(documents, 40)]
    for folder in ("ner", "sentiment"):
        for file in sorted((shared / "data" / folder).rglob("*.tsv"))[:3]:
            texts += file.read_text(encoding="utf-8").splitlines()[:300]
    assert len(texts) > 300
    compare((ours, theirs), texts)
    compare(
        (ours, theirs), texts, texts[::-1], truncation=True, max_length=64, stride=8, padding=True,
        return_overflowing_tokens=False, return_tensors="np",
    )  # fmt: skip


# What comes back


def answers(result: Any, row: int, tokens: int, characters: int) -> list[Any]:
    """What a BatchEncoding says of every token, word and character of a row, and of some behind its end."""
    words = [number for number in result.word_ids(row) if number is not None]
    found: list[Any] = [
        [method(row, number) for number in range(tokens + 2)]
        for method in (result.token_to_sequence, result.token_to_word, result.token_to_chars)
    ]
    most = max(words, default=0)
    for sequence in range(result.n_sequences):
        found += [result.word_to_tokens(row, n, sequence_index=sequence) for n in range(most)]
        found += [result.char_to_token(row, n, sequence_index=sequence) for n in range(characters)]
        found += [result.char_to_word(row, n, sequence_index=sequence) for n in range(characters)]
    found += [result.word_to_chars(row, n) for n in sorted(set(words)) if result.word_to_tokens(row, n)]
    return found


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
def test_from_tokens_to_words_and_characters_and_back(
    both: tuple[FastWordPieceTokenizer, Any], pair: bool, side: Any
) -> None:
    options: dict[str, Any] = {
        "padding": True, "truncation": True, "max_length": 24, "padding_side": side,
        "return_overflowing_tokens": True, "stride": 2,
    }  # fmt: skip
    texts = [SHORT[:6], SHORT[5::-1]] if pair else [SHORT]
    ours, theirs = (tokenizer(*texts, **options) for tokenizer in both)
    for row, encoding in enumerate(theirs.encodings):
        expected = answers(theirs, row, len(encoding.ids), 60)
        assert answers(ours, row, len(encoding.ids), 60) == expected
        assert ours.words(row) == theirs.word_ids(row)


def test_places_by_number_alone_and_from_the_end(fast: FastWordPieceTokenizer) -> None:
    result = fast(["the treating", "a"], padding=True)
    assert result.token_to_word(2) == result.token_to_word(0, 2) == result.token_to_word(-2, -3) == 1
    assert result.token_to_chars(2) == result.token_to_chars(0, 2) == (4, 9)
    assert result.word_to_tokens(1) == (2, 4)
    assert result.word_to_chars(1) == (4, 12)
    assert (result.char_to_token(11), result.char_to_word(11), result.char_to_token(3)) == (3, 1, None)
    for absent in (result.word_to_tokens(1, 1), result.word_to_chars(7), result.token_to_word(-2, 0)):
        assert absent is None
    assert result.word_to_tokens(-1) is None
    with pytest.raises(IndexError, match="row 2 of 2"):
        result.token_to_word(2, 0)
    with pytest.raises(KeyError, match=r"0: rows have no tokenizers.Encoding here; take tokens\(0\)"):
        result[0]


def test_result_is_a_batch_encoding(fast: FastWordPieceTokenizer) -> None:
    result = fast(["the treating", "a"], padding=True, return_tensors="pt")
    assert isinstance(result, BatchEncoding)
    assert result.to("cpu").input_ids.shape == (2, 5)
    words = [None, 0, 1, 1, None]
    assert result.word_ids() == result.word_ids(-2) == words
    with pytest.raises(IndexError, match="row 2 of 2"):
        result.word_ids(2)
    copy = pickle.loads(pickle.dumps(fast(["the treating", "a"], padding=True, return_tensors="pt")))
    assert copy.word_ids() == words
    assert copy.token_to_chars(2) == (4, 9)
    assert torch.equal(copy["input_ids"], result["input_ids"])
    features = [dict(fast(text)) for text in ("the treating", "a")]
    collated = DataCollatorWithPadding(peer(PIECES))(features)
    assert collated["input_ids"].tolist() == result["input_ids"].tolist()


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
