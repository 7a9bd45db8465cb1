"""Text files as large blocks of UTF-8 bytes, for the native core. Nothing is decoded that need not be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from .files import COMPRESSIONS, Source, is_hub, open_stream
from .readers import EncodingErrors, check_lines, iter_documents

BLOCK_BYTES = 4 << 20


def is_plain_text(source: Source) -> bool:
    """Whether `source` is a .txt file, compressed or not."""
    if is_hub(source):
        return False
    suffixes = [suffix.lower() for suffix in Path(source).suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return bool(suffixes) and suffixes[-1] == ".txt"


def _checked(block: bytes, encoding_errors: EncodingErrors, explain: Callable[[], None]) -> bytes:
    if encoding_errors == "strict" and not block.isascii():
        try:
            block.decode("utf-8")
        except UnicodeDecodeError:
            explain()
            raise
    return block


def _end(block: bytes, at: Literal["space", "line"]) -> int:
    """Where the last line, or white space, of `block` ends; 0 if there is none."""
    newline = block.rfind(b"\n") + 1
    if at == "line":
        return newline
    return max(newline, block.rfind(b" ") + 1, block.rfind(b"\t") + 1)


def iter_file_blocks(
    source: Source,
    *,
    at: Literal["space", "line"] = "space",
    encoding_errors: EncodingErrors = "strict",
    max_line_mib: int = 64,
) -> Iterator[bytes]:
    """Yield the bytes of a .txt file in blocks of some 4 MiB that end at white space (or at a line's end).

    A byte-order mark is left out. With `replace`, NUL becomes a space, and invalid UTF-8 is passed on: the
    native core reads it as U+FFFD.

    Raises:
        InputError: as `iter_documents`: unreadable or damaged file, text that is not UTF-8 (unless replaced),
            a line above the limit.
    """

    def explain() -> None:
        check_lines(Path(source), encoding_errors=encoding_errors, max_line_mib=max_line_mib)

    limit = max_line_mib << 20
    size = min(BLOCK_BYTES, limit)
    line = 0  # bytes of the line that has begun
    rest = b""
    first = True
    with open_stream(source) as stream:
        while data := stream.read(size):
            newline = data.find(b"\n")
            if line + (newline + 1 if newline >= 0 else len(data)) > limit:
                explain()
            line = len(data) - 1 - data.rfind(b"\n") if newline >= 0 else line + len(data)
            if first:
                data, first = data.removeprefix(b"\xef\xbb\xbf"), False
            if b"\0" in data:
                if encoding_errors == "strict":
                    explain()
                data = data.replace(b"\0", b" ")
            end = _end(data, at)
            if not end:
                rest += data
                continue
            block, rest = rest + data[:end], data[end:]
            yield _checked(block, encoding_errors, explain)
    if rest:
        yield _checked(rest, encoding_errors, explain)


def iter_text_blocks(
    sources: Iterable[Source],
    *,
    text_field: str = "text",
    encoding_errors: EncodingErrors = "strict",
    max_line_mib: int = 64,
) -> Iterator[bytes]:
    """Yield the text of `sources` as UTF-8 blocks that end at white space or at a document's end.

    Options and errors as of `iter_documents`, but that an empty corpus is no error here.
    """
    for source in sources:
        if is_plain_text(source):
            yield from iter_file_blocks(source, encoding_errors=encoding_errors, max_line_mib=max_line_mib)
            continue
        documents: list[str] = []
        size = 0
        for document in iter_documents(
            [source],
            text_field=text_field,
            encoding_errors=encoding_errors,
            max_line_mib=max_line_mib,
            empty_is_error=False,
        ):
            documents.append(document.text)
            size += len(document.text)
            if size >= BLOCK_BYTES:
                yield "\n".join(documents).encode()
                documents, size = [], 0
        if documents:
            yield "\n".join(documents).encode()
