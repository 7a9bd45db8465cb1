from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from transformers import AutoTokenizer

from edad_fast import vocab
from edad_fast.errors import InputError
from edad_fast.vocabulary import (
    MergedVocabulary,
    WordCounts,
    build_tokenizer,
    build_vocabulary,
    decompose,
    encode_documents,
    extend_vocabulary,
    learn_wordpieces,
    load_tokenizer,
    merge_vocabularies,
    piece_counts,
    read_vocab,
    save_tokenizer,
    vocabulary_of,
    write_vocab,
)
from edad_fast.vocabulary import build as build_module
from edad_fast.vocabulary import counts as counts_module

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,-()[]"
TINY = [*SPECIAL, *LETTERS, *(f"##{c}" for c in LETTERS if c.isalnum()), "the", "##ing", "treat"]
TEXT = (
    "The treatment of hepatitis and of nephritis: treating hepatitis (in 12 patients) with interleukin-2. "
    "Nephritis, hepatitis and gastritis are treated with interleukin. Patients with gastritis were treated. "
) * 5
CASED_TEXT = TEXT + "BRCA1 and TP53 are genes; BRCA1 is mutated. " * 5


def greedy(word: str, pieces: set[str]) -> list[str]:
    """BERT's greedy longest-match-first segmentation as published: an independent check of the native one."""
    if len(word) > 100:
        return ["[UNK]"]
    result, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in pieces:
                result.append(piece)
                start = end
                break
        else:
            return ["[UNK]"]
    return result


def counts_of(*texts: str, lowercase: bool = True) -> WordCounts:
    return WordCounts.from_documents(texts, lowercase=lowercase)


@pytest.fixture
def base_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    write_vocab(folder / "vocab.txt", TINY)
    return folder


# Counting


@pytest.mark.parametrize("lowercase", [True, False])
@settings(max_examples=200)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_counts_equal_berts_pre_tokens(lowercase: bool, text: str) -> None:
    # Spaces, marks and controls are rare in random text: put some in.
    for joiner in ("", " ", "\u0301", "\x1f", "\u2028", "\n"):
        whole = f"A{joiner}{text}{joiner}é中.{joiner}{text}"
        normalised = BertNormalizer(lowercase=lowercase).normalize_str(whole)
        expected = Counter(word for word, _ in BertPreTokenizer().pre_tokenize_str(normalised))
        assert counts_of(whole, lowercase=lowercase).counts == dict(expected)


def test_counts_equal_berts_pre_tokens_on_real_text(shared: Path) -> None:
    from edad_fast.corpus import iter_documents

    lines = [d.text for d in iter_documents([shared / "data/corpus/valid.txt.xz"])][:40]
    for lowercase in (True, False):
        expected: Counter[str] = Counter()
        for line in lines:
            normalised = BertNormalizer(lowercase=lowercase).normalize_str(line)
            expected.update(word for word, _ in BertPreTokenizer().pre_tokenize_str(normalised))
        assert counts_of(*lines, lowercase=lowercase).counts == dict(expected)


def test_counts_merge_and_do_not_depend_on_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = counts_of(TEXT, CASED_TEXT)
    parts = counts_of(TEXT)
    parts.update(counts_of(CASED_TEXT))
    assert parts.counts == whole.counts
    assert parts.total_words == whole.total_words == sum(whole.values())
    monkeypatch.setattr(counts_module, "_MAX_CHUNKS", 3)
    assert counts_of(TEXT, CASED_TEXT).counts == whole.counts
    ranked = whole.most_common()
    assert ranked == sorted(ranked, key=lambda item: (-item[1], item[0]))
    assert ranked[0][1] == max(whole.values())


# Learning


def test_learned_pieces_are_alphabet_then_merges_and_never_special() -> None:
    counts = counts_of(TEXT + " [MASK] [UNK] " * 20)
    pieces = learn_wordpieces(counts, 200)
    assert len(set(pieces)) == len(pieces) <= 200
    bodies = [len(piece.removeprefix("##")) for piece in pieces]
    first_merge = next(place for place, length in enumerate(bodies) if length > 1)
    assert all(length == 1 for length in bodies[:first_merge])
    assert all(length > 1 for length in bodies[first_merge:])
    assert not set(SPECIAL) & set(pieces)
    assert "hepatitis" in pieces
    # A smaller vocabulary is the beginning of a larger one.
    assert learn_wordpieces(counts, 120) == pieces[:120]


