"""Text files as a stream of documents, in constant memory. A format is one reader in `_READERS`."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import InputError
from .files import COMPRESSIONS, Source, is_hub, open_stream
from .hub import iter_hub_rows

EncodingErrors = Literal["strict", "replace"]
DOCUMENT_CHARACTERS = 1 << 20
_REPLACE = "or replace such characters with --encoding_errors replace"


@dataclass(frozen=True, slots=True)
class Document:
    """One document: text (paragraphs joined by newlines), source, first line or row (1-based)."""

    text: str
    source: str
    line: int


@dataclass(frozen=True, slots=True)
class _Options:
    text_field: str
    replace: bool
    max_line_bytes: int


def _lines(path: Path, options: _Options) -> Iterator[str]:
    """Yield decoded lines with their line ends; the text is UTF-8, a byte-order mark is dropped."""
    offset = 0
    limit = options.max_line_bytes
    with open_stream(path) as stream:
        number = 0
        while raw := stream.readline(limit + 1):
            number += 1
            if len(raw) > limit:
                raise InputError(
                    f"{path}: line {number} is longer than {limit >> 20} MiB; break it into lines, "
                    "or raise --max_line_mib"
                )
            if offset == 0 and raw.startswith(b"\xef\xbb\xbf"):
                offset, raw = 3, raw[3:]
            if b"\0" in raw:
                if not options.replace:
                    raise InputError(
                        f"{path}: NUL byte at byte {offset + raw.index(0)} (line {number}): "
                        f"not plain UTF-8 text; clean or convert the file, {_REPLACE}"
                    )
                raw = raw.replace(b"\0", b" ")
            try:
                yield raw.decode("utf-8")
            except UnicodeDecodeError as error:
                if not options.replace:
                    raise InputError(
                        f"{path}: invalid UTF-8 at byte {offset + error.start} (line {number}): "
                        f"{error.reason}; convert the file to UTF-8, {_REPLACE}"
                    ) from error
                yield raw.decode("utf-8", errors="replace")
            offset += len(raw)


def decoded_lines(
    path: Path, *, encoding_errors: EncodingErrors = "strict", max_line_mib: int = 64
) -> Iterator[str]:
    """Yield the lines of a text file (plain or compressed) with their line ends.

    Raises:
        InputError: at the first line that `iter_documents` would refuse.
    """
    return _lines(path, _Options("", encoding_errors == "replace", max_line_mib << 20))


def check_lines(path: Path, *, encoding_errors: EncodingErrors, max_line_mib: int) -> None:
    """Read a text file to the end; raises as `decoded_lines`."""
    for _ in decoded_lines(path, encoding_errors=encoding_errors, max_line_mib=max_line_mib):
        pass


def _read_text(path: Path, options: _Options) -> Iterator[tuple[int, str]]:
    paragraphs: list[str] = []
    size = first = 0
    for number, raw in enumerate(_lines(path, options), start=1):
        line = raw.rstrip("\r\n")
        if not line.strip() or size + len(line) > DOCUMENT_CHARACTERS:
            if paragraphs:
                yield first, "\n".join(paragraphs)
            paragraphs, size = [], 0
            if not line.strip():
                continue
        if not paragraphs:
            first = number
        paragraphs.append(line)
        size += len(line) + 1
    if paragraphs:
        yield first, "\n".join(paragraphs)


def _missing_field(where: str, field: str, names: Iterable[str]) -> InputError:
    return InputError(
        f"{where}: no field {field!r}; there are {', '.join(map(str, names))}. Choose one with --text_field"
    )


def _read_jsonl(path: Path, options: _Options) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(_lines(path, options), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(
                f"{path}: line {number} is not JSON ({error}); one JSON object a line is needed"
            ) from error
        if not isinstance(row, dict):
            raise InputError(
                f"{path}: line {number} is no JSON object; one object with a text field a line is needed"
            )
        if options.text_field not in row:
            raise _missing_field(f"{path}: line {number}", options.text_field, row)
        yield number, row[options.text_field]


def _read_csv(path: Path, options: _Options) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(options.max_line_bytes)
    rows = csv.reader(_lines(path, options), strict=True)
    end = 0
    try:
        header = next(rows, None)
        if header is None:
            return
        if options.text_field not in header:
            raise _missing_field(f"{path}: line 1", options.text_field, header)
        column = header.index(options.text_field)
        end = rows.line_num
        for row in rows:
            first, end = end + 1, rows.line_num
            if not row:
                continue
            if column >= len(row):
                raise InputError(
                    f"{path}: line {first} has {len(row)} columns, the header has {len(header)}; "
                    "mend the row or its quotes"
                )
            yield first, row[column]
    except csv.Error as error:
        raise InputError(
            f"{path}: line {end + 1}: not valid CSV ({error}); look for a missing quote"
        ) from error


def _read_parquet(path: Path, options: _Options) -> Iterator[tuple[int, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(
            f"{path}: .parquet needs the package pyarrow: pip install 'edad-fast[parquet]'"
        ) from error
    row = 0
    try:
        with parquet.ParquetFile(path) as file:
            if options.text_field not in file.schema_arrow.names:
                raise _missing_field(str(path), options.text_field, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=256, columns=[options.text_field]):
                for value in batch.column(0).to_pylist():
                    row += 1
                    yield row, value
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: truncated or corrupt Parquet file after row {row} ({error}); write it again"
        ) from error


_READERS: dict[str, Callable[[Path, _Options], Iterator[tuple[int, Any]]]] = {
    ".txt": _read_text,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _rows(source: Source, options: _Options) -> Iterator[tuple[int, Any]]:
    if is_hub(source):
        return iter_hub_rows(str(source), options.text_field)
    path = Path(source)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compressed = bool(suffixes) and suffixes[-1] in COMPRESSIONS
    if compressed:
        suffixes.pop()
    kind = suffixes[-1] if suffixes else ""
    if kind not in _READERS or (kind == ".parquet" and compressed):
        raise InputError(
            f"{path}: unknown format; corpus files end in {', '.join(_READERS)}; all but .parquet also in "
            f"{', '.join(COMPRESSIONS)}"
        )
    return _READERS[kind](path, options)


def _clean(value: Any, where: str, options: _Options) -> str:
    """Check one document's text; None (a missing value) counts as empty."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(
            f"{where}: field {options.text_field!r} is {type(value).__name__}, not text; see --text_field"
        )
    if "\0" in value:
        if not options.replace:
            raise InputError(
                f"{where}: NUL character at character {value.index(chr(0))}; clean the text, {_REPLACE}"
            )
        value = value.replace("\0", " ")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            if not options.replace:
                raise InputError(
                    f"{where}: half of a surrogate pair at character {error.start}; "
                    f"clean the text, {_REPLACE}"
                ) from error
            value = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def _parts(text: str) -> Iterator[str]:
    """Cut `text` into parts of at most DOCUMENT_CHARACTERS, at white space where there is some."""
    start = 0
    while len(text) - start > DOCUMENT_CHARACTERS:
        end = start + DOCUMENT_CHARACTERS
        space = max(text.rfind(" ", start, end), text.rfind("\n", start, end))
        end = space if space > start else end
        yield text[start:end]
        start = end
    yield text[start:] if start else text


