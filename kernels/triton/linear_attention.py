"""The attention-score loss in O(L d^2): linear_form.py as one program per head, without intermediate tensors.

The products of columns are exact in fp32 up to their sums; rows of several segments are not told apart.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common import dense_rows, gradient_like
from .attention import _ids, _place, _tile
from .launch import block, groups, interpreting, on_device, pick, product

# Rows of a tile by the bytes of an element: fp32 keeps more in registers.
ROWS = {2: 64, 4: 32}


@triton.jit
def _coarse_product(x, matrix, EMULATE: tl.constexpr):
    """x matrix with x a tile of inputs and matrix in fp32, which is not rounded to the inputs' dtype."""
    if EMULATE:
        result = tl.dot(x.to(tl.float32), matrix)
    elif x.dtype == tl.bfloat16:
        high = matrix.to(tl.bfloat16)
        low = (matrix - high.to(tl.float32)).to(tl.bfloat16)
        result = tl.dot(x, low)
        result = tl.dot(x, high, result)
    elif x.dtype == tl.float16:  # its 11 bits are two parts in bf16
        high = matrix.to(tl.bfloat16)
        low = (matrix - high.to(tl.float32)).to(tl.bfloat16)
        head = x.to(tl.bfloat16)
        tail = (x.to(tl.float32) - head.to(tl.float32)).to(tl.bfloat16)
        result = tl.dot(head, low)
        result = tl.dot(tail, high, result)
        result = tl.dot(head, high, result)
    else:
        result = tl.dot(x, matrix, input_precision="ieee")
    return result


