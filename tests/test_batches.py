from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention
from toy_corpus import (
    CLS,
    CONTINUATION,
    FIRST_WORD,
    MASK,
    PAD,
    SEP,
    UNK,
    WORDS,
    rows_of,
    toy_shards,
    toy_stream,
    toy_tokenizer,
    write_text,
)

from edad_fast.batches import Batch, BatchStream, TokenShards, build_shards
from edad_fast.batches.packing import best_fit
from edad_fast.errors import InputError

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


@contextmanager
def corpus(
    lengths: Sequence[int], tails: Sequence[int] = (0,), held_out_fraction: float = 0.0
) -> Iterator[tuple[TokenShards, list[list[int]]]]:
    with TemporaryDirectory() as folder:
        yield toy_shards(Path(folder), lengths, tails, held_out_fraction)


@pytest.fixture(scope="module")
def large() -> Iterator[TokenShards]:
    """2,800 words in documents of 1 to 80, some words of two or three tokens."""
    lengths = np.random.default_rng(0).integers(1, 81, 69).tolist()
    with corpus(lengths, tails=(0, 1, 0, 2)) as (shards, _):
        yield shards


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


# ------------------------------------------------------------------------------------------------ packing


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


# ------------------------------------------------------------------------------------------------ masking


@settings(max_examples=40, deadline=None)
@given(
    lengths=LENGTHS,
    seq_len=SEQ_LENS,
    seed=st.integers(0, 2**64 - 1),
    probability=st.sampled_from([0.01, 0.15, 0.3, 0.5, 1.0]),
    nsp=st.booleans(),
)
def test_masks(lengths: list[int], seq_len: int, seed: int, probability: float, nsp: bool) -> None:
    with corpus([*lengths, 2, 2], tails=(0, 0, 1)) as (shards, _):
        options = {"seq_len": seq_len, "seed": seed, "nsp": nsp}
        masked = toy_stream(shards, mlm_probability=probability, **options)
        plain = toy_stream(shards, mlm_probability=0.0, **options)
        for step in range(3):
            (batch,), (text,) = masked.step(step), plain.step(step)
            assert len(text.masked_positions) == len(text.masked_labels) == 0
            flat, original = batch.input_ids.flatten(), text.input_ids.flatten()
            assert torch.equal(original[batch.masked_positions], batch.masked_labels)
            assert (batch.masked_labels >= CONTINUATION).all(), "special tokens and padding are never masked"
            assert (batch.masked_positions.diff() > 0).all()
            changed = (flat != original).nonzero().flatten()
            assert set(changed.tolist()) <= set(batch.masked_positions.tolist())
            assert (flat[changed] >= MASK).all(), "no special token but [MASK] is put in"
            counts = torch.bincount(batch.masked_positions // seq_len, minlength=len(batch.rows))
            for count, n in zip(counts, (text.input_ids >= CONTINUATION).sum(dim=1), strict=True):
                assert count == max(1, round(probability * int(n)))


def test_80_10_10_and_uniform_choice(large: TokenShards) -> None:
    stream = toy_stream(large, seq_len=64, rows_per_step=50, seed=1)
    masked = kept = random = 0
    ids: list[int] = []
    columns: list[int] = []
    for step in range(60):
        (batch,) = stream.step(step)
        now = batch.input_ids.flatten()[batch.masked_positions]
        masked += int((now == MASK).sum())
        kept += int((now == batch.masked_labels).sum())
        other = now[(now != MASK) & (now != batch.masked_labels)]
        random += len(other)
        ids += other.tolist()
        full = (batch.segment_ids == 1).all(dim=1)[batch.masked_positions // 64]
        columns += (batch.masked_positions[full] % 64).tolist()
    n = masked + kept + random
    assert n > 20_000
    for count, share in ((masked, 0.8), (kept, 0.1), (random, 0.1)):
        assert abs(count - n * share) < 4.5 * (n * share * (1 - share)) ** 0.5
    words = np.array(ids)
    assert words.min() >= CONTINUATION
    assert words.max() < FIRST_WORD + WORDS
    assert (
        abs(words.mean() - (CONTINUATION + FIRST_WORD + WORDS) / 2) < 4.5 * WORDS / (12 * len(words)) ** 0.5
    )
    counts = np.bincount(columns, minlength=64)
    assert counts[0] == counts[63] == 0
    expected = counts.sum() / 62
    chi2 = ((counts[1:63] - expected) ** 2 / expected).sum()
    assert chi2 < 62 + 5 * (2 * 62) ** 0.5, "columns are masked equally often"


def test_unknown_words_and_special_tokens_in_the_text_are_never_masked(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("zzz w1 [MASK] [SEP] w2 zzz\n\nzzz zzz zzz\n", encoding="utf-8")
    shards = build_shards(toy_tokenizer(), [tmp_path / "text.txt"], tmp_path / "shards", progress=False)
    assert UNK in shards.document(0)
    stream = toy_stream(shards, mlm_probability=1.0, seq_len=24, rows_per_step=4)
    (batch,) = stream.step(0)
    assert set(batch.masked_labels.tolist()) == {FIRST_WORD + 1, FIRST_WORD + 2}


def test_row_of_unknown_words_only(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("zzz zzz zzz\n", encoding="utf-8")
    shards = build_shards(toy_tokenizer(), [tmp_path / "text.txt"], tmp_path / "shards", progress=False)
    (batch,) = toy_stream(shards).step(0)
    assert len(batch.masked_positions) == 0
    assert batch.shares.masked == 0.0
    assert batch.shares.tokens == 1.0


@settings(max_examples=40, deadline=None)
@given(lengths=LENGTHS, seq_len=SEQ_LENS, seed=st.integers(0, 2**64 - 1), nsp=st.booleans())
def test_whole_words(lengths: list[int], seq_len: int, seed: int, nsp: bool) -> None:
    with corpus([*lengths, 2, 2], tails=(0, 1, 0, 3)) as (shards, _):
        options = {"seq_len": seq_len, "seed": seed, "nsp": nsp}
        masked = toy_stream(shards, whole_word=True, **options)
        plain = toy_stream(shards, mlm_probability=0.0, **options)
        for step in range(3):
            (batch,), (text,) = masked.step(step), plain.step(step)
            chosen = torch.zeros(text.input_ids.numel(), dtype=torch.bool)
            chosen[batch.masked_positions] = True
            for row, marks in zip(text.input_ids.tolist(), chosen.view_as(text.input_ids), strict=True):
                words: list[list[bool]] = []
                for column, token in enumerate(row):
                    if token == CONTINUATION and row[column - 1] >= CONTINUATION:
                        words[-1].append(bool(marks[column]))
                    elif token >= CONTINUATION:
                        words.append([bool(marks[column])])
                    else:
                        assert not marks[column]
                assert all(len(set(word)) == 1 for word in words), "a word is masked whole or not at all"
                budget = max(1, round(0.15 * sum(map(len, words))))
                count = int(marks.sum())
                taken = [word for word in words if word[0]]
                assert len(taken) >= 1
                assert len(taken) == 1 or abs(count - budget) <= max(map(len, words)) / 2


def test_whole_words_mask_the_share_asked_for(large: TokenShards) -> None:
    stream = toy_stream(large, seq_len=64, rows_per_step=50, whole_word=True)
    (batch,) = stream.step(0)
    n = int((batch.mask & (batch.position_ids > 0)).sum())  # words and [SEP]
    assert 0.13 < len(batch.masked_labels) / n < 0.16


# --------------------------------------------------------------------------------------- pure in (seed, step)


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


def test_workers_outlive_a_signal_to_the_process_group(large: TokenShards) -> None:
    iterator = toy_stream(large).iterate(0, 50, workers=1)
    next(iterator)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid or 0, signal.SIGINT)
    os.kill(worker.pid or 0, signal.SIGTERM)
    assert sum(1 for _ in iterator) == 49


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


# ------------------------------------------------------------------------------------------------ pairs


@settings(max_examples=40, deadline=None)
@given(lengths=LENGTHS, seq_len=SEQ_LENS, seed=st.integers(0, 2**64 - 1))
def test_pairs_are_labelled_right(lengths: list[int], seq_len: int, seed: int) -> None:
    with corpus([*lengths, 2, 5]) as (shards, documents):
        document_of = {token: i for i, document in enumerate(documents) for token in document}
        stream = toy_stream(shards, seq_len=seq_len, nsp=True, mlm_probability=0.0, seed=seed)
        batches = [stream.step(step)[0] for step in range(4)]
    for batch in batches:
        assert batch.next_sentence_labels is not None
        for i, label in enumerate(batch.next_sentence_labels.tolist()):
            n = int(batch.mask[i].sum())
            row, types = batch.input_ids[i, :n].tolist(), batch.token_type_ids[i].tolist()
            assert (batch.segment_ids[i, :n] == 1).all()
            assert batch.position_ids[i, :n].tolist() == list(range(n))
            middle = row.index(SEP)
            a, b = row[1:middle], row[middle + 1 : -1]
            assert (row[0], row[-1], row.count(SEP)) == (CLS, SEP, 2)
            assert types == [0] * (middle + 1) + [1] * (n - middle - 1) + [0] * (seq_len - n)
            for part in (a, b):
                assert part == list(range(part[0], part[0] + len(part))), "a stretch of running text"
                assert len({document_of[token] for token in part}) == 1
            if label == 0:
                assert b[0] == a[-1] + 1
                assert document_of[b[0]] == document_of[a[0]]
            else:
                assert label == 1
                assert document_of[b[0]] != document_of[a[0]]


def test_pairs_half_random_split_at_words_and_alike_in_length(tmp_path: Path) -> None:
    lengths = np.random.default_rng(1).integers(60, 80, 40).tolist()
    shards, _ = toy_shards(tmp_path, lengths, tails=(0, 2, 0, 1))
    stream = toy_stream(shards, seq_len=35, nsp=True, mlm_probability=0.0, rows_per_step=100)
    labels, sizes = [], []
    cuts: Counter[tuple[int, ...]] = Counter()
    for step in range(20):
        (batch,) = stream.step(step)
        assert batch.next_sentence_labels is not None
        second = batch.token_type_ids == 1
        starts = batch.input_ids[torch.arange(100), second.int().argmax(dim=1)]
        assert (starts != CONTINUATION).all(), "a broken word would give the label away"
        labels += batch.next_sentence_labels.tolist()
        sizes += batch.mask.sum(dim=1).tolist()
        cuts.update(tuple(row) for row in batch.input_ids.tolist())
    n = len(labels)
    assert abs(sum(labels) - n / 2) < 4.5 * (n / 4) ** 0.5
    full = np.array(sizes) == 35
    for label in (0, 1):
        assert full[np.array(labels) == label].mean() == pytest.approx(full.mean(), abs=0.08)
    assert len(cuts) > 0.9 * n, "cuts and partners are drawn anew each epoch"


@pytest.mark.parametrize("lengths", [[50], [50, 1]])
def test_pairs_need_two_documents(tmp_path: Path, lengths: list[int]) -> None:
    shards, _ = toy_shards(tmp_path, lengths)
    with pytest.raises(InputError, match=r"next-sentence prediction needs two documents.* 1"):
        toy_stream(shards, nsp=True)


# ------------------------------------------------------------------------------------------------ errors


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


# ------------------------------------------------------------------------------------------------ Batch


def test_attention_mask_is_block_diagonal_and_keeps_softmax_finite(tmp_path: Path) -> None:
    shards, _ = toy_shards(tmp_path, [4, 5, 3])
    (batch,) = toy_stream(shards, rows_per_step=2).step(0)
    mask = batch.attention_mask()
    assert mask is not None
    assert (mask.shape, mask.dtype) == ((2, 1, 16, 16), torch.bool)
    for row, block in zip(batch.segment_ids.tolist(), mask[:, 0].tolist(), strict=True):
        assert len(set(row)) > 1
        for i, left in enumerate(row):
            assert block[i] == [left == right for right in row]
    x = torch.randn(2, 3, 16, 8)
    assert scaled_dot_product_attention(x, x, x, attn_mask=mask).isfinite().all()


def test_full_rows_need_no_attention_mask(tmp_path: Path) -> None:
    shards, _ = toy_shards(tmp_path, [14, 28, 3])
    stream = toy_stream(shards, rows_per_step=1)
    seen = set()
    for step in range(4):
        (batch,) = stream.step(step)
        full = bool((batch.segment_ids == 1).all())
        assert batch.full_rows is full
        assert (batch.attention_mask() is None) is full
        by_hand = Batch(**{name: getattr(batch, name) for name in TENSORS})
        assert (by_hand.attention_mask() is None) is full
        seen.add(full)
    assert seen == {True, False}


def test_moving_a_batch(large: TokenShards) -> None:
    (batch,) = toy_stream(large, nsp=True).step(0)
    moved = batch.to("meta")
    assert all(getattr(moved, name).is_meta for name in TENSORS)
    assert (moved.shares, moved.tokens, moved.step, moved.rows, moved.full_rows) == (
        batch.shares,
        batch.tokens,
        batch.step,
        batch.rows,
        batch.full_rows,
    )
    assert torch.equal(batch.mask, batch.segment_ids > 0)


def test_types_and_shapes(large: TokenShards) -> None:
    (batch,) = toy_stream(large, rows_per_step=5, nsp=True).step(2)
    for name in ("input_ids", "position_ids", "token_type_ids"):
        assert getattr(batch, name).dtype == torch.int64
        assert getattr(batch, name).shape == (5, 16)
    assert batch.segment_ids.dtype == torch.int32
    assert batch.masked_positions.dtype == batch.masked_labels.dtype == torch.int64
    assert batch.next_sentence_labels is not None
    assert (batch.next_sentence_labels.dtype, batch.next_sentence_labels.shape) == (torch.int64, (5,))
    assert (batch.step, batch.rows) == (2, (10, 11, 12, 13, 14))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_pinned_memory(large: TokenShards) -> None:
    stream = toy_stream(large)
    for batches in stream.iterate(0, 2, workers=1, pin_memory=True):
        assert batches[0].input_ids.is_pinned()
        assert_same([batches[0].to("cuda", non_blocking=True).to("cpu")], stream.step(batches[0].step))


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
