"""Matching the attention heads of a student and a teacher that do not have equally many.

MiniLMv2 (Wang et al. 2021) calls the regrouped ones relation heads: the heads' vectors are concatenated and
split again into another number of heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor

from .checks import check_tensor

HEAD_MATCHES = ("auto", "equal", "mean", "regroup")
_WAYS_OUT = (
    'use "regroup" (relation heads, as many as the greatest common divisor), "mean" (scores averaged over '
    "the heads), or a list giving the teacher's head for each head of the student"
)


@dataclass(frozen=True)
class MatchedHeads:
    """Queries and keys with equally many heads, the scales of their scores, and what was done."""

    student_q: Tensor
    student_k: Tensor
    teacher_q: Tensor
    teacher_k: Tensor
    student_scale: float
    teacher_scale: float
    applied: str


def regroup_heads(x: Tensor, heads: int) -> Tensor:
    """[B, H, L, d] -> [B, heads, L, H d / heads]: concatenate the heads' vectors, split them again."""
    batch, own, length, width = x.shape
    return x.transpose(1, 2).reshape(batch, length, heads, own * width // heads).transpose(1, 2)


def match_heads(
    student_q: Tensor,
    student_k: Tensor,
    teacher_q: Tensor,
    teacher_k: Tensor,
    how: str | Sequence[int] = "auto",
) -> MatchedHeads:
    """Give student and teacher equally many heads; differentiable, no head is dropped silently.

    - ``equal``: as they are; different counts are an error.
    - ``regroup``: relation heads, gcd(H_S, H_T) of them, scale (their width) ** -0.5.
    - ``mean``: one head whose score is the mean of the heads' scores, sum_a Q_a K_a^T / (H sqrt(d)).
    - a list: the student's head a is compared with the teacher's head list[a] (0-based). Teacher heads
      absent from the list are left out by the caller's decision; `applied` counts them.
    - ``auto``: ``equal`` where the counts are, else ``regroup``.

    Args:
        student_q, student_k: [B, H_S, L, d_S]; teacher_q, teacher_k: [B, H_T, L, d_T].

    Raises:
        ValueError: tensors that are not 4-D, unknown `how`, unequal counts under ``equal``, or a list that
            does not fit.
    """
    for name, query, key in (("student", student_q, student_k), ("teacher", teacher_q, teacher_k)):
        check_tensor(f"the {name}'s queries", query)
        check_tensor(f"the {name}'s keys", key)
        if query.dim() != 4 or query.shape != key.shape:
            raise ValueError(
                f"the {name}'s queries are {list(query.shape)}, its keys {list(key.shape)}: both must be "
                "[batch, heads, length, head width]; was this layer captured?"
            )
        if not query.shape[1] * query.shape[3]:
            raise ValueError(
                f"the {name}'s queries are {list(query.shape)}: a head, and a head width of 1 at "
                "least, are needed"
            )
    student_heads, student_width = student_q.shape[1], student_q.shape[3]
    teacher_heads, teacher_width = teacher_q.shape[1], teacher_q.shape[3]
    scales = student_width**-0.5, teacher_width**-0.5
    if not isinstance(how, str):
        index = torch.tensor(_checked_list(how, student_heads, teacher_heads), device=teacher_q.device)
        left_out = teacher_heads - len(set(how))
        return MatchedHeads(
            student_q,
            student_k,
            teacher_q.index_select(1, index),
            teacher_k.index_select(1, index),
            *scales,
            applied=f"mapped: teacher heads {list(how)}, {left_out} of {teacher_heads} left out",
        )
    if how not in HEAD_MATCHES:
        raise ValueError(f"head match {how!r} is unknown: choose from {', '.join(HEAD_MATCHES)} or a list")
    if how != "mean" and student_heads == teacher_heads:
        applied = f"equal: {student_heads} heads"
        return MatchedHeads(student_q, student_k, teacher_q, teacher_k, *scales, applied=applied)
    if how == "equal":
        raise ValueError(f"student has {student_heads} attention heads, teacher {teacher_heads}: {_WAYS_OUT}")
    if how == "mean":
        heads = 1
        scales = student_width**-0.5 / student_heads, teacher_width**-0.5 / teacher_heads
        applied = f"mean over {student_heads} student and {teacher_heads} teacher heads"
    else:
        heads = gcd(student_heads, teacher_heads)
        scales = (
            (student_heads * student_width // heads) ** -0.5,
            (teacher_heads * teacher_width // heads) ** -0.5,
        )
        applied = f"regrouped: {student_heads} student and {teacher_heads} teacher heads to {heads}"
    return MatchedHeads(
        regroup_heads(student_q, heads),
        regroup_heads(student_k, heads),
        regroup_heads(teacher_q, heads),
        regroup_heads(teacher_k, heads),
        *scales,
        applied=applied,
    )


def _checked_list(how: Sequence[int], student_heads: int, teacher_heads: int) -> list[int]:
    if len(how) != student_heads:
        raise ValueError(
            f"head list has {len(how)} entries for {student_heads} student heads: give one for each"
        )
    for head in how:
        if isinstance(head, bool) or not isinstance(head, int) or not 0 <= head < teacher_heads:
            raise ValueError(f"head list holds {head!r}: the teacher's heads are 0 to {teacher_heads - 1}")
    return list(how)
