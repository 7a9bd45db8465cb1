"""Pairs of texts for next-sentence prediction."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_corpus import CLS, CONTINUATION, LENGTHS, SEP, SEQ_LENS, corpus, toy_shards, toy_stream

from edad_fast.errors import InputError


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
