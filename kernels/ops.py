"""The registered operators: what torch.compile and CUDA graphs see of the losses.

`edad_fast::distillation` is both layer-to-layer losses over all matched layers as one autograd node: forward
computes the weighted total and, where wanted, the gradients but for a common factor (1 where a backend has
multiplied already); backward multiplies.
Nothing is read back to the host, and no shape depends on data.

The backends are functions of equal form, `attention_terms` and `hidden_terms` (chunked.py has them in plain
PyTorch); they know nothing of autograd, weights or normalisation.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import wraps
from itertools import accumulate, pairwise
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .checks import check_starts
from .choice import available
from .common import compute_dtype, count_pairs, saved_dtype, segments_of_lengths, stacked_like

# Modules of this package with attention_terms or hidden_terms; those of VARLEN take cu_seqlens as they are.
VARLEN = ("linear_form", "cpu", "triton.attention", "triton.linear_attention", "cuda.attention")
PIECE = 1 << 16  # elements
MULTIPLYING = ("cpu",)  # take the factor of the gradients, a number, and write them with it
WANT_Q, WANT_K, WANT_H, WANT_W, WANT_B = 1, 2, 4, 8, 16

SCHEMA = """(
    Tensor[] student_q, Tensor[] student_k, Tensor[] teacher_q, Tensor[] teacher_k,
    Tensor[] student_hidden, Tensor[] teacher_hidden, Tensor[] weights, Tensor[] biases,
    Tensor? segments, Tensor? cu_seqlens, Tensor? valid, SymInt max_length, str mode,
    float student_scale, float teacher_scale, float attention_weight, float hidden_weight,
    str attention_backend, str hidden_backend, ScalarType product, int wanted
) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"""


def backend_module(name: str) -> ModuleType:
    """The module of this package that computes."""
    return importlib.import_module(f".{name}", __package__)


def _unwanted(gradients: list[Tensor], wanted: int, flags: tuple[int, ...]) -> list[Tensor]:
    """Backends return whatever is empty for a gradient that is not wanted; the operator, always [0]."""
    return [x if wanted & flag else x.new_empty(0) for x, flag in zip(gradients, flags, strict=True)]


def _distillation(
    student_q: list[Tensor],
    student_k: list[Tensor],
    teacher_q: list[Tensor],
    teacher_k: list[Tensor],
    student_hidden: list[Tensor],
    teacher_hidden: list[Tensor],
    weights: list[Tensor],
    biases: list[Tensor],
    segments: Tensor | None,
    cu_seqlens: Tensor | None,
    valid: Tensor | None,
    max_length: int,
    mode: str,
    student_scale: float,
    teacher_scale: float,
    attention_weight: float,
    hidden_weight: float,
    attention_backend: str,
    hidden_backend: str,
    product: torch.dtype,
    wanted: int,
) -> tuple[Tensor, ...]:
    """Total, means [states + layers], factors [2], half gradients of q, k, hidden states, weights, biases."""
    first = (student_hidden or student_q)[0]
    dtype = _value_dtype(student_q, teacher_q, student_hidden, teacher_hidden)
    totals, means, gradients = [], [], []
    factors = first.new_zeros(2, dtype=dtype)
    if student_q:
        if cu_seqlens is not None:
            check_starts(cu_seqlens, student_q[0].shape[2], max_length)
        name, _, algorithm = attention_backend.partition(":")
        backend = backend_module(name)
        place: dict[str, Any] = {"algorithm": algorithm} if algorithm else {}
        if name in VARLEN:
            place |= {"cu_seqlens": cu_seqlens, "max_length": max_length}
        elif cu_seqlens is not None:
            segments = segments_of_lengths(cu_seqlens, student_q[0].shape[2])
        batch, heads, length, _ = student_q[0].shape
        pairs: int | Tensor = batch * length * length
        if mode == "valid_pairs":
            pairs = count_pairs(segments, cu_seqlens, student_q[0])
        normaliser = _at_least_one(pairs * heads)
        if name in MULTIPLYING:
            place["gradient_factor"] = 2 * attention_weight / float(normaliser)
            factors[1] = 1
        else:
            factors[1] = 2 * attention_weight / normaliser
        sums, *computed = backend.attention_terms(
            *(student_q, student_k, teacher_q, teacher_k, segments),
            mode=mode,
            student_scale=student_scale,
            teacher_scale=teacher_scale,
            want_q=bool(wanted & WANT_Q),
            want_k=bool(wanted & WANT_K),
            **place,
        )
        gradients += _unwanted(computed, wanted, (WANT_Q, WANT_K))
        means.append((sums / normaliser).to(dtype))
        totals.append(means[-1].sum() * attention_weight)
    else:
        gradients += [first.new_empty(0) for _ in range(2)]
    if student_hidden:
        backend = backend_module(hidden_backend)
        sums, *computed = backend.hidden_terms(
            *(student_hidden, teacher_hidden, weights, biases, valid),
            product=product,
            want_h=bool(wanted & WANT_H),
            want_w=bool(wanted & WANT_W),
            want_b=bool(wanted & WANT_B),
        )
        gradients += _unwanted(computed, wanted, (WANT_H, WANT_W, WANT_B))
        count = student_hidden[0].shape[0] if valid is None else valid.sum().double()
        normaliser = _at_least_one(count * weights[0].shape[0])
        means.insert(0, (sums / normaliser).to(dtype))
        totals.append(means[0].sum() * hidden_weight)
        factors[0] = 2 * hidden_weight / normaliser
    else:
        gradients += [first.new_empty(0) for _ in range(3)]
    total = totals[0] if len(totals) == 1 else totals[0] + totals[1]
    return total, means[0] if len(means) == 1 else torch.cat(means), factors, *gradients


def _at_least_one(count: int | Tensor) -> int | Tensor:
    return count.clamp(min=1) if isinstance(count, Tensor) else max(1, count)


def _value_dtype(*lists: Sequence[Tensor]) -> torch.dtype:
    return compute_dtype(*(tensors[0] for tensors in lists if tensors))


def _fake(
    student_q: list[Tensor],
    student_k: list[Tensor],
    teacher_q: list[Tensor],
    teacher_k: list[Tensor],
    student_hidden: list[Tensor],
    teacher_hidden: list[Tensor],
    weights: list[Tensor],
    biases: list[Tensor],
    *rest: Any,
) -> tuple[Tensor, ...]:
    wanted = rest[-1]
    first = (student_hidden or student_q)[0]
    dtype = _value_dtype(student_q, teacher_q, student_hidden, teacher_hidden)
    sums = compute_dtype(*(x[0] for x in (student_hidden, teacher_hidden, weights) if x))
    gradients = [
        stacked_like(tensors, saved_dtype(tensors[0])) if wanted & flag else first.new_empty(0)
        for tensors, flag in ((student_q, WANT_Q), (student_k, WANT_K), (student_hidden, WANT_H))
    ]
    for tensors, flag in ((weights, WANT_W), (biases, WANT_B)):
        shape = (len(tensors), *tensors[0].shape) if wanted & flag else (0,)
        gradients.append(first.new_empty(shape, dtype=sums))
    count = len(student_hidden) + len(student_q)
    return (
        first.new_empty((), dtype=dtype),
        first.new_empty((count,), dtype=dtype),
        first.new_empty((2,), dtype=dtype),
        *gradients,
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # no zeros for them
    ctx.save_for_backward(*output[2:])
    ctx.lengths = [len(tensors) for tensors in inputs[:8]]
    ctx.dtypes = [tensors[0].dtype if tensors else None for tensors in inputs[:8]]
    ctx.others = len(inputs) - 8
    ctx.wanted = inputs[-1]


def constant_gradients(backward: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """A backward whose results have no derivatives of their own: it refuses create_graph=True.

    torch's once_differentiable passes it where the incoming gradient is a constant, such as that of a loss.
    """

    @wraps(backward)
    def checked(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the fused losses have no second derivatives (create_graph=True, torch.autograd.functional): "
                'use backend="reference"'
            )
        return backward(ctx, *gradients)

    return checked


@constant_gradients
def _backward(ctx: Any, grad_total: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    results: list[Any] = [[None] * length for length in ctx.lengths]
    if grad_total is None:
        return *results, *[None] * ctx.others
    factors, *saved = ctx.saved_tensors
    factors = factors * grad_total
    in_place = is_last_use(ctx)
    # (gradient, which input list, which factor): the hidden states' factor is 0, the attention's 1.
    places = ((0, 1, WANT_Q), (1, 1, WANT_K), (4, 0, WANT_H), (6, 0, WANT_W), (7, 0, WANT_B))
    for gradient, (index, term, flag) in zip(saved, places, strict=True):
        if ctx.wanted & flag:
            found = scaled(gradient, factors[term], ctx.dtypes[index], in_place=in_place)
            results[index] = list(found.unbind())
    return *results, *[None] * ctx.others


def scaled(gradient: Tensor, factor: Tensor, dtype: torch.dtype, *, in_place: bool = False) -> Tensor:
    """gradient * factor, rounded once; `gradient` is dense. `in_place`: into `gradient`, if it has `dtype`.

    A factor without dimensions would first be rounded to bf16. A CPU makes whole fp32 copies where the dtypes
    differ, so there it goes piece by piece.
    """
    here = in_place and gradient.dtype == dtype
    real = gradient.is_cpu and not torch.compiler.is_compiling() and not _observed((gradient, factor))
    if here and real and factor.item() == 1:
        return gradient
    result = gradient if here else torch.empty_like(gradient, dtype=dtype)
    wide = factor.view(1)
    if not gradient.is_cpu or gradient.dtype == dtype == factor.dtype or torch.compiler.is_compiling():
        return torch.mul(gradient, wide, out=result)
    if real and gradient.dtype == dtype == torch.bfloat16 and available("cpu"):
        backend_module("cpu").scale(gradient, wide.float(), result)
        return result
    source, target = (x.as_strided((x.numel(),), (1,)) for x in (gradient, result))
    for start in range(0, source.numel(), PIECE):
        torch.mul(source[start : start + PIECE], wide, out=target[start : start + PIECE])
    return result


def is_last_use(ctx: Any) -> bool:
    """In backward: what the node of `ctx` kept is its own, and no other backward will ask for it."""
    asked = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return getattr(ctx, "alone", False) and asked is not None and not asked()


# "edad_fast". Where a checkout's root is on sys.path, other software (transformers looks for a package of
# that name) imports this folder as "kernels": registering the name a second time would pull it from under the
# first.
NAMESPACE = __name__.partition(".")[0]

distillation = torch.library.custom_op(
    f"{NAMESPACE}::distillation", _distillation, mutates_args=(), schema=SCHEMA
)
distillation.register_fake(_fake)
distillation.register_autograd(_backward, setup_context=_setup_context)


def without_wrapping(
    operator: Callable[..., Any], implementation: Callable[..., Any], setup_context: Any, backward: Any
) -> Callable[..., Any]:
    """`operator`, called outside torch.compile by a node of its own with the same derivatives.

    Nobody else sees what the node keeps, so that backward may write its result there. Torch's node for
    operators with lists costs 0.3 ms a call, the way through the dispatcher half as much: where nobody
    looks on, `implementation` is called.
    """

    class Node(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            output = (operator if _observed(inputs) else implementation)(*inputs)
            setup_context(ctx, inputs, output)
            ctx.alone = True
            return output

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor | None) -> Any:
            return backward(ctx, *gradients)

    def call(*inputs: Any) -> Any:
        plain = torch.compiler.is_compiling() or not torch.is_grad_enabled()
        return operator(*inputs) if plain else Node.apply(*inputs)

    return call


def _observed(inputs: Sequence[Any]) -> bool:
    """Whether anyone looks on: a tensor of another class, a mode (FLOP counter, default device), profiler."""
    modes = (
        getattr(torch._C, name, None) for name in ("_len_torch_dispatch_stack", "_len_torch_function_stack")
    )
    return (
        any(mode is None or mode() > 0 for mode in modes)
        or getattr(torch.autograd.profiler, "_is_profiler_enabled", True)
        or any(isinstance(x, Tensor) and type(x) not in (Tensor, torch.nn.Parameter) for x in inputs)
    )


def _lists(lengths: Sequence[int], tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    ends = [0, *accumulate(lengths)]
    return [list(tensors[first:last]) for first, last in pairwise(ends)]


def _flat(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda lengths, rest, *tensors: function(*_lists(lengths, tensors), *rest)


def _flat_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    lengths, rest, *tensors = inputs
    _setup_context(ctx, (*_lists(lengths, tensors), *rest), output)


def _flat_backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
    lists = _backward(ctx, *gradients)[: len(ctx.lengths)]
    return None, None, *(x for found in lists for x in found)


_call_flat = without_wrapping(_flat(distillation), _flat(_distillation), _flat_context, _flat_backward)


def call_distillation(lists: Sequence[Sequence[Tensor]], *rest: Any) -> tuple[Tensor, ...]:
    """The operator on its eight lists of tensors and its other arguments."""
    lengths = tuple(len(tensors) for tensors in lists)
    results: tuple[Tensor, ...] = _call_flat(lengths, rest, *(x for tensors in lists for x in tensors))
    return results