def test_frequency_decides_the_first_merge() -> None:
    pieces = learn_wordpieces(WordCounts({"ab": 5, "cd": 9, "xcd": 1, "ef": 1}), 100, min_frequency=2)
    merges = [piece for piece in pieces if len(piece.removeprefix("##")) > 1]
    assert merges == ["cd", "ab"]
    assert "e" not in pieces
    assert "x" not in pieces


def test_learning_leaves_out_rare_characters_and_endless_words() -> None:
    counts = WordCounts({"abc": 9, "bcd": 8, "q": 1, "aqb": 7, "z" * 101: 50, "y" * 100: 50})
    pieces = learn_wordpieces(counts, 60, limit_alphabet=5)
    assert "z" * 101 not in pieces
    assert not any("q" in piece for piece in pieces)
    # Without "q" the word aqb must not be read as ab.
    assert "ab" not in learn_wordpieces(WordCounts({"aqb": 7, "ac": 50, "bd": 50}), 60, limit_alphabet=4)


def test_same_counts_same_pieces_whatever_order_threads_and_hash_seed() -> None:
    words = list(counts_of(CASED_TEXT, TEXT[::-1], TEXT.replace("e", "o")).items())
    random.Random(1).shuffle(words)
    code = (
        "import json, sys; from edad_fast.vocabulary import learn_wordpieces;"
        "print(json.dumps(learn_wordpieces(dict(json.load(sys.stdin)), 400)))"
    )
    environment = {
        **os.environ,
        "RAYON_NUM_THREADS": "4",
        "PYTHONHASHSEED": "2",
        "TOKENIZERS_PARALLELISM": "true",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(words), capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    words.reverse()
    assert json.loads(done.stdout) == learn_wordpieces(dict(words), 400)


def test_huge_counts_are_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = counts_of(TEXT)
    expected = learn_wordpieces(counts, 150)
    monkeypatch.setattr(build_module, "_MAX_WORDS_FED", counts.total_words)
    huge = WordCounts({word: count * 10**9 for word, count in counts.items()})
    assert learn_wordpieces(huge, 150) == expected


def test_unknown_criterion() -> None:
    with pytest.raises(InputError, match="criterion 'magic' is unknown"):
        learn_wordpieces(WordCounts({"a": 3}), 5, criterion="magic")


# Merging


def check_merged(merged: MergedVocabulary, general: list[str], counts: WordCounts, size: int) -> None:
    assert merged.pieces[: len(general)] == general
    assert len(merged.pieces) == len(set(merged.pieces)) == size
    known = set(merged.pieces)
    produced = {piece for word in counts for piece in greedy(word, known)}
    assert set(merged.added) <= produced


def test_merge_keeps_general_ids_and_adds_no_unreachable_piece() -> None:
    counts = counts_of(TEXT)
    learned = learn_wordpieces(counts, 300)
    merged = merge_vocabularies(TINY, learned, counts, size=len(TINY) + 12)
    check_merged(merged, TINY, counts, len(TINY) + 12)
    assert merged.removed_unreachable > 0
    # Learning order is kept.
    assert [piece for piece in learned if piece in merged.added] == merged.added


_WORDS = st.dictionaries(st.text("abc", min_size=1, max_size=8), st.integers(1, 50), min_size=1, max_size=40)


@settings(max_examples=150)
@given(words=_WORDS, new=st.integers(0, 30))
def test_merge_is_exact_or_says_what_the_corpus_supports(words: dict[str, int], new: int) -> None:
    counts = WordCounts(words)
    general = [*SPECIAL, "a", "b", "c", "##a", "##b", "##c", "ab", "##bc"]
    try:
        merged = extend_vocabulary(general, counts, len(general) + new)
    except InputError as error:
        supported = int(str(error).split("supports: ")[1].split()[0])
        assert supported < len(general) + new
        check_merged(extend_vocabulary(general, counts, supported), general, counts, supported)
    else:
        check_merged(merged, general, counts, len(general) + new)


def test_candidates_that_no_word_uses_are_topped_up() -> None:
    counts = WordCounts({"abcd": 5, "xy": 3})
    general = [*SPECIAL, *"abcdxy", *(f"##{c}" for c in "abcdxy")]
    merged = merge_vocabularies(general, ["ab", "abc", "zz", "abcd", "xy"], counts, size=len(general) + 2)
    assert merged.added == ["abcd", "xy"]
    assert merged.removed_unreachable == 3
    with pytest.raises(
        InputError, match=rf"supports: {len(general) + 2} pieces \({len(general)} general and 2 new\)"
    ):
        merge_vocabularies(general, ["ab", "abc", "zz", "abcd", "xy"], counts, size=len(general) + 3)


def test_size_below_the_general_vocabulary() -> None:
    with pytest.raises(InputError, match=rf"size 10 is below the general vocabulary's {len(TINY)} pieces"):
        merge_vocabularies(TINY, [], WordCounts({"a": 1}), size=10)


def test_general_vocabulary_without_unknown_token() -> None:
    with pytest.raises(InputError, match=r"no \[UNK\]"):
        merge_vocabularies(["a"], ["b"], WordCounts({"b": 1}), size=2)


def test_piece_counts() -> None:
    counts = WordCounts({"abb": 5, "b": 2, "é": 4})
    pieces = ["[UNK]", "a", "b", "##b"]
    assert piece_counts(pieces, counts).tolist() == [4, 5, 2, 10]


def test_decompose() -> None:
    added = ["treats", "##tis", "pain", "é", "##é"]
    general = TINY
    ids = {piece: number for number, piece in enumerate(general)}
    split = [[ids["treat"], ids["##s"]], [ids["##t"], ids["##i"], ids["##s"]]]
    split += [[ids[piece] for piece in ("p", "##a", "##i", "##n")], [ids["[UNK]"]], [ids["[UNK]"]]]
    assert decompose(added, general) == split


# vocab.txt


def test_vocab_file_round_trip(tmp_path: Path) -> None:
    pieces = ["[UNK]", "a", "\u2028", "\x85", "##é", "½", "#"]
    write_vocab(tmp_path / "vocab.txt", pieces)
    assert read_vocab(tmp_path / "vocab.txt") == pieces
    (tmp_path / "crlf.txt").write_bytes(b"a\r\nb\r\n")
    assert read_vocab(tmp_path / "crlf.txt") == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\na\n", r"'a' is on line 1 and again on line 3"),
        (b"a\n\nb\n", r"line 2 is empty"),
        (b"a\n\n", r"line 2 is empty"),
        (b"", r"line 1 is empty"),
        (b"a\n\xff\n", r"invalid UTF-8 at byte 2"),
    ],
)
def test_bad_vocab_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_vocab(path)
    assert str(path) in str(error.value)


