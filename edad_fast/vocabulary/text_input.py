"""Texts as Python strings or as Arrow arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError


def is_arrow(texts: Any) -> bool:
    """Whether `texts` is an Arrow array, chunked array or a column of another library that speaks Arrow."""
    return hasattr(texts, "__arrow_c_array__") or hasattr(texts, "__arrow_c_stream__")


def arrow_chunks(texts: Any) -> Iterator[tuple[memoryview, NDArray[Any]]]:
    """Yield (UTF-8 bytes, offsets [n + 1]) of each chunk of an Arrow column, without a copy.

    Missing values (null) count as empty texts.

    Raises:
        InputError: pyarrow is absent, or the column holds no strings.
    """
    try:
        import pyarrow
        import pyarrow.compute
    except ImportError as error:
        raise InputError(
            "Arrow columns need the package pyarrow: pip install 'edad-fast[parquet]'"
        ) from error
    types = pyarrow.types
    if not isinstance(texts, (pyarrow.Array, pyarrow.ChunkedArray)):
        one = hasattr(texts, "__arrow_c_array__")
        texts = pyarrow.array(texts) if one else pyarrow.chunked_array(texts)
    kind = texts.type
    if types.is_dictionary(kind) or getattr(types, "is_string_view", lambda _: False)(kind):
        texts = texts.cast(pyarrow.large_string())
        kind = texts.type
    if not (types.is_string(kind) or types.is_large_string(kind)):
        raise InputError(f"the Arrow column holds {kind}, not strings; choose the column with the text")
    for chunk in texts.chunks if isinstance(texts, pyarrow.ChunkedArray) else [texts]:
        if not len(chunk):
            continue
        if chunk.null_count:
            chunk = pyarrow.compute.fill_null(chunk, "")
        _, offsets, data = chunk.buffers()
        width = np.int64 if types.is_large_string(kind) else np.int32
        places = np.frombuffer(offsets, width)[chunk.offset : chunk.offset + len(chunk) + 1]
        yield memoryview(data if data is not None else b""), places


def as_texts(texts: Any, name: str = "texts") -> list[str]:
    """Return `texts` as a list.

    Raises:
        InputError: it is one str, or no sequence.
    """
    if isinstance(texts, list):
        return texts
    if isinstance(texts, (str, bytes)) or not isinstance(texts, (Sequence, np.ndarray)):
        raise InputError(f"{name} is of type {type(texts).__name__}; give a list of str or an Arrow array")
    return list(texts)
