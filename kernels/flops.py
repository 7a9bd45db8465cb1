"""What the losses' operators cost, for torch.utils.flop_counter: a multiplication with its addition is two.

The work of the direct form, with the gradients that forward computes. Sequences laid end to end count as
pairs of `max_length`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from . import ops, ops_outputs

Shape = Sequence[int]
_OPERATORS = getattr(torch.ops, ops.NAMESPACE)


def _flags(wanted: int, *flags: int) -> int:
    return sum(bool(wanted & flag) for flag in flags)


@register_flop_formula(_OPERATORS.distillation)
def _distillation(
    student_q: Sequence[Shape],
    student_k: Sequence[Shape],
    teacher_q: Sequence[Shape],
    teacher_k: Sequence[Shape],
    student_hidden: Sequence[Shape],
    teacher_hidden: Sequence[Shape],
    weights: Sequence[Shape],
    *rest: Any,
    **_: Any,
) -> int:
    max_length, wanted = rest[4], rest[-1]
    total = 0
    for student, teacher in zip(student_q, teacher_q, strict=True):
        batch, heads, length, width = student
        pairs = batch * heads * length * min(length, max_length)
        total += 2 * pairs * (width + teacher[-1] + width * _flags(wanted, ops.WANT_Q, ops.WANT_K))
    for index, (rows, _width) in enumerate(student_hidden):
        outputs, inputs = weights[index % len(weights)]
        total += 2 * rows * outputs * inputs * (1 + _flags(wanted, ops.WANT_H, ops.WANT_W))
    return total


@register_flop_formula(_OPERATORS.linear_cross_entropy)
def _cross_entropy(rows: Shape, weight: Shape, *rest: Any, **_: Any) -> int:
    products = 1 + _flags(rest[-1], ops_outputs.WANT_X, ops_outputs.WANT_W)
    return 2 * rows[0] * weight[0] * weight[1] * products


@register_flop_formula(_OPERATORS.relation_kl)
def _relation(student: Shape, teacher: Shape, *rest: Any, **_: Any) -> int:
    batch, heads, length, width = student
    return 2 * batch * heads * length * length * (width + teacher[-1] + 2 * width * bool(rest[-1]))
