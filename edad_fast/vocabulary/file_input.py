"""Plain text files -> ids, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .._native import Encoder
from ..corpus import EncodingErrors, expand_globs, is_plain_text, iter_file_blocks
from ..corpus.files import Source
from ..errors import InputError
from .checks import MOST_MIB, check_int

FileRows = Literal["file", "line"]
# A block is cut into parts at line ends, which threads share.
_PART_BYTES = 1 << 16


def ahead(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield `blocks` while another thread fetches the next one: reading and unpacking cost no waiting."""
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(next, blocks, None)
        while (block := pending.result()) is not None:
            pending = pool.submit(next, blocks, None)
            yield block


def _line_ends(block: bytes) -> NDArray[np.int64]:
    """Where each line ends, newline included; a last line without newline counts."""
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == 10) + 1
    return ends if len(ends) and ends[-1] == len(block) else np.append(ends, len(block))


def _parts(ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of the line ends those at which parts of some 64 KiB end."""
    numbers = ends // _PART_BYTES
    return ends[np.append(numbers[1:] != numbers[:-1], True)]


def encode_files(
    encoder: Encoder,
    paths: Sequence[Source],
    *,
    rows: FileRows,
    encoding_errors: EncodingErrors,
    max_line_mib: int,
    n_threads: int,
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """See `FastWordPieceTokenizer.encode_files`."""
    if rows not in ("file", "line"):
        raise InputError(f"rows is {rows!r}, not 'file' or 'line'")
    check_int("max_line_mib", max_line_mib, 1, MOST_MIB)
    sources = expand_globs(list(paths))
    for source in sources:
        if not is_plain_text(source):
            raise InputError(
                f"{source}: no plain text (.txt, also .gz .xz .zst); "
                "read it with edad_fast.corpus.iter_documents and encode the texts"
            )
    ids = [np.empty(0, np.int32)]
    ends = [np.zeros(1, np.int64)]
    total = 0
    for source in sources:
        blocks = iter_file_blocks(
            source, at="line", encoding_errors=encoding_errors, max_line_mib=max_line_mib
        )
        for block in ahead(blocks):
            bounds = _line_ends(block)
            if rows == "file":
                bounds = _parts(bounds)
            found, offsets = encoder.encode_utf8(block, np.concatenate([[0], bounds]), n_threads)
            ids.append(found)
            if rows == "line":
                ends.append(offsets[1:] + total)
            total += len(found)
        if rows == "file":
            ends.append(np.array([total]))
    return np.concatenate(ids), np.concatenate(ends)
