"""The attention-score loss, score tile by score tile; layers, heads and sequences in one launch.

The difference of the scores lives in fp32 registers only. Where a sequence fits one tile, one program does
all of a head: value, gradient of the queries and of the keys. Longer sequences take two launches, rows of
queries and rows of keys; the second computes the scores again instead of adding up gradients by atomics.
Equal inputs give equal bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common import dense_rows, gradient_like
from .launch import (
    block,
    fine_product,
    groups,
    interpreting,
    on_device,
    pick,
    product,
    roomy,
)

# Longest sequence of one tile, and the tiles beyond it; fp32 tiles take twice the registers.
ONE_TILE = 128
# Where the GPU is not `roomy`, one tile takes bf16 heads of this width, both models together; fp16 takes more
# products.
NARROW = 128
TILES = {2: (128, 64), 4: (64, 32)}


@triton.jit
def _tile(pointer, rows, length, stride, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Rows [rows, BLOCK] of one head; 0 beyond the sequence and the head's width."""
    columns = tl.arange(0, BLOCK)
    return tl.load(
        pointer + rows[:, None] * stride + columns[None, :],
        mask=(rows[:, None] < length) & (columns[None, :] < WIDTH),
        other=0.0,
    )


@triton.jit
def _ids(pointer, rows, length, SEGMENTS: tl.constexpr):
    """Segment ids of positions: 1 for tokens where there are no segments, -1 beyond the sequence."""
    if SEGMENTS:
        ids = tl.maximum(tl.load(pointer + rows, mask=rows < length, other=0), 0)
        ids = tl.where(rows < length, ids, -1)
    else:
        ids = tl.where(rows < length, 1, -1)
    return ids


@triton.jit
def _counted(queries, keys, TINYBERT: tl.constexpr):
    """`common.counted_pairs` of broadcast ids."""
    same = queries == keys
    if TINYBERT:
        same = same | (queries == 0)
    return same & (keys > 0)


@triton.jit
def _place(sequences, b, LENGTHS: tl.constexpr, length):
    """(batch index, first position, length) of sequence b, within [0, length) whatever `sequences` holds."""
    batch, start = b, 0
    if LENGTHS:
        start = tl.minimum(tl.maximum(tl.load(sequences + b), 0), length)
        length = tl.minimum(tl.maximum(tl.load(sequences + b + 1), start), length) - start
        batch = 0
    return tl.cast(batch, tl.int64), tl.cast(start, tl.int64), length


