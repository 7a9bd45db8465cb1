"""The divergence of self-relations, tile by tile; no relation map is stored.

The maps A A^T are symmetric: one tile of scores gives its own part of D = P^S - P^T and the mirrored one, so
the gradient (D + D^T) A takes no second product of scores. Two launches: the normalisers of all rows, then
value and gradient row by row, which compute the scores again. Equal inputs give equal bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common import dense_rows, saved_dtype
from .attention import _counted, _ids, _tile
from .launch import block, divergence, fine_product, interpreting, on_device, product

# Rows and columns of a tile, and warps, by the bytes of an element.
TILES = {2: (64, 32, 4), 4: (32, 32, 8)}


@triton.jit
def _vectors(pointer, ids, rows, length, stride, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Rows of one head; padding is not read and is 0."""
    return _tile(pointer, tl.where(ids > 0, rows, length), length, stride, WIDTH, BLOCK)


@triton.jit
def _scores(x, y, pairs, scale, EMULATE: tl.constexpr):
    """Scaled scores of the counted pairs, -inf elsewhere."""
    return tl.where(pairs, product(x, tl.trans(y), EMULATE) * scale, float("-inf"))


@triton.jit
def _add_row(scores, largest, summed):
    """Largest score of each row so far, and the sum of exp(score - largest)."""
    higher = tl.maximum(largest, tl.max(scores, 1))
    safe = tl.where(higher == float("-inf"), 0.0, higher)  # -inf - -inf in rows without a pair
    return higher, summed * tl.exp(largest - safe) + tl.sum(tl.exp(scores - safe[:, None]), 1)


@triton.jit
def _load(normalisers, rows, length, n_model):
    """Largest score and logarithm of the sum of both models' rows; one number would round the latter away."""
    place = normalisers + rows * 2
    inside = rows < length
    return (
        tl.load(place, mask=inside, other=0.0),
        tl.load(place + 1, mask=inside, other=0.0),
        tl.load(place + n_model, mask=inside, other=0.0),
        tl.load(place + n_model + 1, mask=inside, other=0.0),
    )


