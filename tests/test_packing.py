"""Packing documents into rows."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_corpus import CLS, LENGTHS, PAD, SEP, SEQ_LENS, corpus, large_shards, rows_of, toy_stream

from edad_fast.batches import TokenShards
from edad_fast.batches.packing import best_fit


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> TokenShards:
    return large_shards(tmp_path_factory.mktemp("large"))


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(1, 32), max_size=80))
def test_best_fit_is_that_of_item_by_item(lengths: list[int]) -> None:
    bins, places, n_bins = best_fit(np.array(lengths, np.int64), 32)
    filled = np.zeros((n_bins, 32), int)
    for length, bin_, place in zip(lengths, bins, places, strict=True):
        assert place + length <= 32
        filled[bin_, place : place + length] += 1
    assert filled.max(initial=0) <= 1, "items overlap"
    free: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [i for i, space in enumerate(free) if space >= length]
        if fitting:
            free[min(fitting, key=lambda i: free[i])] -= length
        else:
            free.append(32 - length)
    assert n_bins == len(free)
    assert sorted(32 - filled.sum(axis=1)) == sorted(free)


@settings(max_examples=40, deadline=None)
@given(
    lengths=LENGTHS,
    seq_len=SEQ_LENS,
    rows_per_step=st.integers(1, 9),
    seed=st.integers(-(2**63), 2**64),
    epoch=st.integers(0, 3),
)
def test_every_token_once_an_epoch_and_no_segment_crosses_documents(
    lengths: list[int], seq_len: int, rows_per_step: int, seed: int, epoch: int
) -> None:
    with corpus(lengths, tails=(0, 2)) as (shards, documents):
        stream = toy_stream(
            shards, seq_len=seq_len, rows_per_step=rows_per_step, seed=seed, mlm_probability=0.0
        )
        ids, segments, positions, types = (
            rows_of(stream, name, epoch)
            for name in ("input_ids", "segment_ids", "position_ids", "token_type_ids")
        )
    assert ids.shape == (stream.rows_per_epoch, seq_len)
    found = []
    for row, numbers, places in zip(ids, segments, positions, strict=True):
        used = int((numbers > 0).sum())
        assert (numbers[:used] > 0).all(), "padding comes last"
        assert (row[used:] == PAD).all()
        assert (np.diff(numbers[:used]) >= 0).all()
        for number in range(1, numbers.max() + 1):
            segment = row[numbers == number]
            assert (places[numbers == number] == np.arange(len(segment))).all()
            assert segment[0] == CLS
            assert segment[-1] == SEP
            assert 3 <= len(segment) <= seq_len
            found.append(tuple(segment[1:-1].tolist()))
    pieces = [
        tuple(document[i : i + seq_len - 2])
        for document in documents
        for i in range(0, len(document), seq_len - 2)
    ]
    assert Counter(found) == Counter(pieces)
    assert not types.any()


def test_rows_are_full(large: TokenShards) -> None:
    stream = toy_stream(large, seq_len=64)
    assert (rows_of(stream, "segment_ids") > 0).mean() > 0.97