@triton.jit
def _one_tile(
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
    rows = tl.arange(0, ROWS)
    q = _tile(
        pick(layer, q0, q1, q2, q3, LAYERS) + batch * q_batch + h * q_head + start * q_row,
        rows,
        end,
        q_row,
        S,
        S_BLOCK,
    )
    k = _tile(
        pick(layer, k0, k1, k2, k3, LAYERS) + batch * k_batch + h * k_head + start * k_row,
        rows,
        end,
        k_row,
        S,
        S_BLOCK,
    )
    t = _tile(
        pick(layer, t0, t1, t2, t3, LAYERS) + batch * t_batch + h * t_head + start * t_row,
        rows,
        end,
        t_row,
        T,
        T_BLOCK,
    )
    u = _tile(
        pick(layer, u0, u1, u2, u3, LAYERS) + batch * u_batch + h * u_head + start * u_row,
        rows,
        end,
        u_row,
        T,
        T_BLOCK,
    )
    difference = product(t, tl.trans(u), EMULATE) * -teacher_scale
    difference += product(q, tl.trans(k), EMULATE) * student_scale
    ids = _ids(segments + batch * length, rows, end, SEGMENTS)
    difference = tl.where(_counted(ids[:, None], ids[None, :], TINYBERT), difference, 0.0)
    tl.store(
        sums + layer * tl.num_programs(0) + tl.program_id(0), tl.sum(tl.sum(difference * difference, 1), 0)
    )
    columns = tl.arange(0, S_BLOCK)
    inside = (rows[:, None] < end) & (columns[None, :] < S)
    difference *= student_scale
    if WANT_Q:
        gradient = fine_product(difference, k, EMULATE)
        place = grad_q + layer.to(tl.int64) * gq_layer + batch * gq_batch + h * gq_head + start * gq_row
        tl.store(
            place + rows[:, None] * gq_row + columns[None, :],
            gradient.to(grad_q.dtype.element_ty),
            mask=inside,
        )
    if WANT_K:
        gradient = fine_product(tl.trans(difference), q, EMULATE)
        place = grad_k + layer.to(tl.int64) * gk_layer + batch * gk_batch + h * gk_head + start * gk_row
        tl.store(
            place + rows[:, None] * gk_row + columns[None, :],
            gradient.to(grad_k.dtype.element_ty),
            mask=inside,
        )


@triton.jit
def _rows(
    own0, own1, own2, own3, other0, other1, other2, other3, t0, t1, t2, t3, u0, u1, u2, u3,
    segments, cu_seqlens, gradient, sums, heads, length, student_scale, teacher_scale,
    own_batch, own_head, own_row, other_batch, other_head, other_row,
    t_batch, t_head, t_row, u_batch, u_head, u_row, g_layer, g_batch, g_head, g_row,
    S: tl.constexpr, T: tl.constexpr, S_BLOCK: tl.constexpr, T_BLOCK: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAYERS: tl.constexpr, SEGMENTS: tl.constexpr,
    LENGTHS: tl.constexpr, TINYBERT: tl.constexpr, KEYS: tl.constexpr, WANT: tl.constexpr,
    EMULATE: tl.constexpr,
):  # fmt: skip
    """A few rows of the score map against all its columns; rows are queries, or keys where KEYS is set."""
    b = tl.program_id(1) // heads
    h = tl.cast(tl.program_id(1) % heads, tl.int64)
    layer = tl.program_id(2)
    batch, start, end = _place(cu_seqlens, b, LENGTHS, length)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    own = pick(layer, own0, own1, own2, own3, LAYERS) + batch * own_batch + h * own_head + start * own_row
    other = (
        pick(layer, other0, other1, other2, other3, LAYERS)
        + batch * other_batch
        + h * other_head
        + start * other_row
    )
    mine = pick(layer, t0, t1, t2, t3, LAYERS) + batch * t_batch + h * t_head + start * t_row
    theirs = pick(layer, u0, u1, u2, u3, LAYERS) + batch * u_batch + h * u_head + start * u_row
    q = _tile(own, rows, end, own_row, S, S_BLOCK)
    t = _tile(mine, rows, end, t_row, T, T_BLOCK)
    ids = _ids(segments + batch * length, rows, end, SEGMENTS)
    total = tl.zeros([ROWS], dtype=tl.float32)
    result = tl.zeros([ROWS, S_BLOCK], dtype=tl.float32)
    limit = tl.where(tl.program_id(0) * ROWS < end, end, 0)
    for first in range(0, limit, COLUMNS):
        others = first + tl.arange(0, COLUMNS)
        k = _tile(other, others, end, other_row, S, S_BLOCK)
        u = _tile(theirs, others, end, u_row, T, T_BLOCK)
        difference = product(t, tl.trans(u), EMULATE) * -teacher_scale
        difference += product(q, tl.trans(k), EMULATE) * student_scale
        other_ids = _ids(segments + batch * length, others, end, SEGMENTS)
        if KEYS:
            counted = _counted(other_ids[None, :], ids[:, None], TINYBERT)
        else:
            counted = _counted(ids[:, None], other_ids[None, :], TINYBERT)
        difference = tl.where(counted, difference, 0.0)
        total += tl.sum(difference * difference, 1)
        if WANT:
            result += fine_product(difference * student_scale, k, EMULATE)
    if not KEYS:
        program = (layer * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(0) + tl.program_id(0)
        tl.store(sums + program, tl.sum(total, 0))
    if WANT:
        columns = tl.arange(0, S_BLOCK)
        place = gradient + layer.to(tl.int64) * g_layer + batch * g_batch + h * g_head + start * g_row
        tl.store(
            place + rows[:, None] * g_row + columns[None, :],
            result.to(gradient.dtype.element_ty),
            mask=(rows[:, None] < end) & (columns[None, :] < S),
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
    """As `chunked.attention_terms`; with cu_seqlens (int [sequences + 1]) B is 1 and L all tokens."""
    lists = [dense_rows(x) for x in (student_q, student_k, teacher_q, teacher_k)]
    batch, heads, length, width = lists[0][0].shape
    teacher_width = lists[2][0].shape[3]
    sequences = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    longest = length if cu_seqlens is None else min(max_length, length)
    device = lists[0][0].device
    layers = len(student_q)
    # Positions behind the last sequence belong to no program.
    gradients = [
        gradient_like(x, cu_seqlens is not None) if want else torch.empty(0, device=device)
        for want, x in ((want_q, student_q), (want_k, student_k))
    ]
    itemsize = max(x[0].element_size() for x in lists)
    tiles = TILES[itemsize]
    blocks = {"S_BLOCK": block(width), "T_BLOCK": block(teacher_width)}
    narrow = student_q[0].dtype == torch.bfloat16 and sum(blocks.values()) <= NARROW
    one_tile = longest <= ONE_TILE and itemsize == 2 and (narrow or roomy(device))
    programs = sequences * heads * (1 if one_tile else triton.cdiv(longest, tiles[0]))
    sums = torch.zeros((layers, max(1, programs)), dtype=torch.float32, device=device)
    if not programs:
        return sums.sum(1), gradients[0], gradients[1]
    shape = {
        "S": width,
        "T": teacher_width,
        **blocks,
        "SEGMENTS": segments is not None,
        "LENGTHS": cu_seqlens is not None,
        "TINYBERT": mode == "tinybert",
        "EMULATE": interpreting(),
    }
    masks = [
        sums if segments is None else segments.contiguous(),
        sums if cu_seqlens is None else cu_seqlens.contiguous(),
    ]
    numbers = heads, length, student_scale, teacher_scale
    with on_device(sums):
        for start, count, pointers in groups(*lists):
            strides = [x[start].stride()[:3] for x in lists]
            kept = [x[start:] if x.numel() else x for x in gradients]
            steps = [x.stride()[:4] if x.numel() else (0, 0, 0, 0) for x in gradients]
            if one_tile:
                _one_tile[(sequences * heads, count)](
                    *(*pointers, *masks, *kept, sums[start:], *numbers),
                    *(s for group in (*strides, *steps) for s in group),
                    **shape,
                    ROWS=block(longest),
                    LAYERS=count,
                    WANT_Q=want_q,
                    WANT_K=want_k,
                    num_warps=8 if longest > 64 else 4,
                )
                continue
            own, other, teacher_own, teacher_other = (pointers[i : i + 4] for i in range(0, 16, 4))
            for keys in (False, True) if want_k else (False,):
                if keys:
                    own, other, teacher_own, teacher_other = other, own, teacher_other, teacher_own
                    strides = [strides[i] for i in (1, 0, 3, 2)]
                _rows[(triton.cdiv(longest, tiles[0]), sequences * heads, count)](
                    *(*own, *other, *teacher_own, *teacher_other, *masks),
                    *(kept[keys], sums[start:], *numbers),
                    *(s for group in (*strides, steps[keys]) for s in group),
                    **shape,
                    ROWS=tiles[0],
                    COLUMNS=tiles[1],
                    LAYERS=count,
                    KEYS=keys,
                    WANT=keys or want_q,
                    num_warps=8,
                )
    return sums.sum(1, dtype=torch.float64).float(), gradients[0], gradients[1]
