"""One vector for each text, from an encoder's last hidden states."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..corpus import Document, iter_documents
from ..errors import InputError
from ..files import atomic_write
from .device import autocast
from .ner_data import sorted_batches

Pooling = Literal["mean", "cls"]


def pool(states: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """[B, L, d] and attention mask [B, L] to fp32 [B, d]: the mean over the mask, or the first token."""
    if pooling == "cls":
        return states[:, 0].float()
    weight = mask.unsqueeze(-1).float()
    return (states.float() * weight).sum(1) / weight.sum(1)


def iter_texts(sources: Sequence[Path | str], **options: Any) -> Iterator[Document]:
    """Yield each line of plain text files and each row of other formats, empty ones left out.

    `options` are those of `iter_documents`, and so are the errors.
    """
    before = ("", 0)
    for document in iter_documents(sources, **options):
        if (document.source, document.line) == before:
            continue  # the rest of a text so long that the reader cuts it; no model reads that far
        before = (document.source, document.line)
        if ".txt" not in Path(document.source).suffixes[-2:]:
            yield document
            continue
        for offset, line in enumerate(document.text.split("\n")):
            if not line.isspace():
                yield Document(line, document.source, document.line + offset)


@torch.inference_mode()
def embed(
    encoder: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    device: torch.device,
    precision: str = "fp32",
    pooling: Pooling = "mean",
    normalise: bool = False,
    max_length: int = 128,
    batch_size: int = 64,
) -> np.ndarray:
    """Vectors of `texts`, fp32 [n, d], in their order; batches are of similar length.

    Args:
        encoder: on `device`, in evaluation mode; its forward gives `.last_hidden_state` [B, L, d].
        normalise: divide by the Euclidean norm.
        max_length: WordPieces with [CLS] and [SEP]; what lies behind is left out.
    """
    ids = tokenizer(
        list(texts),
        truncation=True,
        max_length=max_length,
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=False,
    )["input_ids"]
    vectors: np.ndarray | None = None
    for rows in sorted_batches([len(row) for row in ids], batch_size):
        length = len(ids[rows[-1]])
        block = torch.full((len(rows), length), tokenizer.pad_token_id)
        mask = torch.zeros(len(rows), length, dtype=torch.long)
        for place, row in enumerate(rows):
            block[place, : len(ids[row])] = torch.tensor(ids[row])
            mask[place, : len(ids[row])] = 1
        block, mask = block.to(device), mask.to(device)
        with autocast(device, precision):
            states = encoder(input_ids=block, attention_mask=mask).last_hidden_state
        pooled = pool(states, mask, pooling)
        found = (F.normalize(pooled, dim=-1) if normalise else pooled).cpu().numpy()
        if vectors is None:
            vectors = np.empty((len(ids), found.shape[1]), dtype=np.float32)
        vectors[rows] = found
    assert vectors is not None, "no text"
    return vectors


class VectorWriter(Protocol):
    """Takes blocks of vectors in order."""

    def write(self, texts: Sequence[Document], vectors: np.ndarray) -> None:
        """Append `vectors` [n, d] of `texts`."""


class _NumpyWriter:
    def __init__(self, file: Path, index: Path, count: int, width: int) -> None:
        self.array = np.lib.format.open_memmap(file, "w+", dtype=np.float32, shape=(count, width))
        self.index = index.open("w", encoding="utf-8")
        self.rows = 0

    def write(self, texts: Sequence[Document], vectors: np.ndarray) -> None:
        self.array[self.rows : self.rows + len(vectors)] = vectors
        for offset, text in enumerate(texts):
            entry = {"row": self.rows + offset, "source": text.source, "line": text.line}
            self.index.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self.rows += len(vectors)

    def close(self) -> None:
        self.array.flush()
        self.index.close()


class _ParquetWriter:
    def __init__(self, file: Path, width: int) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        vector = pa.list_(pa.float32(), width)
        self.schema = pa.schema([("source", pa.string()), ("line", pa.int64()), ("embedding", vector)])
        self.file = parquet.ParquetWriter(file, self.schema)

    def write(self, texts: Sequence[Document], vectors: np.ndarray) -> None:
        import pyarrow as pa

        flat = pa.array(vectors.ravel())
        columns = [
            pa.array([text.source for text in texts]),
            pa.array([text.line for text in texts], pa.int64()),
            pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
        ]
        self.file.write_table(pa.Table.from_arrays(columns, schema=self.schema))

    def close(self) -> None:
        self.file.close()


def check_output(path: Path) -> None:
    """Refuse a name that `open_output` cannot write.

    Raises:
        InputError: neither .npy nor .parquet, or .parquet without the package pyarrow.
    """
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise InputError(
                f"{path}: .parquet needs the package pyarrow: pip install 'edad-fast[parquet]', or name a "
                ".npy file"
            ) from error
    elif path.suffix != ".npy":
        raise InputError(f"{path}: --output ends in .npy or .parquet")


@contextmanager
def open_output(path: Path, count: int, width: int) -> Iterator[VectorWriter]:
    """Write `count` vectors of `width` fp32 numbers, atomically, without holding them in memory.

    `.npy` [count, width] has beside it `NAME.jsonl`, a line {"row", "source", "line"} for each text;
    `.parquet` has columns source, line and embedding.
    """
    check_output(path)
    with atomic_write(path) as file:
        if path.suffix == ".parquet":
            table = _ParquetWriter(file, width)
            try:
                yield table
            finally:
                table.close()
            return
        with atomic_write(path.with_suffix(".jsonl")) as index:
            array = _NumpyWriter(file, index, count, width)
            try:
                yield array
            finally:
                array.close()
