"""A stream of batches is pure in (seed, step), and its steps make up epochs."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_corpus import (
    CLS,
    CONTINUATION,
    FIRST_WORD,
    LENGTHS,
    MASK,
    PAD,
    SEP,
    TENSORS,
    UNK,
    WORDS,
    assert_same,
    corpus,
    large_shards,
    rows_of,
    toy_shards,
    toy_stream,
    toy_tokenizer,
    write_text,
)

from edad_fast.batches import Batch, BatchStream, TokenShards, build_shards
from edad_fast.errors import InputError


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> TokenShards:
    return large_shards(tmp_path_factory.mktemp("large"))


def joined(batches: Sequence[Batch]) -> dict[str, torch.Tensor]:
    """Tensors of several micro-batches as those of one batch."""
    result = {}
    for name in TENSORS:
        parts = [getattr(batch, name) for batch in batches]
        if name == "masked_positions":
            starts = np.cumsum([0] + [batch.input_ids.numel() for batch in batches])
            parts = [part + int(start) for part, start in zip(parts, starts, strict=False)]
        if parts[0] is not None:
            result[name] = torch.cat(parts)
    return result


def assert_joined_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def test_steps_in_any_order_and_in_a_new_process(large: TokenShards) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for extra in ({}, {"whole_word": True}, {"nsp": True}):
            options = {"seq_len": 32, "rows_per_step": 30, "seed": 5} | extra
            expected = {step: toy_stream(large, **options).step(step) for step in (0, 1, 3, 7)}
            stream = toy_stream(large, **options)
            for step in (7, 0, 3, 7, 1, 0):
                assert_same(stream.step(step), expected[step])
            for step in (7, 0):
                assert_same(pool.apply(stream.step, (step,)), expected[step])


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_change_nothing(large: TokenShards, workers: int) -> None:
    stream = toy_stream(large, rows_per_step=6, accumulation_steps=2)
    state = torch.get_rng_state()
    found = list(stream.iterate(3, 9, workers=workers))
    assert torch.equal(torch.get_rng_state(), state), "a resumed run must see the same random numbers"
    assert len(found) == 6
    for step, batches in enumerate(found, start=3):
        assert_same(batches, stream.step(step))


def test_what_is_left_is_not_prepared(large: TokenShards) -> None:
    """A stream that is closed early leaves no thread behind."""
    iterator = toy_stream(large).iterate(0, 10**9, workers=2)
    next(iterator)
    assert any(thread.name.startswith("loader") for thread in threading.enumerate())
    iterator.close()
    assert not any(thread.name.startswith("loader") for thread in threading.enumerate())


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_tokens_are_told_without_a_worker_s_traceback(tmp_path: Path, workers: int) -> None:
    shards, _ = toy_shards(tmp_path, [100])
    path = tmp_path / "shards" / "tokens-00000.int32"
    path.write_bytes(b"\xff\xff\xff\x7f" * 100)
    with pytest.raises(InputError, match="outside the vocabulary") as caught:
        list(toy_stream(shards).iterate(0, 1, workers=workers))
    assert "Traceback" not in str(caught.value)


@settings(max_examples=25, deadline=None)
@given(
    lengths=LENGTHS,
    rows_per_step=st.integers(12, 40),
    accumulation=st.integers(1, 4),
    world_size=st.integers(1, 3),
    nsp=st.booleans(),
)
def test_micro_batches_and_processes_share_one_big_batch(
    lengths: list[int], rows_per_step: int, accumulation: int, world_size: int, nsp: bool
) -> None:
    with corpus([*lengths, 2, 2]) as (shards, _):
        options = {"rows_per_step": rows_per_step, "seq_len": 12, "seed": 3, "nsp": nsp}
        whole = toy_stream(shards, **options)
        parts = [
            toy_stream(shards, accumulation_steps=accumulation, rank=rank, world_size=world_size, **options)
            for rank in range(world_size)
        ]
        for step in (0, 2):
            (one,) = whole.step(step)
            assert astuple(one.shares) == (1.0, 1.0, 1.0, 1.0)
            of_ranks = [part.step(step) for part in parts]
            every = [batch for batches in of_ranks for batch in batches]
            assert [len(batches) for batches in of_ranks] == [accumulation] * world_size
            assert_joined_same(joined(every), joined([one]))
            rows = [row for batch in every for row in batch.rows]
            assert tuple(rows) == one.rows
            assert len(set(rows)) == rows_per_step
            assert sum(batch.tokens for batch in every) == one.tokens == int(one.mask.sum())
            shares = np.array([astuple(batch.shares) for batch in every])
            np.testing.assert_allclose(shares.sum(axis=0), world_size)
            pairs = [int((b.segment_ids[:, :, None] == b.segment_ids[:, None])[b.mask].sum()) for b in every]
            np.testing.assert_allclose(shares[:, 2], np.array(pairs) * world_size / sum(pairs))
            masked = [len(batch.masked_labels) for batch in every]
            np.testing.assert_allclose(shares[:, 0], np.array(masked) * world_size / sum(masked))


def test_epochs_reshuffle_rows_and_masks(large: TokenShards) -> None:
    plain = toy_stream(large, seq_len=32, mlm_probability=0.0)
    first, second = rows_of(plain, "input_ids", 0), rows_of(plain, "input_ids", 1)
    assert sorted(map(tuple, first)) == sorted(map(tuple, second))
    assert (first != second).any(axis=1).mean() > 0.9
    masked = toy_stream(large, seq_len=32)
    masks = [
        {
            tuple(text): tuple(row)
            for text, row in zip(texts, rows_of(masked, "input_ids", epoch), strict=True)
        }
        for epoch, texts in enumerate((first, second))
    ]
    same = sum(masks[0][text] == masks[1][text] for text in masks[0])
    assert same < 0.05 * len(masks[0])
    other = rows_of(toy_stream(large, seq_len=32, mlm_probability=0.0, seed=1), "input_ids")
    assert (first != other).any(axis=1).mean() > 0.9


def test_masks_do_not_depend_on_the_size_of_a_step(large: TokenShards) -> None:
    small, big = (toy_stream(large, seq_len=32, rows_per_step=n) for n in (7, 30))
    np.testing.assert_array_equal(rows_of(small, "input_ids"), rows_of(big, "input_ids"))


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=2, max_size=20), fraction=st.sampled_from([0.01, 0.2, 0.5])
)
def test_held_out_documents_are_never_trained_on(lengths: list[int], fraction: float) -> None:
    with corpus(lengths, held_out_fraction=fraction) as (shards, documents):
        found = {}
        for split in ("train", "held_out"):
            numbers = shards.train if split == "train" else shards.held_out
            expected = {token for number in numbers for token in documents[number]}
            if not expected:
                continue
            stream = toy_stream(shards, mlm_probability=0.0, split=split)
            ids = {int(i) for e in (0, 1) for i in rows_of(stream, "input_ids", e).ravel() if i >= FIRST_WORD}
            assert ids == expected
            found[split] = ids
    assert not set.intersection(*found.values()) or len(found) == 1


def test_a_step_larger_than_the_corpus_runs_on_into_the_next_epochs(tmp_path: Path) -> None:
    shards, documents = toy_shards(tmp_path, [14, 14, 14])
    stream = toy_stream(shards, rows_per_step=8, mlm_probability=0.0)
    assert (stream.rows_per_epoch, stream.steps_per_epoch) == (3, 1)
    rows = torch.cat([stream.step(step)[0].input_ids for step in range(3)])
    expected = sorted([CLS, *document, SEP] for document in documents)
    for epoch in range(8):
        assert sorted(rows[epoch * 3 : epoch * 3 + 3].tolist()) == expected
    assert len({tuple(map(tuple, rows[e * 3 : e * 3 + 3].tolist())) for e in range(8)}) > 1


def test_steps_per_epoch(large: TokenShards) -> None:
    stream = toy_stream(large, rows_per_step=7)
    assert (stream.steps_per_epoch - 1) * 7 < stream.rows_per_epoch <= stream.steps_per_epoch * 7


def test_a_stream_travels_without_its_tokens(large: TokenShards) -> None:
    stream = toy_stream(large)
    stream.step(0)
    assert_same(pickle.loads(pickle.dumps(stream)).step(3), stream.step(3))


def test_ids_and_tables_come_from_the_tokenizer(tmp_path: Path) -> None:
    write_text(tmp_path / "text.txt", [40])
    shards = build_shards(toy_tokenizer(), [tmp_path / "text.txt"], tmp_path / "shards", progress=False)
    special, continuation = np.zeros(FIRST_WORD + WORDS, bool), np.zeros(FIRST_WORD + WORDS, bool)
    special[[PAD, UNK, CLS, SEP, MASK]] = True
    continuation[CONTINUATION] = True
    by_hand = BatchStream(
        shards,
        seq_len=16,
        rows_per_step=4,
        cls_id=CLS,
        sep_id=SEP,
        pad_id=PAD,
        mask_id=MASK,
        vocab_size=FIRST_WORD + WORDS,
        continuation=continuation,
        special=special,
    )
    assert_same(by_hand.step(1), toy_stream(shards).step(1))


@pytest.mark.parametrize(
    ("fraction", "split", "way_out"), [(1.0, "train", "lower it"), (0.0, "held_out", "--validation")]
)
def test_empty_split(tmp_path: Path, fraction: float, split: str, way_out: str) -> None:
    shards, _ = toy_shards(tmp_path, [10, 20], held_out_fraction=fraction)
    with pytest.raises(InputError, match=f"{split} split.*{way_out}"):
        toy_stream(shards, split=split)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seq_len": 3}, "seq_len is 3"),
        ({"seq_len": 4, "nsp": True}, "seq_len is 4"),
        ({"rows_per_step": 3, "accumulation_steps": 2, "world_size": 2}, "3 rows a step"),
        ({"mlm_probability": 1.5}, "mlm_probability is 1.5"),
    ],
)
def test_sizes_that_do_not_fit(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    shards, _ = toy_shards(tmp_path, [10, 20])
    with pytest.raises(InputError, match=message):
        toy_stream(shards, **options)
