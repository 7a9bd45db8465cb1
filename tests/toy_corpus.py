"""A corpus in which every token is known: word number n is the n-th word of the text, in no other place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from edad_fast.batches import Batch, BatchStream, TokenShards, build_shards
from edad_fast.vocabulary import load_tokenizer

PAD, UNK, CLS, SEP, MASK, CONTINUATION = range(6)
FIRST_WORD = 6
WORDS = 3000
LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=20)
SEQ_LENS = st.integers(5, 40)
TENSORS = (
    "input_ids",
    "segment_ids",
    "position_ids",
    "token_type_ids",
    "masked_positions",
    "masked_labels",
    "next_sentence_labels",
)


@cache
def toy_tokenizer(words: int = WORDS) -> Any:
    """[PAD] [UNK] [CLS] [SEP] [MASK] ##x w0 w1 ...: the id of a word is FIRST_WORD + its number."""
    with TemporaryDirectory() as folder:
        pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "##x", *(f"w{n}" for n in range(words))]
        Path(folder, "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
        return load_tokenizer(folder)


def write_text(path: Path, lengths: Sequence[int], tails: Sequence[int] = (0,)) -> list[list[int]]:
    """Write documents of `lengths` words, word n with tails[n % len(tails)] continuations; their tokens."""
    number = count()
    documents, texts = [], []
    for length in lengths:
        words = [next(number) for _ in range(length)]
        texts.append(" ".join(f"w{n}" + "x" * tails[n % len(tails)] for n in words))
        documents.append(
            [token for n in words for token in [FIRST_WORD + n] + [CONTINUATION] * tails[n % len(tails)]]
        )
    path.write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    return documents


def toy_shards(
    folder: Path, lengths: Sequence[int], tails: Sequence[int] = (0,), held_out_fraction: float = 0.0
) -> tuple[TokenShards, list[list[int]]]:
    """Shards of a corpus as `write_text` makes it, and its documents' tokens."""
    documents = write_text(folder / "text.txt", lengths, tails)
    shards = build_shards(
        toy_tokenizer(),
        [folder / "text.txt"],
        folder / "shards",
        held_out_fraction=held_out_fraction,
        progress=False,
    )
    return shards, documents


@contextmanager
def corpus(
    lengths: Sequence[int], tails: Sequence[int] = (0,), held_out_fraction: float = 0.0
) -> Iterator[tuple[TokenShards, list[list[int]]]]:
    with TemporaryDirectory() as folder:
        yield toy_shards(Path(folder), lengths, tails, held_out_fraction)


def large_shards(folder: Path) -> TokenShards:
    """2,800 words in documents of 1 to 80, some words of two or three tokens."""
    lengths = np.random.default_rng(0).integers(1, 81, 69).tolist()
    return toy_shards(folder, lengths, tails=(0, 1, 0, 2))[0]


def toy_stream(shards: TokenShards, **options: Any) -> BatchStream:
    return BatchStream.for_tokenizer(
        toy_tokenizer(), shards, **({"seq_len": 16, "rows_per_step": 4} | options)
    )


def rows_of(stream: BatchStream, field: str, epoch: int = 0) -> np.ndarray:
    """One field of all rows of an epoch, in the order of the stream; [rows_per_epoch, ...]."""
    first = epoch * stream.rows_per_epoch
    last = first + stream.rows_per_epoch
    found = []
    for step in range(first // stream.rows_per_step, -(-last // stream.rows_per_step)):
        for batch in stream.step(step):
            rows = zip(batch.rows, getattr(batch, field).numpy(), strict=True)
            found += [value for row, value in rows if first <= row < last]
    return np.array(found)


def assert_same(left: Sequence[Batch], right: Sequence[Batch]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        for name in TENSORS:
            x, y = getattr(a, name), getattr(b, name)
            assert (x is None) == (y is None)
            assert x is None or (x.dtype == y.dtype and torch.equal(x, y)), name
        assert (a.shares, a.tokens, a.step, a.rows, a.full_rows) == (
            b.shares,
            b.tokens,
            b.step,
            b.rows,
            b.full_rows,
        )
