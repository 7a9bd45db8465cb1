"""The divergence of softened predictions: value and gradient in one kernel, any number of classes.

A program holds a few rows of few classes, or walks through one row block by block: normalisers first, then
terms and gradient.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common import dense_rows, saved_dtype
from .launch import divergence, on_device

# Logits of a program's block, and the most classes in it.
ITEMS = 2048


@triton.jit
def _softened(pointer, rows, columns, count, classes, stride, temperature):
    """Logits divided by the temperature, -inf where there are none."""
    inside = (rows[:, None] < count) & (columns[None, :] < classes)
    x = tl.load(pointer + rows[:, None] * stride + columns[None, :], mask=inside, other=float("-inf"))
    return x.to(tl.float32) / temperature


@triton.jit
def _add_lane(x, largest, summed):
    """Largest logit of each lane so far, and the sum of exp(logit - largest)."""
    higher = tl.maximum(largest, x)
    safe = tl.where(higher == float("-inf"), 0.0, higher)  # -inf - -inf where a lane has seen no class yet
    return higher, summed * tl.exp(largest - safe) + tl.exp(x - safe)


@triton.jit
def _normaliser(largest, summed):
    """Rows' largest logit and logarithm of the sum, from those of their lanes."""
    top = tl.max(largest, 1)[:, None]
    return top, tl.log(tl.sum(summed * tl.exp(largest - top), 1))[:, None]


@triton.jit
def _divergences(
    student, teacher, gradient, losses, count, classes, s_row, t_row, temperature,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WANT: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    s_largest = tl.full([ROWS, COLUMNS], float("-inf"), dtype=tl.float32)
    t_largest = tl.full([ROWS, COLUMNS], float("-inf"), dtype=tl.float32)
    s_sum = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    t_sum = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    for first in range(0, classes, COLUMNS):
        columns = first + tl.arange(0, COLUMNS)
        s = _softened(student, rows, columns, count, classes, s_row, temperature)
        t = _softened(teacher, rows, columns, count, classes, t_row, temperature)
        s_largest, s_sum = _add_lane(s, s_largest, s_sum)
        t_largest, t_sum = _add_lane(t, t_largest, t_sum)
    s_top, s_log = _normaliser(s_largest, s_sum)
    t_top, t_log = _normaliser(t_largest, t_sum)
    total = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    for first in range(0, classes, COLUMNS):
        columns = first + tl.arange(0, COLUMNS)
        inside = (rows[:, None] < count) & (columns[None, :] < classes)
        s = _softened(student, rows, columns, count, classes, s_row, temperature) - s_top - s_log
        t = _softened(teacher, rows, columns, count, classes, t_row, temperature) - t_top - t_log
        own = tl.exp(s)
        target = tl.exp(t)
        total += tl.where(inside, divergence(s, t, own, target), 0.0)
        if WANT:
            place = gradient + rows[:, None] * classes + columns[None, :]
            tl.store(place, (own - target).to(gradient.dtype.element_ty), mask=inside)
    tl.store(losses + rows, tl.sum(total, 1), mask=rows < count)


def logit_terms(student: Tensor, teacher: Tensor, *, temperature: float, want: bool) -> tuple[Tensor, Tensor]:
    """As `chunked_outputs.logit_terms`."""
    count, classes = student.shape
    gradient = student.new_empty(student.shape if want else 0, dtype=saved_dtype(student))
    losses = torch.empty(count, dtype=torch.float32, device=student.device)
    x, y = dense_rows([student, teacher])
    columns = min(ITEMS, triton.next_power_of_2(max(1, classes)))
    rows = ITEMS // columns
    if losses.numel():
        with on_device(student):
            _divergences[(triton.cdiv(count, rows),)](
                *(x, y, gradient, losses, count, classes, x.stride(0), y.stride(0), temperature),
                ROWS=rows,
                COLUMNS=columns,
                WANT=want,
                num_warps=8,
            )
    return losses.sum(dtype=torch.float64).float(), gradient
