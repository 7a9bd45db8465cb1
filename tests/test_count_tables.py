"""The native core's tables of word counts: made, merged, saved, loaded, refused."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_counts import native

from edad_fast._native import WordCounts

MOST = 2**63 - 1


def as_dict(counts: WordCounts) -> dict[str, int]:
    return dict(zip(counts.words(), counts.counts().tolist(), strict=True))


ANY_TABLE = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5),
    st.integers(1, 10**6),
    max_size=20,
)


@given(ANY_TABLE, st.integers(0, 5))
def test_counts_are_sorted_and_found(words: dict[str, int], long_words: int) -> None:
    counts = native(words, long_words)
    assert counts.words() == sorted(words, key=lambda word: word.encode())
    assert as_dict(counts) == words
    assert len(counts) == len(words)
    assert counts.total == sum(words.values()) + long_words
    assert counts.long_words == long_words
    for word, count in words.items():
        assert counts.get(word) == count
    assert counts.get("no such word", 7) == words.get("no such word", 7)
    assert counts.counts().dtype == np.int64


def test_slices_of_words() -> None:
    counts = native({"c": 1, "a": 1, "b": 1})
    assert (counts.words(1), counts.words(0, 2), counts.words(-1)) == (["b", "c"], ["a", "b"], ["c"])
    assert (counts.words(2, 1), counts.words(5), counts.words(0, 99)) == ([], [], ["a", "b", "c"])


@given(ANY_TABLE, st.randoms(use_true_random=False))
def test_order_and_repetition_of_items_do_not_matter(words: dict[str, int], rng: random.Random) -> None:
    items = [(word, 1) for word, count in words.items() for _ in range(count % 3)]
    items += [(word, count - count % 3) for word, count in words.items() if count > 2]
    rng.shuffle(items)
    counts = WordCounts.from_items([word for word, _ in items], np.array([c for _, c in items], np.int64))
    assert counts == native(words)


@given(st.lists(st.tuples(ANY_TABLE, st.integers(0, 3)), max_size=5))
def test_merge_of_tables_adds_up(parts: list[tuple[dict[str, int], int]]) -> None:
    expected: dict[str, int] = {}
    for words, _ in parts:
        for word, count in words.items():
            expected[word] = expected.get(word, 0) + count
    tables_ = [native(words, long_words) for words, long_words in parts]
    merged = WordCounts.merge(tables_)
    assert merged == native(expected, sum(long_words for _, long_words in parts))
    assert WordCounts.merge(tables_[::-1]) == merged
    assert WordCounts.merge([WordCounts.merge(tables_[:2]), *tables_[2:]]) == merged


@settings(max_examples=50, deadline=None)
@given(ANY_TABLE, st.integers(0, MOST // 2), st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_saved_counts_come_back(
    tmp_path_factory: pytest.TempPathFactory, words: dict[str, int], long_words: int, header: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "wörter.counts"
    counts = native(words, long_words)
    counts.save(path, header)
    first = path.read_bytes()
    loaded, loaded_header = WordCounts.load(path)
    assert loaded == counts
    assert loaded_header == header
    loaded.save(str(path), header)
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    ("words", "counts", "message"),
    [
        (["a", ""], [1, 1], "word 1 is empty"),
        (["a", "b"], [1, 0], r"word 1 \('b'\) has the count 0"),
        (["a"], [-3], "has the count -3"),
        (["a"], [1, 2], "1 words need as many counts"),
        (["a", "a"], [MOST, 1], r"more than 2\*\*63 - 1"),
        (["a", "b"], [MOST, 1], r"more than 2\*\*63 - 1"),
    ],
)
def test_items_that_are_no_counts(words: list[str], counts: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WordCounts.from_items(words, np.array(counts, np.int64))


def test_items_that_are_no_text() -> None:
    with pytest.raises(TypeError, match=r"words\[1\] is not a str"):
        WordCounts.from_items(["a", b"b"], np.array([1, 1], np.int64))  # type: ignore[list-item]
    with pytest.raises(UnicodeEncodeError):
        WordCounts.from_items(["\ud800"], np.array([1], np.int64))
    with pytest.raises(ValueError, match="long_words is -1"):
        native({}, -1)


def test_overflow_of_merged_tables() -> None:
    with pytest.raises(ValueError, match=r"more than 2\*\*63 - 1"):
        WordCounts.merge([native({"a": MOST}), native({"b": 1})])
    with pytest.raises(ValueError, match=r"more than 2\*\*63 - 1"):
        WordCounts.merge([native({}, MOST), native({"b": 1})])


def checksum64(data: bytes) -> int:
    """The checksum as the format describes it."""
    mask = 2**64 - 1
    value = 0x9E3779B97F4A7C15
    padded = data + bytes(-len(data) % 8)
    for lane in [*struct.unpack(f"<{len(padded) // 8}Q", padded), len(data)]:
        value = (value ^ lane) * 0x9FB21C651E98DF25 & mask
        value = (value << 31 | value >> 33) & mask
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        value = (value ^ value >> 33) * factor & mask
    return value ^ value >> 33


def table_file(
    lengths: list[int],
    counts: list[int],
    text: bytes,
    long_words: int = 0,
    header: bytes = b"{}",
    **changed: int,
) -> bytes:
    """A file as the format describes it, with any of its numbers changed."""
    numbers = {"version": 1, "words": len(lengths), "bytes": len(text)} | changed
    body = struct.pack(
        "<8sIIQQq",
        b"EDADWCNT",
        numbers["version"],
        len(header),
        numbers["words"],
        numbers["bytes"],
        long_words,
    )
    body += (
        header + struct.pack(f"<{len(lengths)}I", *lengths) + struct.pack(f"<{len(counts)}q", *counts) + text
    )
    return body + struct.pack("<Q", checksum64(body))


def test_file_is_as_the_format_describes(tmp_path: Path) -> None:
    native({"é": 4, "abc": 2**40}, 3).save(tmp_path / "c", "{}")
    assert (tmp_path / "c").read_bytes() == table_file([3, 2], [2**40, 4], "abcé".encode(), 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not start with EDADWCNT"),
        (b"a text file\n", "does not start with EDADWCNT"),
        (b"EDADWCNT", "cut short: 8 bytes"),
        (table_file([1], [1], b"a")[:-1], "do not fit 1 words of 1 bytes"),
        (table_file([1], [1], b"a") + b"x", "do not fit"),
        (table_file([1], [1], b"a", version=2), "version 2 of the format"),
        (table_file([1], [1], b"a", words=2**63), "do not fit 9223372036854775808 words"),
        (table_file([1], [1], b"a", bytes=2**64 - 1), "do not fit"),
        (table_file([1], [1], b"a").replace(b"{}", b"{]"), "checksum is wrong"),
        (table_file([1, 1], [1, 1], b"ba"), "word 1 is not behind the one before it"),
        (table_file([1, 1], [1, 1], b"aa"), "word 1 is not behind"),
        (table_file([1, 1], [1, 1], b"a\xff"), "word 1 is not UTF-8"),
        (table_file([1, 2], [1, 1], b"a\xed\xa0"), "word 1 is not UTF-8"),
        (table_file([1], [1], b"a", header=b"\xff"), "header is not UTF-8"),
        (table_file([1, 1], [1, 0], b"ab"), "word 1 has the count 0"),
        (table_file([1], [-5], b"a"), "word 0 has the count -5"),
        (table_file([0, 1], [1, 1], b"a"), "word 0 has 0 bytes"),
        (table_file([1, 9], [1, 1], b"ab"), "word 1 has 9 bytes"),
        (table_file([1], [1], b"ab"), "do not add up"),
        (table_file([1], [1], b"a", long_words=-1), "long words below 0"),
        (table_file([1, 1], [MOST, 1], b"ab"), r"more than 2\*\*63 - 1"),
    ],
)
def test_damaged_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "c.counts"
    path.write_bytes(content)
    with pytest.raises(RuntimeError, match=message) as error:
        WordCounts.load(path)
    assert str(path) in str(error.value)


def test_every_changed_byte_and_every_cut_shows(tmp_path: Path) -> None:
    path = tmp_path / "c.counts"
    native({"abc": 5, "é": 4, "zz": 9}, 3).save(path, '{"lowercase": true}')
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        with pytest.raises(RuntimeError):
            WordCounts.load(path)
        path.write_bytes(content[:place])
        with pytest.raises(RuntimeError):
            WordCounts.load(path)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"nowhere: cannot be read \(No such file"):
        WordCounts.load(tmp_path / "nowhere")
    with pytest.raises(RuntimeError, match="cannot be read"):
        WordCounts.load(tmp_path)
    with pytest.raises(RuntimeError, match=r"cannot be written \(No such file"):
        native({"a": 1}).save(tmp_path / "no" / "folder", "{}")