@triton.jit
def _store(pointer, value, rows, length, stride, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    tl.store(
        pointer + rows[:, None] * stride + columns[None, :],
        value.to(pointer.dtype.element_ty),
        mask=(rows[:, None] < length) & (columns[None, :] < WIDTH),
    )


@triton.jit
def _normalisers(
    student, teacher, segments, normalisers, heads, length, tiles, n_model, student_scale, teacher_scale,
    s_batch, s_head, s_row, t_batch, t_head, t_row,
    S: tl.constexpr, T: tl.constexpr, S_BLOCK: tl.constexpr, T_BLOCK: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, SEGMENTS: tl.constexpr, EMULATE: tl.constexpr,
):  # fmt: skip
    """Log-sum-exp of a few rows of both maps, in its two parts."""
    head = tl.cast(tl.program_id(0) // tiles, tl.int64)
    b, h = head // heads, head % heads
    own, theirs = student + b * s_batch + h * s_head, teacher + b * t_batch + h * t_head
    rows = tl.program_id(0) % tiles * ROWS + tl.arange(0, ROWS)
    ids = _ids(segments + b * length, rows, length, SEGMENTS)
    x = _vectors(own, ids, rows, length, s_row, S, S_BLOCK)
    y = _vectors(theirs, ids, rows, length, t_row, T, T_BLOCK)
    s_largest = tl.full([ROWS], float("-inf"), dtype=tl.float32)
    t_largest = tl.full([ROWS], float("-inf"), dtype=tl.float32)
    s_sum = tl.zeros([ROWS], dtype=tl.float32)
    t_sum = tl.zeros([ROWS], dtype=tl.float32)
    for first in range(0, length, COLUMNS):
        others = first + tl.arange(0, COLUMNS)
        other_ids = _ids(segments + b * length, others, length, SEGMENTS)
        pairs = _counted(ids[:, None], other_ids[None, :], False)
        k = _vectors(own, other_ids, others, length, s_row, S, S_BLOCK)
        s_largest, s_sum = _add_row(_scores(x, k, pairs, student_scale, EMULATE), s_largest, s_sum)
        u = _vectors(theirs, other_ids, others, length, t_row, T, T_BLOCK)
        t_largest, t_sum = _add_row(_scores(y, u, pairs, teacher_scale, EMULATE), t_largest, t_sum)
    place = normalisers + (head * length + rows) * 2
    tl.store(place, s_largest, mask=rows < length)
    tl.store(place + 1, tl.log(s_sum), mask=rows < length)
    tl.store(place + n_model, t_largest, mask=rows < length)
    tl.store(place + n_model + 1, tl.log(t_sum), mask=rows < length)


@triton.jit
def _rows(
    student, teacher, segments, normalisers, gradient, sums,
    heads, length, tiles, n_model, student_scale, teacher_scale,
    s_batch, s_head, s_row, t_batch, t_head, t_row,
    S: tl.constexpr, T: tl.constexpr, S_BLOCK: tl.constexpr, T_BLOCK: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, SEGMENTS: tl.constexpr, WANT: tl.constexpr,
    EMULATE: tl.constexpr,
):  # fmt: skip
    """A few rows of the maps against all their columns."""
    head = tl.cast(tl.program_id(0) // tiles, tl.int64)
    b, h = head // heads, head % heads
    own, theirs = student + b * s_batch + h * s_head, teacher + b * t_batch + h * t_head
    rows = tl.program_id(0) % tiles * ROWS + tl.arange(0, ROWS)
    ids = _ids(segments + b * length, rows, length, SEGMENTS)
    x = _vectors(own, ids, rows, length, s_row, S, S_BLOCK)
    y = _vectors(theirs, ids, rows, length, t_row, T, T_BLOCK)
    normalisers += head * length * 2
    s_largest, s_log, t_largest, t_log = _load(normalisers, rows, length, n_model)
    total = tl.zeros([ROWS], dtype=tl.float32)
    result = tl.zeros([ROWS, S_BLOCK], dtype=tl.float32)
    for first in range(0, length, COLUMNS):
        others = first + tl.arange(0, COLUMNS)
        other_ids = _ids(segments + b * length, others, length, SEGMENTS)
        pairs = _counted(ids[:, None], other_ids[None, :], False)
        k = _vectors(own, other_ids, others, length, s_row, S, S_BLOCK)
        u = _vectors(theirs, other_ids, others, length, t_row, T, T_BLOCK)
        t = _scores(y, u, pairs, teacher_scale, EMULATE)
        s = _scores(x, k, pairs, student_scale, EMULATE)
        log_s = s - s_largest[:, None] - s_log[:, None]
        log_t = t - t_largest[:, None] - t_log[:, None]
        own_s = tl.exp(log_s)
        own_t = tl.exp(log_t)
        total += tl.sum(tl.where(pairs, divergence(log_s, log_t, own_s, own_t), 0.0), 1)
        if WANT:
            s_top, s_rest, t_top, t_rest = _load(normalisers, others, length, n_model)
            mirrored_s = tl.exp(s - s_top[None, :] - s_rest[None, :])
            mirrored_t = tl.exp(t - t_top[None, :] - t_rest[None, :])
            both = tl.where(pairs, own_s - own_t + (mirrored_s - mirrored_t), 0.0)
            result += fine_product(both * student_scale, k, EMULATE)
    tl.store(sums + tl.program_id(0), tl.sum(total, 0))
    if WANT:
        _store(gradient + head * length * S, result, rows, length, S, S, S_BLOCK)


def relation_terms(
    student: Tensor,
    teacher: Tensor,
    segments: Tensor | None,
    *,
    student_scale: float,
    teacher_scale: float,
    want: bool,
) -> tuple[Tensor, Tensor]:
    """As `chunked_outputs.relation_terms`, for heads of `choice.WIDEST_RELATION` at most."""
    batch, heads, length, width = student.shape
    gradient = student.new_empty(student.shape if want else 0, dtype=saved_dtype(student))
    x, y = dense_rows([student, teacher])
    rows, columns, warps = TILES[max(x.element_size(), y.element_size())]
    tiles = triton.cdiv(length, rows)
    sums = torch.zeros(batch * heads * tiles, dtype=torch.float32, device=student.device)
    if not sums.numel():
        return sums.sum(), gradient
    ids = sums if segments is None else segments.contiguous()
    normalisers = sums.new_empty((2, batch, heads, length, 2))
    numbers = heads, length, tiles, normalisers.stride(0), student_scale, teacher_scale
    numbers = *numbers, *x.stride()[:3], *y.stride()[:3]
    shape = {
        "S": width,
        "T": y.shape[3],
        "S_BLOCK": block(width),
        "T_BLOCK": block(y.shape[3]),
        "ROWS": rows,
        "COLUMNS": columns,
        "SEGMENTS": segments is not None,
        "EMULATE": interpreting(),
        "num_warps": warps,
    }
    with on_device(student):
        _normalisers[sums.shape](x, y, ids, normalisers, *numbers, **shape)
        _rows[sums.shape](x, y, ids, normalisers, gradient, sums, *numbers, WANT=want, **shape)
    return sums.sum(dtype=torch.float64).float(), gradient