@triton.jit
def _side(
    student, teacher, segments, rows, length, s_row, t_row, S: tl.constexpr, T: tl.constexpr,
    S_BLOCK: tl.constexpr, T_BLOCK: tl.constexpr, SEGMENTS: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Tiles of the student's and the teacher's queries or keys, rows that do not count set to 0."""
    x = _tile(student, rows, length, s_row, S, S_BLOCK)
    y = _tile(teacher, rows, length, t_row, T, T_BLOCK)
    if MASKED:
        valid = _ids(segments, rows, length, SEGMENTS)[:, None] > 0
        x = tl.where(valid, x, 0.0).to(x.dtype)
        y = tl.where(valid, y, 0.0).to(y.dtype)
    return x, y


@triton.jit
def _linear(
    q0, q1, q2, q3, k0, k1, k2, k3, t0, t1, t2, t3, u0, u1, u2, u3,
    segments, cu_seqlens, grad_q, grad_k, sums, heads, length, student_scale, teacher_scale,
    q_batch, q_head, q_row, k_batch, k_head, k_row, t_batch, t_head, t_row, u_batch, u_head, u_row,
    gq_layer, gq_batch, gq_head, gq_row, gk_layer, gk_batch, gk_head, gk_row,
    S: tl.constexpr, T: tl.constexpr, S_BLOCK: tl.constexpr, T_BLOCK: tl.constexpr, ROWS: tl.constexpr,
    LAYERS: tl.constexpr, SEGMENTS: tl.constexpr, LENGTHS: tl.constexpr, TINYBERT: tl.constexpr,
    WANT_Q: tl.constexpr, WANT_K: tl.constexpr, EMULATE: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0) // heads
    h = tl.cast(tl.program_id(0) % heads, tl.int64)
    layer = tl.program_id(1)
    batch, start, end = _place(cu_seqlens, b, LENGTHS, length)
    q_start = pick(layer, q0, q1, q2, q3, LAYERS) + batch * q_batch + h * q_head + start * q_row
    k_start = pick(layer, k0, k1, k2, k3, LAYERS) + batch * k_batch + h * k_head + start * k_row
    t_start = pick(layer, t0, t1, t2, t3, LAYERS) + batch * t_batch + h * t_head + start * t_row
    u_start = pick(layer, u0, u1, u2, u3, LAYERS) + batch * u_batch + h * u_head + start * u_row
    ids = segments + batch * length
    MASK_QUERIES: tl.constexpr = SEGMENTS and not TINYBERT
    # Products of columns: of the queries (q student, t teacher) and of the keys (k student, u teacher).
    qq = tl.zeros([S_BLOCK, S_BLOCK], dtype=tl.float32)
    tq = tl.zeros([T_BLOCK, S_BLOCK], dtype=tl.float32)
    tt = tl.zeros([T_BLOCK, T_BLOCK], dtype=tl.float32)
    for first in range(0, end, ROWS):
        rows = first + tl.arange(0, ROWS)
        q, t = _side(
            q_start, t_start, ids, rows, end, q_row, t_row, S, T, S_BLOCK, T_BLOCK, SEGMENTS, MASK_QUERIES
        )
        qq += product(tl.trans(q), q, EMULATE)
        tq += product(tl.trans(t), q, EMULATE)
        tt += product(tl.trans(t), t, EMULATE)
    kk = tl.zeros([S_BLOCK, S_BLOCK], dtype=tl.float32)
    uk = tl.zeros([T_BLOCK, S_BLOCK], dtype=tl.float32)
    uu = tl.zeros([T_BLOCK, T_BLOCK], dtype=tl.float32)
    for first in range(0, end, ROWS):
        rows = first + tl.arange(0, ROWS)
        k, u = _side(
            k_start, u_start, ids, rows, end, k_row, u_row, S, T, S_BLOCK, T_BLOCK, SEGMENTS, SEGMENTS
        )
        kk += product(tl.trans(k), k, EMULATE)
        uk += product(tl.trans(u), k, EMULATE)
        uu += product(tl.trans(u), u, EMULATE)
    total = tl.sum(tl.sum(tt * uu, 1), 0) * (teacher_scale * teacher_scale)
    total -= 2.0 * student_scale * teacher_scale * tl.sum(tl.sum(tq * uk, 1), 0)
    total += tl.sum(tl.sum(qq * kk, 1), 0) * (student_scale * student_scale)
    tl.store(sums + layer * tl.num_programs(0) + tl.program_id(0), total)
    own = student_scale * student_scale
    cross = -student_scale * teacher_scale
    columns = tl.arange(0, S_BLOCK)
    if WANT_Q:
        place = grad_q + layer.to(tl.int64) * gq_layer + batch * gq_batch + h * gq_head + start * gq_row
        for first in range(0, end, ROWS):
            rows = first + tl.arange(0, ROWS)
            q, t = _side(
                q_start, t_start, ids, rows, end, q_row, t_row, S, T, S_BLOCK, T_BLOCK, SEGMENTS, MASK_QUERIES
            )
            gradient = _coarse_product(q, kk * own, EMULATE) + _coarse_product(t, uk * cross, EMULATE)
            inside = (rows[:, None] < end) & (columns[None, :] < S)
            tl.store(
                place + rows[:, None] * gq_row + columns[None, :],
                gradient.to(grad_q.dtype.element_ty),
                mask=inside,
            )
    if WANT_K:
        place = grad_k + layer.to(tl.int64) * gk_layer + batch * gk_batch + h * gk_head + start * gk_row
        for first in range(0, end, ROWS):
            rows = first + tl.arange(0, ROWS)
            k, u = _side(
                k_start, u_start, ids, rows, end, k_row, u_row, S, T, S_BLOCK, T_BLOCK, SEGMENTS, SEGMENTS
            )
            gradient = _coarse_product(k, qq * own, EMULATE) + _coarse_product(u, tq * cross, EMULATE)
            inside = (rows[:, None] < end) & (columns[None, :] < S)
            tl.store(
                place + rows[:, None] * gk_row + columns[None, :],
                gradient.to(grad_k.dtype.element_ty),
                mask=inside,
            )


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
    """As `chunked.attention_terms`, for one segment a row and heads of `choice.WIDEST_LINEAR` at most."""
    lists = [dense_rows(x) for x in (student_q, student_k, teacher_q, teacher_k)]
    batch, heads, length, width = lists[0][0].shape
    teacher_width = lists[2][0].shape[3]
    sequences = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    layers, device = len(student_q), lists[0][0].device
    gradients = [
        gradient_like(x, cu_seqlens is not None) if want else torch.empty(0, device=device)
        for want, x in ((want_q, student_q), (want_k, student_k))
    ]
    sums = torch.zeros((layers, max(1, sequences * heads)), dtype=torch.float32, device=device)
    if not sequences * heads * length:
        return sums.sum(1), gradients[0], gradients[1]
    masks = [
        sums if segments is None else segments.contiguous(),
        sums if cu_seqlens is None else cu_seqlens.contiguous(),
    ]
    with on_device(sums):
        for start, count, pointers in groups(*lists):
            strides = [x[start].stride()[:3] for x in lists]
            kept = [x[start:] if x.numel() else x for x in gradients]
            steps = [x.stride()[:4] if x.numel() else (0, 0, 0, 0) for x in gradients]
            _linear[(sequences * heads, count)](
                *(*pointers, *masks, *kept, sums[start:], heads, length, student_scale, teacher_scale),
                *(s for group in (*strides, *steps) for s in group),
                S=width,
                T=teacher_width,
                S_BLOCK=block(width),
                T_BLOCK=block(teacher_width),
                ROWS=ROWS[max(x[0].element_size() for x in lists)],
                LAYERS=count,
                SEGMENTS=segments is not None,
                LENGTHS=cu_seqlens is not None,
                TINYBERT=mode == "tinybert",
                WANT_Q=want_q,
                WANT_K=want_k,
                EMULATE=interpreting(),
                num_warps=8,
            )
    return sums.sum(1, dtype=torch.float64).float(), gradients[0], gradients[1]
