"""What one forward pass reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

AnyBatch = TypeVar("AnyBatch", bound="Batch")


@dataclass(frozen=True)
class Shares:
    """This micro-batch's part of its optimiser step's totals.

    A loss that is a mean over masked positions, tokens, attention pairs (both of one segment) or rows is
    weighted with the part of that name; summed over the micro-batches of a step and averaged over the
    processes it is then the mean over the whole step. So parts carry a factor `world_size`; they are 0 where
    the step's total is 0.
    """

    masked: float = 1.0
    tokens: float = 1.0
    pairs: float = 1.0
    rows: float = 1.0


@dataclass(frozen=True)
class Batch:
    """A micro-batch of B rows of L tokens, M of them to predict.

    input_ids            int64 [B, L]  masked
    segment_ids          int32 [B, L]  0 = padding, k = k-th piece of the row; attention stays inside one.
                                       With next-sentence prediction a row's pair is one segment.
    position_ids         int64 [B, L]  restart at 0 in each segment
    token_type_ids       int64 [B, L]  1 in the second half of a pair, else 0
    masked_positions     int64 [M]     flat into B * L, ascending
    masked_labels        int64 [M]     the tokens that stood there
    next_sentence_labels int64 [B]     0 = the second part follows the first, 1 = random; None without pairs
    cu_seqlens           int32 [S + 1]: where segments, and stretches of padding, begin in B * L and where the
                         last one ends; filled up with B * L, so that few sizes occur. None: not known
    tokens               non-padding tokens, with [CLS] and [SEP]
    step, rows           the optimiser step and the rows' numbers in the stream (not reused in later epochs)
    full_rows            True: every row is one segment without padding; None: not known yet
    """

    input_ids: Tensor
    segment_ids: Tensor
    position_ids: Tensor
    token_type_ids: Tensor
    masked_positions: Tensor
    masked_labels: Tensor
    next_sentence_labels: Tensor | None
    shares: Shares = Shares()
    tokens: int = 0
    step: int = 0
    rows: tuple[int, ...] = ()
    full_rows: bool | None = None
    cu_seqlens: Tensor | None = None

    @property
    def mask(self) -> Tensor:
        """Boolean [B, L]: True at tokens, False at padding."""
        return self.segment_ids > 0

    def attention_mask(self) -> Tensor | None:
        """Boolean [B, 1, L, L], True = may attend, block-diagonal by segment; None when all attend to all.

        Padding attends to the padding of its row: no token sees it, and no softmax row is empty.
        """
        full = self.full_rows
        if full is None:
            full = bool((self.segment_ids == 1).all())
        if full:
            return None
        return (self.segment_ids[:, :, None] == self.segment_ids[:, None, :])[:, None]

    def _map(self: AnyBatch, function: Callable[[Tensor], Tensor]) -> AnyBatch:
        moved: dict[str, Any] = {k: function(v) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return dataclasses.replace(self, **moved)

    def to(self: AnyBatch, device: torch.device | str, non_blocking: bool = False) -> AnyBatch:
        """Return the batch with its tensors on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self: AnyBatch) -> AnyBatch:
        """Return the batch with its tensors in page-locked memory."""
        return self._map(torch.Tensor.pin_memory)
