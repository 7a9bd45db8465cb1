"""Which tokens are masked, and what takes their place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_corpus import (
    CONTINUATION,
    FIRST_WORD,
    LENGTHS,
    MASK,
    SEQ_LENS,
    UNK,
    WORDS,
    corpus,
    large_shards,
    toy_stream,
    toy_tokenizer,
)

from edad_fast.batches import TokenShards, build_shards


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> TokenShards:
    return large_shards(tmp_path_factory.mktemp("large"))


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