def iter_documents(
    sources: Iterable[Source],
    *,
    text_field: str = "text",
    encoding_errors: EncodingErrors = "strict",
    max_line_mib: int = 64,
    empty_is_error: bool = True,
) -> Iterator[Document]:
    """Yield the documents of `sources` (files or `hf:` datasets, see `expand_globs`) in order.

    .txt: a blank line ends a document. .jsonl, .csv, .parquet and datasets: one document a row, from
    `text_field`. What is longer than 2**20 characters is cut at line ends or else at white space, so that
    memory stays constant but for the longest line. Documents of white space only are left out.

    Args:
        encoding_errors: `replace` puts U+FFFD for invalid UTF-8 and a space for NUL; `strict` raises.
        max_line_mib: longest line accepted, in MiB of decompressed text.
        empty_is_error: whether a corpus without any text raises.

    Raises:
        InputError: unreadable, truncated or corrupt file, unknown format, invalid text, missing field, or no
            text at all; the message names the file and the line, row or byte offset (in the decompressed
            text).
    """
    options = _Options(text_field, encoding_errors == "replace", max_line_mib << 20)
    names = []
    empty = True
    for source in sources:
        name = str(source)
        names.append(name)
        unit = "row" if is_hub(source) or name.lower().endswith(".parquet") else "line"
        for number, value in _rows(source, options):
            text = _clean(value, f"{name}: {unit} {number}", options)
            for part in _parts(text):
                if part and not part.isspace():
                    empty = False
                    yield Document(part, name, number)
    if empty and empty_is_error:
        raise InputError(f"empty corpus: no text in {', '.join(names) or 'no file'}; give files with text")
