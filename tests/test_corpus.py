from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import sys
import tracemalloc
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edad_fast.corpus import Document, corpus_fingerprint, expand_globs, iter_documents, open_stream
from edad_fast.errors import InputError


def compress(suffix: str, data: bytes) -> bytes:
    if suffix == ".gz":
        return gzip.compress(data)
    if suffix == ".xz":
        return lzma.compress(data)
    if suffix == ".zst":
        import zstandard

        compressed: bytes = zstandard.ZstdCompressor(write_checksum=True).compress(data)
        return compressed
    return data


def write(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def texts(path: Path, **options: Any) -> list[str]:
    return [document.text for document in iter_documents([path], **options)]


# Globs


def test_globs_are_sorted_keep_pattern_order_and_drop_duplicates(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.csv"):
        write(tmp_path / name, "x")
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep" / "d.txt", "x")
    found = expand_globs(
        [str(tmp_path / "*.csv"), "hf:wiki:en", str(tmp_path / "**/*.txt"), tmp_path / "a.txt"]
    )
    names = [item if isinstance(item, str) else item.name for item in found]
    assert names == ["c.csv", "hf:wiki:en", "a.txt", "b.txt", "d.txt"]


def test_file_with_glob_characters_in_its_name_is_taken_literally(tmp_path: Path) -> None:
    path = write(tmp_path / "a[1].txt", "x")
    assert expand_globs([path]) == [path]


@pytest.mark.parametrize("pattern", ["*.txt", "absent.txt", "."])
def test_pattern_without_a_file_is_named(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(InputError, match=r"check the path|name its files") as error:
        expand_globs([tmp_path / pattern])
    assert str(tmp_path) in str(error.value)


# Streams


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".zst"])
@pytest.mark.parametrize("size", [0, 5, 3_000_000])
def test_compressed_streams(tmp_path: Path, suffix: str, size: int) -> None:
    data = (b"0123456789abcdef\n" * (size // 17 + 1))[:size]
    path = write(tmp_path / f"a.txt{suffix}", compress(suffix, data))
    with open_stream(path) as stream:
        assert stream.read() == data


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_concatenated_compressed_streams(tmp_path: Path, suffix: str) -> None:
    parts = [b"one\n" * 500_000, b"", b"two\n", b"three\n" * 90_000]
    path = write(tmp_path / f"a.txt{suffix}", b"".join(compress(suffix, part) for part in parts))
    with open_stream(path) as stream:
        assert stream.read() == b"".join(parts)


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
@pytest.mark.parametrize("damage", ["cut", "cut_early", "flip", "other"])
def test_damaged_compressed_file_is_named(tmp_path: Path, suffix: str, damage: str) -> None:
    good = compress(suffix, "".join(f"line {n * n}\n" for n in range(2000)).encode())
    bad = {
        "cut": good[:-3],
        "cut_early": good[: len(good) // 2],
        "flip": good[: len(good) // 2] + bytes([good[len(good) // 2] ^ 0xFF]) + good[len(good) // 2 + 1 :],
        "other": b"this is plain text, not compressed\n",
    }[damage]
    path = write(tmp_path / f"a.txt{suffix}", bad)
    with pytest.raises(InputError, match=r"truncated or corrupt") as error:
        list(iter_documents([path]))
    assert str(path) in str(error.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.txt.*cannot be opened"):
        list(iter_documents([tmp_path / "absent.txt"]))


def test_fingerprint_follows_content_not_folder(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    first, moved = write(tmp_path / "a.txt", "abc"), write(tmp_path / "x" / "a.txt", "abc")
    assert corpus_fingerprint([first]) == corpus_fingerprint([moved])
    assert corpus_fingerprint([first])[0]["size"] == 3
    write(moved, "abd")
    assert corpus_fingerprint([first]) != corpus_fingerprint([moved])
    with pytest.raises(InputError, match=r"gone\.txt"):
        corpus_fingerprint([tmp_path / "gone.txt"])


# Plain text


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_blank_lines_separate_documents(tmp_path: Path, start: str, end: str) -> None:
    lines = ["", "one", "two", "  ", "", "three", ""]
    path = write(tmp_path / "a.txt", start + end.join(lines))
    assert list(iter_documents([path])) == [
        Document("one\ntwo", str(path), 2),
        Document("three", str(path), 6),
    ]


_LINE = st.text(st.characters(exclude_characters="\0\r\n\ufeff", exclude_categories=["Cs"]), max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(lines=st.lists(_LINE, max_size=30))
def test_text_documents_hold_every_line(tmp_path: Path, lines: list[str]) -> None:
    path = write(tmp_path / "h.txt", "\n".join([*lines, "end"]))
    documents = list(iter_documents([path]))
    kept = [line for document in documents for line in document.text.split("\n")]
    assert kept == [line for line in [*lines, "end"] if line.strip()]
    for document in documents:
        assert document.text.split("\n")[0] == [*lines, "end"][document.line - 1]


def test_text_without_blank_lines_comes_in_pieces_and_constant_memory(tmp_path: Path) -> None:
    line = "word " * 200 + "\n"
    path = tmp_path / "a.txt.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(24):
            file.write(line.encode() * 1000)
    tracemalloc.start()
    total = longest = number = 0
    for document in iter_documents([path]):
        total += len(document.text) + 1
        longest = max(longest, len(document.text))
        number += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 24_000 * len(line)
    assert longest <= 1 << 20
    assert number == 23
    assert peak < 12 << 20


def test_invalid_utf8_names_file_and_offset(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt.xz", compress(".xz", "ä first\n".encode() + b"ab\xffc\n"))
    with pytest.raises(
        InputError, match=r"a\.txt\.xz: invalid UTF-8 at byte 11 \(line 2\).*--encoding_errors replace"
    ):
        list(iter_documents([path]))
    assert texts(path, encoding_errors="replace") == ["ä first\nab\ufffdc"]


def test_offset_counts_the_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbfab\xff")
    with pytest.raises(InputError, match=r"at byte 5"):
        list(iter_documents([path]))


def test_nul_bytes_name_file_and_offset(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"one\n\ntw\0o\n")
    with pytest.raises(InputError, match=r"a\.txt: NUL byte at byte 7 \(line 3\).*--encoding_errors replace"):
        list(iter_documents([path]))
    assert texts(path, encoding_errors="replace") == ["one", "tw o"]


def test_overlong_line_is_refused_without_reading_it_all(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b"short\n")
        for _ in range(200):
            file.write(b"a" * (1 << 20))
    tracemalloc.start()
    with pytest.raises(InputError, match=r"a\.txt\.gz: line 2 is longer than 64 MiB.*--max_line_mib"):
        list(iter_documents([path]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150 << 20


def test_line_limit_is_exact(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"a" * ((1 << 20) - 1) + b"\n")
    assert len(texts(path, max_line_mib=1)[0]) == (1 << 20) - 1
    write(path, b"a" * (1 << 20) + b"\n")
    with pytest.raises(InputError, match=r"line 1 is longer than 1 MiB"):
        texts(path, max_line_mib=1)


@pytest.mark.parametrize("content", ["", "\n \n\t\n", "\u00a0\n"])
def test_empty_corpus(tmp_path: Path, content: str) -> None:
    path = write(tmp_path / "a.txt", content)
    with pytest.raises(InputError, match=r"empty corpus.*a\.txt"):
        list(iter_documents([path]))
    other = write(tmp_path / "b.txt", "text")
    assert [document.text for document in iter_documents([path, other])] == ["text"]


@pytest.mark.parametrize("name", ["a.pdf", "a", "a.xz", "a.parquet.gz"])
def test_unknown_format_names_the_known_ones(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, "text")
    with pytest.raises(InputError, match=r"unknown format.*\.jsonl"):
        list(iter_documents([path]))


# Rows

ROWS = ["first", "", 'second, with "quotes"\nand a second line', "drei äöü"]


def make_jsonl(path: Path, field: str) -> None:
    write(path, "".join(json.dumps({"id": n, field: row}) + "\n" for n, row in enumerate(ROWS)) + "\n")


def make_csv(path: Path, field: str) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerows([["id", field], *([n, row] for n, row in enumerate(ROWS))])
    write(path, buffer.getvalue())


def make_parquet(path: Path, field: str) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"id": list(range(len(ROWS))), field: ROWS}), path)


@pytest.mark.parametrize(
    ("suffix", "make", "places"),
    [("jsonl", make_jsonl, [1, 3, 4]), ("csv", make_csv, [2, 4, 6]), ("parquet", make_parquet, [1, 3, 4])],
)
def test_row_formats(
    tmp_path: Path, suffix: str, make: Callable[[Path, str], None], places: list[int]
) -> None:
    path = tmp_path / f"a.{suffix}"
    make(path, "body")
    documents = list(iter_documents([path], text_field="body"))
    assert [document.text for document in documents] == [row for row in ROWS if row]
    assert [document.line for document in documents] == places
    with pytest.raises(InputError, match=r"no field 'text'; there are id, body.*--text_field"):
        list(iter_documents([path]))


def test_jsonl_of_other_shapes(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for line, message in [
        ('{"text": "x"', "line 2 is not JSON"),
        ('["text"]', "line 2 is no JSON object"),
        ('{"text": 5}', "line 2: field 'text' is int, not text"),
        ('{"text": "a\\u0000"}', "line 2: NUL character at character 1"),
        ('{"text": "a\\ud800"}', "line 2: half of a surrogate pair at character 1"),
    ]:
        write(path, '{"text": "fine"}\n' + line + "\n")
        with pytest.raises(InputError, match=message):
            list(iter_documents([path]))
    write(path, '{"text": null}\n{"text": "a\\u0000b\\ud800c"}\n{"text": "\\ud83d\\ude00"}\n')
    assert texts(path, encoding_errors="replace") == ["a b\ufffdc", "😀"]


def test_csv_with_an_open_quote_or_a_short_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "id,text\n1\n")
    with pytest.raises(InputError, match=r"a\.csv: line 2 has 1 columns, the header has 2"):
        list(iter_documents([path]))
    write(path, 'text\nfine\n"' + "a\n" * 600_000)
    with pytest.raises(InputError, match=r"a\.csv: line 3: not valid CSV"):
        list(iter_documents([path], max_line_mib=1))


def test_csv_field_larger_than_the_library_default(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text\n" + "a" * 300_000 + "\n")
    assert len(texts(path)[0]) == 300_000


def test_damaged_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    make_parquet(path, "text")
    write(path, path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"a\.parquet: truncated or corrupt Parquet"):
        list(iter_documents([path]))


# Hugging Face datasets


def fake_datasets(monkeypatch: pytest.MonkeyPatch, load: Callable[..., Any]) -> None:
    module = types.ModuleType("datasets")
    module.load_dataset = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_hub_dataset_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def load(name: str, config: str | None, *, split: str, streaming: bool) -> list[dict[str, str]]:
        asked.append((name, config, split, streaming))
        return [{"text": "one"}, {"text": " "}, {"text": "two"}]

    fake_datasets(monkeypatch, load)
    documents = list(iter_documents(["hf:org/name", "hf:org/name:en:test"]))
    assert [(d.text, d.source, d.line) for d in documents[:2]] == [
        ("one", "hf:org/name", 1),
        ("two", "hf:org/name", 3),
    ]
    assert asked == [("org/name", None, "train", True), ("org/name", "en", "test", True)]
    with pytest.raises(InputError, match=r"no field 'body'; there are text"):
        list(iter_documents(["hf:org/name"], text_field="body"))
    assert corpus_fingerprint(["hf:org/name"]) == [{"name": "hf:org/name", "size": None, "blake2b": None}]


def test_hub_dataset_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError("no such dataset")

    fake_datasets(monkeypatch, load)
    with pytest.raises(InputError, match=r"hf:org/name: cannot be loaded .*no such dataset"):
        list(iter_documents(["hf:org/name"]))
    with pytest.raises(InputError, match="names no dataset"):
        list(iter_documents(["hf:"]))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install 'edad-fast\[datasets\]'"):
        list(iter_documents(["hf:org/name"]))


def test_real_corpus_documents(shared: Path) -> None:
    documents = list(iter_documents([shared / "data/corpus/valid.txt.xz"]))
    assert len(documents) > 50
    assert sum(len(document.text.split()) for document in documents) > 250_000


def test_a_long_line_is_cut_at_white_space(tmp_path: Path) -> None:
    words = "word " * 500_000
    (tmp_path / "a.txt").write_text(words + "\n")
    parts = [document.text for document in iter_documents([tmp_path / "a.txt"])]
    assert len(parts) == 3
    assert max(map(len, parts)) <= 1 << 20
    assert " ".join(" ".join(parts).split()) == words.strip()


def test_an_unclosed_quote_is_not_swallowed(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,text\n1,"abc\n2,def\n')
    with pytest.raises(InputError, match=r"a\.csv: line 2: not valid CSV.*missing quote"):
        list(iter_documents([tmp_path / "a.csv"]))
