"""The registered operators of the output and relation losses; see ops.py for their form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .checks import check_indices
from .common import compute_dtype, saved_dtype
from .ops import NAMESPACE, backend_module, constant_gradients, is_last_use, scaled, without_wrapping

WANT_X, WANT_W, WANT_B = 1, 2, 4


def _cross_entropy(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    label_smoothing: float,
    z_loss: float,
    backend: str,
    product: torch.dtype,
    wanted: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check_indices("labels", labels, weight.shape[0])
    total, *gradients = backend_module(backend).cross_entropy_terms(
        rows,
        weight,
        bias,
        labels,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        product=product,
        want_x=bool(wanted & WANT_X),
        want_w=bool(wanted & WANT_W),
        want_b=bool(wanted & WANT_B),
    )
    return total / max(1, rows.shape[0]), gradients[0], gradients[1], gradients[2]


def _cross_entropy_fake(
    rows: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype, wanted = compute_dtype(rows, weight), rest[-1]
    return (
        rows.new_empty((), dtype=dtype),
        rows.new_empty(rows.shape if wanted & WANT_X else (0,), dtype=saved_dtype(rows)),
        rows.new_empty(weight.shape if wanted & WANT_W else (0,), dtype=dtype),
        rows.new_empty(weight.shape[:1] if wanted & WANT_B else (0,), dtype=dtype),
    )


def _cross_entropy_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # no zeros for them
    ctx.save_for_backward(*output[1:])
    ctx.dtypes = [None if x is None else x.dtype for x in inputs[:3]]
    ctx.count = inputs[0].shape[0]
    ctx.wanted = inputs[-1]


@constant_gradients
def _cross_entropy_backward(ctx: Any, grad_total: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    if grad_total is None:
        return (None,) * 9
    factor = grad_total / max(1, ctx.count)
    in_place = is_last_use(ctx)
    results = [
        scaled(x, factor, dtype, in_place=in_place) if ctx.wanted & flag else None
        for x, dtype, flag in zip(ctx.saved_tensors, ctx.dtypes, (WANT_X, WANT_W, WANT_B), strict=True)
    ]
    return *results, *[None] * 6


linear_cross_entropy = torch.library.custom_op(
    f"{NAMESPACE}::linear_cross_entropy",
    _cross_entropy,
    mutates_args=(),
    schema="""(
        Tensor rows, Tensor weight, Tensor? bias, Tensor labels, float label_smoothing, float z_loss,
        str backend, ScalarType product, int wanted
    ) -> (Tensor, Tensor, Tensor, Tensor)""",
)
linear_cross_entropy.register_fake(_cross_entropy_fake)
linear_cross_entropy.register_autograd(_cross_entropy_backward, setup_context=_cross_entropy_context)
call_cross_entropy = without_wrapping(
    linear_cross_entropy, _cross_entropy, _cross_entropy_context, _cross_entropy_backward
)


def _relation(
    student: Tensor,
    teacher: Tensor,
    segments: Tensor | None,
    student_scale: float,
    teacher_scale: float,
    backend: str,
    want: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    total, gradient = backend_module(backend).relation_terms(
        student, teacher, segments, student_scale=student_scale, teacher_scale=teacher_scale, want=want
    )
    batch, heads, length, _ = student.shape
    if segments is None:
        tokens = torch.full((), batch * length, dtype=total.dtype, device=total.device)
    else:
        tokens = (segments > 0).sum().to(total.dtype)
    factor = 1 / (tokens * heads).clamp(min=1)
    return total * factor, factor, gradient


def _logits(
    student: Tensor, teacher: Tensor, temperature: float, backend: str, want: bool
) -> tuple[Tensor, Tensor, Tensor]:
    total, gradient = backend_module(backend).logit_terms(
        student, teacher, temperature=temperature, want=want
    )
    factor = torch.full_like(total, temperature / max(1, student.shape[0]))
    return total * (factor * temperature), factor, gradient


def _one_gradient_fake(student: Tensor, teacher: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    dtype, want = compute_dtype(student, teacher), rest[-1]
    return (
        student.new_empty((), dtype=dtype),
        student.new_empty((), dtype=dtype),
        student.new_empty(student.shape if want else (0,), dtype=saved_dtype(student)),
    )


def _one_gradient_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # no zeros for them
    ctx.save_for_backward(*output[1:])
    ctx.dtype, ctx.others, ctx.want = inputs[0].dtype, len(inputs) - 1, inputs[-1]


@constant_gradients
def _one_gradient_backward(ctx: Any, grad_total: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    if grad_total is None or not ctx.want:
        return (None,) * (1 + ctx.others)
    factor, gradient = ctx.saved_tensors
    result = scaled(gradient, grad_total * factor, ctx.dtype, in_place=is_last_use(ctx))
    return result, *[None] * ctx.others


relation_kl = torch.library.custom_op(
    f"{NAMESPACE}::relation_kl",
    _relation,
    mutates_args=(),
    schema="""(
        Tensor student, Tensor teacher, Tensor? segments, float student_scale, float teacher_scale,
        str backend, bool want
    ) -> (Tensor, Tensor, Tensor)""",
)
logit_kl = torch.library.custom_op(
    f"{NAMESPACE}::logit_kl",
    _logits,
    mutates_args=(),
    schema="""(
        Tensor student, Tensor teacher, float temperature, str backend, bool want
    ) -> (Tensor, Tensor, Tensor)""",
)
for operator in (relation_kl, logit_kl):
    operator.register_fake(_one_gradient_fake)
    operator.register_autograd(_one_gradient_backward, setup_context=_one_gradient_context)
call_relation_kl, call_logit_kl = (
    without_wrapping(operator, implementation, _one_gradient_context, _one_gradient_backward)
    for operator, implementation in ((relation_kl, _relation), (logit_kl, _logits))
)