def test_absent_vocab_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.txt: cannot be read"):
        read_vocab(tmp_path / "nowhere.txt")


# Tokenizers

HARD = [
    "The treatment of Hépatitis-B (p < 0.05) 中文 [MASK] [SEP]x  \t\u00a0 naïve e\u0301 ﬁ İstanbul ẞ "
    + "z" * 101,
    "",
    "treating hepatitis",
]


def same_ids(first: object, second: object, texts: list[str]) -> None:
    for text in texts:
        one, two = first(text, text[::-1]), second(text, text[::-1])  # type: ignore[operator]
        assert dict(one) == dict(two)
        assert set(one) == {"input_ids", "token_type_ids", "attention_mask"}


@pytest.mark.parametrize("lowercase", [True, False])
def test_saved_tokenizer_gives_the_same_ids_in_auto_tokenizer(tmp_path: Path, lowercase: bool) -> None:
    general = TINY if lowercase else [*TINY, "A", "B", "T"]
    write_vocab(tmp_path / "general.txt", general)
    base = load_tokenizer(tmp_path / "general.txt")
    assert base.backend_tokenizer.normalizer.lowercase is lowercase
    text = CASED_TEXT
    counts = counts_of(text, lowercase=lowercase)
    merged = extend_vocabulary(general, counts, len(general) + 15)
    tokenizer = build_tokenizer(base, merged.pieces)
    save_tokenizer(tokenizer, tmp_path / "saved")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "saved")
    same_ids(tokenizer, loaded, [text, *HARD])
    assert len(loaded) == len(merged.pieces)
    assert loaded.get_added_vocab().keys() <= set(SPECIAL)
    assert loaded.mask_token_id == merged.pieces.index("[MASK]")
    assert read_vocab(tmp_path / "saved/vocab.txt") == merged.pieces
    assert vocabulary_of(load_tokenizer(tmp_path / "saved")) == merged.pieces
    same_ids(tokenizer, load_tokenizer(tmp_path / "saved"), [text, *HARD])
    # Every id is the one that the published algorithm gives.
    known = set(merged.pieces)
    words = [
        word
        for word, _ in BertPreTokenizer().pre_tokenize_str(
            base.backend_tokenizer.normalizer.normalize_str(text)
        )
    ]
    expected = [merged.pieces.index(piece) for word in words for piece in greedy(word, known)]
    assert loaded(text, add_special_tokens=False)["input_ids"] == expected


