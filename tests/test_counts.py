"""Counts of words, as BERT's pre-tokenizer cuts them; their tables."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from toy_vocabulary import CASED_TEXT, HARD, TEXT, counts_of

from edad_fast.corpus import Document, blocks
from edad_fast.errors import InputError
from edad_fast.vocabulary import Normalization, WordCounts

LINES = [*TEXT.split(". "), *HARD, "naïve e\u0301 中文 a\u2028b", "x" * 101 + " " + "x" * 100]


def expected(*texts: str, lowercase: bool = True) -> tuple[dict[str, int], int]:
    """Words and counts of `tokenizers`, and the number of words of more than 100 characters."""
    counts: Counter[str] = Counter()
    for text in texts:
        normalised = BertNormalizer(lowercase=lowercase).normalize_str(text)
        counts.update(word for word, _ in BertPreTokenizer().pre_tokenize_str(normalised))
    return (
        {word: count for word, count in counts.items() if len(word) <= 100},
        sum(count for word, count in counts.items() if len(word) > 100),
    )


def check(counts: WordCounts, *texts: str, lowercase: bool = True) -> None:
    words, long_words = expected(*texts, lowercase=lowercase)
    assert dict(counts) == words
    assert list(counts) == sorted(words)
    assert (len(counts), counts.long_words) == (len(words), long_words)
    assert counts.total_words == sum(words.values()) + long_words


@pytest.mark.parametrize("lowercase", [True, False])
@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_counts_equal_berts_pre_tokens(lowercase: bool, text: str) -> None:
    # Spaces, marks and controls are rare in random text: put some in.
    for joiner in ("", " ", "\u0301", "\x1f", "\u2028", "\n"):
        whole = f"A{joiner}{text}{joiner}é中.{joiner}{text}"
        check(counts_of(whole, lowercase=lowercase), whole, lowercase=lowercase)


def test_counts_equal_berts_pre_tokens_on_real_text(shared: Path) -> None:
    from edad_fast.corpus import iter_documents

    lines = [d.text for d in iter_documents([shared / "data/corpus/valid.txt.xz"])][:40]
    for lowercase in (True, False):
        check(counts_of(*lines, lowercase=lowercase), *lines, lowercase=lowercase)


def test_a_mapping() -> None:
    counts = counts_of(TEXT)
    assert counts["hepatitis"] == TEXT.lower().count("hepatitis")
    assert "hepatitis" in counts
    assert "nothing" not in counts
    assert 3 not in counts
    assert counts.get("nothing") is None
    with pytest.raises(KeyError, match="nothing"):
        counts["nothing"]
    assert counts.counts_array().tolist() == list(counts.values())
    ranked = counts.most_common()
    assert ranked == sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    assert counts.most_common(3) == ranked[:3]
    assert pickle.loads(pickle.dumps(counts)) == counts
    assert counts == counts_of(TEXT)
    assert counts != counts_of(TEXT, lowercase=False)
    assert counts != counts_of(TEXT + "a")
    made = WordCounts({"b": 2, "a": 1, "z" * 101: 4})
    assert (dict(made), made.long_words, made.total_words) == ({"a": 1, "b": 2}, 4, 7)
    assert made == {"a": 1, "b": 2}
    for bad, message in [
        ({"a": 0}, "the count of 'a' is 0; give 1 or more"),
        ({"a": 1.5}, "the count of 'a' is 1.5; give a whole number"),
        ({"a": True}, "the count of 'a' is True"),
        ({"a": 2**63}, "the count of 'a' is 9223372036854775808"),
        ({"x" * 101: 2**62, "x" * 102: 2**62}, "words of more than 100 characters is 9223372036854775808"),
        ({3: 1}, "the word 3 is not a str"),
        ({"\ud800": 1}, "surrogates not allowed"),
    ]:
        with pytest.raises(InputError, match=message):
            WordCounts(bad)  # type: ignore[arg-type]
    assert WordCounts({"a": np.int64(3)}) == {"a": 3}  # type: ignore[dict-item]


def test_texts_that_are_none() -> None:
    with pytest.raises(InputError, match="documents is of type str; give a list of str"):
        WordCounts.from_documents("one text")
    with pytest.raises(InputError, match="documents is of type int"):
        WordCounts.from_documents(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"documents\[1025\] is not a str"):
        WordCounts.from_documents(["a"] * 1025 + [None])  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"n_threads is -2; give 1 or more$"):
        WordCounts.from_documents(["a"], n_threads=-2)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_order_sharding_and_threads_do_not_matter(threads: int, tmp_path: Path) -> None:
    whole = counts_of(*LINES)
    check(whole, *LINES)
    shuffled = LINES.copy()
    random.Random(threads).shuffle(shuffled)
    assert WordCounts.from_documents(shuffled, n_threads=threads) == whole
    parts = [WordCounts.from_documents(shuffled[n::3], n_threads=threads) for n in range(3)]
    assert WordCounts.merge(parts) == whole
    assert WordCounts.merge([whole]) == whole
    path = tmp_path / "text.txt"
    path.write_text("\n".join(shuffled), encoding="utf-8")
    assert WordCounts.from_files(path, n_threads=threads) == whole
    assert WordCounts.from_documents([Document(text, "a", 1) for text in LINES]) == whole


# Files


def test_files_of_all_kinds(tmp_path: Path) -> None:
    whole = counts_of(*LINES)
    text = "\n".join(LINES)
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps({"body": line}) for line in LINES))
    for name in ("a.txt", "b.txt.gz", "c.jsonl"):
        assert WordCounts.from_files(tmp_path / name, text_field="body") == whole
    everything = WordCounts.from_files([tmp_path / "*.txt*", tmp_path / "c.jsonl"], text_field="body")
    assert everything == WordCounts.merge([whole] * 3)
    cased = WordCounts.from_files([tmp_path / "a.txt"], normalization=Normalization(lowercase=False))
    check(cased, *LINES, lowercase=False)


@pytest.mark.parametrize("size", [7, 64, 1000])
def test_blocks_do_not_cut_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    text = "\n".join(LINES)
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in LINES))
    monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
    parts = list(blocks.iter_file_blocks(tmp_path / "a.txt"))
    assert b"".join(parts).decode() == text
    assert len(parts) > 1
    for name in ("a.txt", "c.jsonl"):
        assert WordCounts.from_files(tmp_path / name) == counts_of(*LINES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"good\nbad \xff\n", r"a\.txt: invalid UTF-8 at byte 9 \(line 2\)"),
        (b"good\n\nb\0d\n", r"a\.txt: NUL byte at byte 7 \(line 3\)"),
        (b" \n\n \t", r"empty corpus: no text in .*a\.txt"),
        (b"", r"empty corpus"),
        (b"good\n" + b"x" * (1 << 20) + b"\n", r"a\.txt: line 2 is longer than 1 MiB"),
    ],
)
def test_bad_files_are_named_as_in_training(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        WordCounts.from_files(path, max_line_mib=1)


def test_replaced_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\0two \xe2\x82 three\xff")
    counts = WordCounts.from_files(path, encoding_errors="replace")
    assert dict(counts) == {"one": 1, "two": 1, "three": 1}  # BERT drops U+FFFD
    path.write_bytes(b"\x01\x02")
    assert WordCounts.from_files(path).total_words == 0  # text, but no word


# Tables


def test_saved_tables_come_back(tmp_path: Path) -> None:
    for counts in (
        counts_of(*LINES),
        counts_of(CASED_TEXT, lowercase=False),
        WordCounts({"a": 2**62}),
        WordCounts(),
        WordCounts.from_documents(["a"], normalization=Normalization(compat="slow", strip_accents=False)),
    ):
        counts.save(tmp_path / "a.counts")
        loaded = WordCounts.load(tmp_path / "a.counts")
        assert loaded == counts
        assert loaded.normalization == counts.normalization
    assert [path.name for path in tmp_path.iterdir()] == ["a.counts"]


def test_tables_made_in_different_ways_do_not_mix() -> None:
    with pytest.raises(
        InputError, match=r"table 1 has compat hf, lowercase True.*table 3 has .*lowercase False"
    ):
        WordCounts.merge([counts_of("a"), counts_of("b"), counts_of("c", lowercase=False)])
    with pytest.raises(InputError, match=r"table 2 has none recorded"):
        WordCounts.merge([counts_of("a"), WordCounts({"a": 1})])
    with pytest.raises(InputError, match="no word counts to merge"):
        WordCounts.merge([])
    with pytest.raises(InputError, match=r"more than 2\*\*63"):
        WordCounts.merge([WordCounts({"a": 2**62})] * 2)


def damage_cut(data: bytearray) -> bytearray:
    return data[:-3]


def damage_bit(data: bytearray) -> bytearray:
    data[len(data) // 2] ^= 4
    return data


def damage_start(data: bytearray) -> bytearray:
    data[0] = 0
    return data


def damage_all(data: bytearray) -> bytearray:
    return data[:0]


@pytest.mark.parametrize("damage", [damage_cut, damage_bit, damage_start, damage_all])
def test_damaged_tables_are_named(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "a.counts"
    counts_of(TEXT).save(path)
    path.write_bytes(damage(bytearray(path.read_bytes())))
    with pytest.raises(InputError, match=r"a\.counts: "):
        WordCounts.load(path)


def test_other_bad_tables(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.counts: cannot be read"):
        WordCounts.load(tmp_path / "nowhere.counts")
    counts_of("a").native.save(tmp_path / "a.counts", "no JSON")
    with pytest.raises(InputError, match=r"a\.counts: the header"):
        WordCounts.load(tmp_path / "a.counts")
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(InputError, match="cannot be written"):
            counts_of("a").save(tmp_path / "locked" / "a.counts")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        counts_of("a").save(tmp_path / "file" / "a.counts")
