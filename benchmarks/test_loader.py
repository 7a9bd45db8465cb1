"""Packing and masking alone: tokens a second against what a training step on one H200 takes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Row, Table, Timing, judge
from data import Text, general_vocabulary

from edad_fast.batches import BatchStream, build_shards
from edad_fast.vocabulary import load_tokenizer

# Tokens a second that a step is taken to consume.
NEED = 2_000_000
ROWS, LENGTH, ROUNDS, STEPS = 256, 128, 7, 40


@pytest.fixture(scope="module")
def stream(small: Text, folder: Path) -> BatchStream:
    vocabulary = folder / "loader-vocab.txt"
    vocabulary.write_text("".join(f"{piece}\n" for piece in general_vocabulary(folder)), encoding="utf-8")
    tokenizer = load_tokenizer(vocabulary)
    shards = build_shards(tokenizer, [small.file], folder / "loader-shards")
    return BatchStream.for_tokenizer(tokenizer, shards, seq_len=LENGTH, rows_per_step=ROWS)


def _steps(stream: BatchStream, workers: int) -> Iterator[object]:
    if workers:
        return stream.iterate(0, 10**6, workers=workers)
    return (stream.step(number) for number in itertools.count())


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_loader(stream: BatchStream, table: Table, workers: int) -> None:
    if workers > (os.cpu_count() or 1):
        pytest.skip(f"{os.cpu_count()} processor(s) for {workers} workers")
    steps = _steps(stream, workers)
    for _ in range(10 * max(1, workers)):  # prefetched batches, and the first epoch's order
        next(steps)
    timing = Timing()

    def take() -> None:
        for _ in range(STEPS):  # let go at once, as a training step does
            next(steps)

    for _ in range(ROUNDS):
        timing.measure(take)
    table.time(f"loader: {workers} threads", timing)
    speed = ROWS * LENGTH * STEPS / timing.seconds
    row = Row(
        "loader",
        f"{workers} thread(s)" if workers else "in the training thread",
        "2 M tokens/s",
        speed / NEED,
    )
    row.ours = f"{speed / 1e6:.1f} M tokens/s"
    row.judged = workers == 2
    judge(table.add(row))