def test_new_pieces_do_not_cut_words(base_dir: Path) -> None:
    base = load_tokenizer(base_dir)
    tokenizer = build_tokenizer(base, [*TINY, "ment"])
    assert tokenizer.tokenize("treatment ment") == ["treat", "##m", "##e", "##n", "##t", "ment"]


def test_truncation_and_padding_of_the_teacher_are_neutralised(base_dir: Path, tmp_path: Path) -> None:
    save_tokenizer(load_tokenizer(base_dir), tmp_path / "baked")
    path = tmp_path / "baked" / "tokenizer.json"
    definition = json.loads(path.read_text())
    definition["truncation"] = {
        "max_length": 8,
        "strategy": "LongestFirst",
        "stride": 0,
        "direction": "Right",
    }
    definition["padding"] = {
        "strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
    }  # fmt: skip
    path.write_text(json.dumps(definition))
    text = "the treat " * 20
    for tokenizer in (
        load_tokenizer(tmp_path / "baked"),
        build_tokenizer(load_tokenizer(tmp_path / "baked"), TINY),
    ):
        assert len(tokenizer(text)["input_ids"]) == 42
        assert len(tokenizer("the")["input_ids"]) == 3
        assert len(tokenizer.backend_tokenizer.encode(text).ids) == 42
        save_tokenizer(tokenizer, tmp_path / "again")
        saved = json.loads((tmp_path / "again/tokenizer.json").read_text())
        assert saved["truncation"] is None
        assert saved["padding"] is None


def test_encode_documents(base_dir: Path) -> None:
    tokenizer = load_tokenizer(base_dir)
    # Leaves truncation and padding switched on in the backend.
    tokenizer(["the", "the the the"], truncation=True, max_length=3, padding=True)
    documents = ["the treating", "", "[MASK] the", "a" * 101] * 100
    ids, offsets = encode_documents(tokenizer, documents)
    assert ids.dtype == np.int32
    assert offsets.dtype == np.int64
    assert offsets.shape == (401,)
    rows = [[TINY[i] for i in ids[offsets[n] : offsets[n + 1]]] for n in range(400)]
    assert rows[:4] == [["the", "treat", "##ing"], [], ["[", "m", "##a", "##s", "##k", "]", "the"], ["[UNK]"]]
    assert rows == rows[:4] * 100
    # Encoding left the tokenizer as it was.
    assert tokenizer("[MASK]")["input_ids"] == [2, 4, 3]
    ids, offsets = encode_documents(tokenizer, [])
    assert (ids.size, offsets.tolist()) == (0, [0])


def test_vocabulary_order_decides_ids_and_specials_follow(base_dir: Path) -> None:
    base = load_tokenizer(base_dir)
    turned = build_tokenizer(base, TINY[::-1])
    assert turned("the")["input_ids"] == [TINY[::-1].index(piece) for piece in ("[CLS]", "the", "[SEP]")]
    with pytest.raises(InputError, match=r"lacks \[MASK\]"):
        build_tokenizer(base, [piece for piece in TINY if piece != "[MASK]"])
    with pytest.raises(InputError, match="'the' twice"):
        build_tokenizer(base, [*TINY, "the"])


