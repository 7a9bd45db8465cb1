"""The attention-score loss in O(L d^2): no score is ever computed.

With Z = [a Q_S | -b Q_T] and Y = [K_S | K_T], rows that do not count set to zero::

    sum of squared differences = <Z^T Z, Y^T Y>,  half gradients  dZ = Z (Y^T Y),  dY = Y (Z^T Z)

Sum and gradients are small differences of large numbers, so fp32 inputs are computed in fp64. bf16 and fp16
are in fp32: that error stays well below the one that rounding scores to those dtypes makes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from .common import compute_dtype, saved_dtype, stacked_like, without_autocast

# Elements of one piece of Z or Y: a piece and its copies should stay in a CPU's cache.
PIECE_ITEMS = {"cpu": 1 << 18}
DEFAULT_PIECE_ITEMS = 1 << 24


def attention_terms(
    student_q: list[Tensor],
    student_k: list[Tensor],
    teacher_q: list[Tensor],
    teacher_k: list[Tensor],
    segments: Tensor | None,
    *,
    mode: str,
    student_scale: float,
    teacher_scale: float,
    want_q: bool,
    want_k: bool,
    cu_seqlens: Tensor | None,
    max_length: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `chunked.attention_terms`, for at most one segment a row, or sequences laid end to end on a CPU.

    Args:
        segments: int [B, L] (0 = padding, else a token), or None.
        cu_seqlens: int [sequences + 1] with B = 1, or None; read on the host.
        max_length: not needed here.
    """
    narrow = student_q[0].dtype.itemsize == teacher_q[0].dtype.itemsize == 2
    dtype = torch.float32 if narrow else torch.float64
    sums = torch.zeros(len(student_q), dtype=torch.float64, device=student_q[0].device)
    gradients = [
        stacked_like(x, saved_dtype(x[0])) if want else x[0].new_empty(0)
        for want, x in ((want_q, student_q), (want_k, student_k))
    ]
    valid = None if segments is None else segments > 0
    with without_autocast(sums.device):
        for layer, tensors in enumerate(zip(student_q, student_k, teacher_q, teacher_k, strict=True)):
            kept = [x[layer] if x.dim() > 1 else None for x in gradients]
            end = 0
            for start, end in _spans(tensors[0], cu_seqlens):
                _sequence(
                    [x[:, :, start:end] for x in tensors],
                    (student_scale, teacher_scale),
                    valid if mode == "valid_pairs" else None,
                    valid,
                    dtype,
                    sums[layer],
                    [None if x is None else x[:, :, start:end] for x in kept],
                )
            if cu_seqlens is not None:
                for x in kept:
                    if x is not None:
                        x[:, :, end:] = 0
    return sums.to(compute_dtype(student_q[0], teacher_q[0])), gradients[0], gradients[1]


def _spans(x: Tensor, cu_seqlens: Tensor | None) -> Iterator[tuple[int, int]]:
    ends = [0, x.shape[2]] if cu_seqlens is None else cu_seqlens.tolist()
    yield from pairwise(ends)


def _sequence(
    tensors: list[Tensor],
    scales: tuple[float, float],
    valid_queries: Tensor | None,
    valid_keys: Tensor | None,
    dtype: torch.dtype,
    total: Tensor,
    gradients: list[Tensor | None],
) -> None:
    """Adds to `total` and writes the gradients, a few heads and a few hundred positions at a time."""
    student_q, student_k, teacher_q, teacher_k = tensors
    batch, heads, length, width = student_q.shape
    items = PIECE_ITEMS.get(total.device.type, DEFAULT_PIECE_ITEMS) // (width + teacher_q.shape[3])
    rows = max(1, min(length, items))
    many = max(1, items // rows)

    def piece(
        student: Tensor,
        teacher: Tensor,
        scale: tuple[float, float],
        valid: Tensor | None,
        at: tuple[slice, ...],
    ) -> Tensor:
        joined = torch.cat([student[at].to(dtype) * scale[0], teacher[at].to(dtype) * scale[1]], dim=-1)
        if valid is not None:
            joined.masked_fill_(~valid[at[0], None, at[2], None], 0.0)
        return joined

    together = max(1, many // max(1, heads))
    for b in (slice(i, i + together) for i in range(0, batch, together)):
        for h in (slice(i, i + many) for i in range(0, heads, many)):
            at = [(b, h, slice(i, i + rows)) for i in range(0, length, rows)]
            queries = student_q, teacher_q, (scales[0], -scales[1]), valid_queries
            keys = student_k, teacher_k, (1.0, 1.0), valid_keys
            grams: list[Tensor] = []
            kept: list[Tensor] = []
            for side in (queries, keys):
                gram = None
                for place in at:
                    kept = [*kept, piece(*side, place)] if len(at) == 1 else []
                    whole = kept[-1] if kept else piece(*side, place)
                    product = whole.mT @ whole
                    gram = product if gram is None else gram.add_(product)
                grams.append(student_q[0].new_zeros(0, dtype=dtype) if gram is None else gram)
            if not at:
                continue
            total += (grams[0] * grams[1]).sum(dtype=torch.float64)
            for index, (side, factor) in enumerate(((queries, scales[0]), (keys, scales[0]))):
                gradient = gradients[index]
                if gradient is None:
                    continue
                # dZ = Z (Y^T Y) and so on; the columns of the student's part.
                matrix = grams[1 - index][..., :width]
                for place in at:
                    whole = kept[index] if kept else piece(*side, place)
                    product = whole @ matrix
                    gradient[place] = (product * factor if index == 0 else product).to(gradient.dtype)
