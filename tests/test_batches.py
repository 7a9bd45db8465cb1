"""What a batch holds: tensors, attention mask, places in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from toy_corpus import TENSORS, assert_same, large_shards, toy_shards, toy_stream

from edad_fast.batches import Batch, TokenShards


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> TokenShards:
    return large_shards(tmp_path_factory.mktemp("large"))


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