def test_teacher_without_tokenizer_or_not_a_bert(base_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: no tokenizer: neither tokenizer\.json nor vocab\.txt"):
        load_tokenizer(tmp_path / "empty")
    with pytest.raises(InputError, match="no such directory"):
        load_tokenizer(tmp_path / "nowhere")
    save_tokenizer(load_tokenizer(base_dir), tmp_path / "other")
    path = tmp_path / "other" / "tokenizer.json"
    definition = json.loads(path.read_text())
    definition["pre_tokenizer"] = {"type": "Whitespace"}
    path.write_text(json.dumps(definition))
    (tmp_path / "other/tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(InputError, match="not a BERT tokenizer: its pre_tokenizer is Whitespace"):
        load_tokenizer(tmp_path / "other")
    path.write_text("{")
    with pytest.raises(InputError, match="no tokenizer could be loaded"):
        load_tokenizer(tmp_path / "other")
    write_vocab(tmp_path / "bare.txt", ["[UNK]", "a"])
    with pytest.raises(InputError, match=r"bare\.txt: no .*\[MASK\]"):
        load_tokenizer(tmp_path / "bare.txt")


def test_added_tokens_outside_the_model_are_refused(base_dir: Path) -> None:
    tokenizer = load_tokenizer(base_dir)
    tokenizer.add_tokens(["interleukin"])
    with pytest.raises(InputError, match=r"added token.*'interleukin'"):
        vocabulary_of(tokenizer)


# The whole step, and the entry point


def test_build_vocabulary(base_dir: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "c.jsonl"
    corpus.write_text(json.dumps({"body": TEXT}) + "\n")
    base = load_tokenizer(base_dir)
    size = len(TINY) + 10
    merged = build_vocabulary(base, [corpus], size=size, text_field="body")
    check_merged(merged, TINY, counts_of(TEXT), size)
    assert build_vocabulary(base, [corpus]).added == []
    assert build_vocabulary(base, [corpus], size=len(TINY)).pieces == TINY
    with pytest.raises(InputError, match="below the general"):
        build_vocabulary(base, [tmp_path / "not read.txt"], size=3)
    with pytest.raises(InputError, match="more than the corpus supports"):
        build_vocabulary(base, [corpus], size=100_000, text_field="body")


def test_ready_vocabulary_starts_with_the_teachers(base_dir: Path, tmp_path: Path) -> None:
    base = load_tokenizer(base_dir)
    path = tmp_path / "v.txt"
    write_vocab(path, [*TINY, "hepatitis", "##)."])
    merged = build_vocabulary(base, [], vocab_file=path)
    assert merged.added == ["hepatitis", "##)."]
    write_vocab(path, [*TINY[:6], "odd", *TINY[7:]])
    with pytest.raises(
        InputError, match=rf"v\.txt: line 7 is 'odd', the teacher's vocabulary has {TINY[6]!r}"
    ):
        build_vocabulary(base, [], vocab_file=path)
    write_vocab(path, TINY[:-1])
    with pytest.raises(InputError, match=r"fewer than the teacher's"):
        build_vocabulary(base, [], vocab_file=path)


def test_entry_point_reports_and_writes(
    base_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "c.txt"
    corpus.write_text(TEXT)
    size = len(TINY) + 16
    flags = ["--base", str(base_dir), "--corpus", str(corpus), "--output_dir", str(tmp_path / "out")]
    assert vocab.main([*flags, "--size", str(size)]) == 0
    shown = capsys.readouterr().out
    assert "16 new" in shown
    assert "unreachable pieces  0 " in shown
    assert "hepatitis" in shown
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == size
    shutil.rmtree(tmp_path / "out")
    for bad, message in [
        ("10", "below the general"),
        ("auto", "such as 40000"),
        ("99999", "corpus supports"),
    ]:
        assert vocab.main([*flags, "--size", bad]) == 2
        assert message in capsys.readouterr().err
    assert vocab.main([*flags[:2], "--corpus", "no*.txt", *flags[4:], "--size", str(size)]) == 2
    assert "no file matches" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_real_teacher(shared: Path, tmp_path: Path) -> None:
    base = load_tokenizer(shared / "data/models/minilm-l6-h384-uncased")
    general = read_vocab(shared / "data/vocab/bert_base_uncased_vocab.txt")
    assert vocabulary_of(base) == general
    merged = build_vocabulary(base, [shared / "data/corpus/valid.txt.xz"], size=32_000)
    assert len(merged.pieces) == 32_000
    tokenizer = build_tokenizer(base, merged.pieces)
    save_tokenizer(tokenizer, tmp_path)
    same_ids(tokenizer, AutoTokenizer.from_pretrained(tmp_path), [CASED_TEXT, *HARD])
    splits = decompose(merged.added, general)
    assert all(splits)
    # The published list has an empty line between the general pieces and its own.
    published = shared / "data/vocab/exbert_vocab.txt"
    with pytest.raises(InputError, match=r"line 30523 is empty.*\[unused30522\]"):
        build_vocabulary(base, [], vocab_file=published)
    text = published.read_text(encoding="utf-8").replace("\n\n", "\n[unused30522]\n")
    (tmp_path / "exbert.txt").write_text(text, encoding="utf-8")
    ready = build_vocabulary(base, [], vocab_file=tmp_path / "exbert.txt")
    assert (len(ready.pieces), len(ready.added)) == (48_180, 17_658)
