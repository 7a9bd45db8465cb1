"""The layer-to-layer losses: validate, pick a backend, call it. An explicit backend never falls back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import choice, ops, reference
from .checks import (
    check_choice,
    check_lengths,
    check_mask,
    check_projection,
    check_reverse_mode,
    check_same_shapes,
    check_scores,
    check_starts,
)
from .common import ATTENTION_MODES, HIDDEN_MODES, as_segments, product_dtype, segments_of_lengths

Tensors = Tensor | Sequence[Tensor]


@dataclass(frozen=True)
class AttentionTerm:
    """Arguments of `attention_score_mse` for several layers, and the weight of their sum."""

    student_q: Sequence[Tensor]
    student_k: Sequence[Tensor]
    teacher_q: Sequence[Tensor]
    teacher_k: Sequence[Tensor]
    segment_ids: Tensor | None = None
    cu_seqlens: Tensor | None = None
    max_length: int | None = None
    mode: str = "tinybert"
    student_scale: float | None = None
    teacher_scale: float | None = None
    weight: float = 1.0
    backend: str = "auto"
    algorithm: str = "auto"


@dataclass(frozen=True)
class HiddenTerm:
    """Arguments of `hidden_state_mse` for several layers, and the weight of their sum.

    weights (and biases): one for all layers, one for each layer, or none at all.
    """

    student: Sequence[Tensor]
    teacher: Sequence[Tensor]
    weights: Sequence[Tensor] = ()
    biases: Sequence[Tensor] = ()
    mask: Tensor | None = None
    mode: str = "tinybert"
    weight: float = 1.0
    backend: str = "auto"


def attention_score_mse(
    student_q: Tensors,
    student_k: Tensors,
    teacher_q: Tensors,
    teacher_k: Tensors,
    segment_ids: Tensor | None = None,
    *,
    cu_seqlens: Tensor | None = None,
    max_length: int | None = None,
    mode: str = "tinybert",
    student_scale: float | None = None,
    teacher_scale: float | None = None,
    backend: str = "auto",
    algorithm: str = "auto",
) -> Tensor:
    """Mean squared difference of the pre-softmax attention scores of student and teacher.

    The formula and both modes are at `reference.attention_score_mse`, the rule for padding and packed rows
    at `common.counted_pairs`. Difference and sums are computed in fp32 (fp64 for fp64 inputs), autocast or
    not.

    Args:
        student_q, student_k: [B, H, L, d_S], any floating dtype, any strides; or [T, H, d_S] with
            cu_seqlens; or lists of these, one for each matched layer.
        teacher_q, teacher_k: [B, H, L, d_T] likewise; `match_heads` makes unequal head counts equal.
        segment_ids: int [B, L], 0 = padding, k > 0 = k-th segment of the row (attention stays inside a
            segment); or bool [B, L], True = token; or None (no padding).
        cu_seqlens: int32 [sequences + 1], where sequences laid end to end begin and end: 0 first, T last.
        max_length: the longest sequence of cu_seqlens; T if not given, which costs a GPU idle programs. On a
            GPU neither is checked, as that would wait for it: of a longer sequence only a part counts.
        mode: "tinybert" (the published mean over B H L L) or "valid_pairs" (mean over pairs of tokens; the
            only one with cu_seqlens, where no padding is left to count).
        student_scale, teacher_scale: factor of Q K^T; default d ** -0.5.
        backend: "reference" (the definition); "chunked" (plain PyTorch, bounded memory, any device); "cpu",
            "triton", "cuda"; "auto". All but the reference take the teacher as a constant.
        algorithm: "direct" (scores tile by tile), "linear" (no scores, O(L d^2); one segment a row at most),
            or "auto".

    Returns:
        Scalar, fp32 (fp64 for fp64 inputs): the sum over the layers of their means.

    Raises:
        ValueError: shapes, dtypes, devices, mode, algorithm or backend that do not fit.
    """
    term = AttentionTerm(
        _as_list(student_q),
        _as_list(student_k),
        _as_list(teacher_q),
        _as_list(teacher_k),
        segment_ids,
        cu_seqlens,
        max_length,
        mode,
        student_scale,
        teacher_scale,
        backend=backend,
        algorithm=algorithm,
    )
    return distillation(term, None)[0]


def hidden_state_mse(
    student_hidden: Tensors,
    teacher_hidden: Tensors,
    weight: Tensors | None = None,
    bias: Tensors | None = None,
    mask: Tensor | None = None,
    *,
    mode: str = "tinybert",
    backend: str = "auto",
) -> Tensor:
    """Mean squared difference of H^S W^T + b and H^T; the formula is at `reference.hidden_state_mse`.

    Args:
        student_hidden: [..., d_S]; teacher_hidden: [..., d_T], any floating dtype, any strides; or lists of
            these, one for each matched layer.
        weight: [d_T, d_S] as `nn.Linear` holds it, or None where d_S = d_T; bias: [d_T] or None; or lists,
            one for each layer.
        mask: bool (True = token) or int (0 = padding) [...], or None.
        mode: "tinybert" (mean over all positions, padding too, as published) or "valid", by its other name
            "valid_pairs" (over tokens).
        backend: as for `attention_score_mse` ("cpu" has no code of its own here); without a weight there is
            nothing to save, and only "reference" and "auto" do.

    Returns:
        Scalar, fp32 (fp64 for fp64 inputs): the sum over the layers of their means.

    Raises:
        ValueError: shapes, dtypes, devices, mode or backend that do not fit.
    """
    term = HiddenTerm(
        _as_list(student_hidden),
        _as_list(teacher_hidden),
        [] if weight is None else _as_list(weight),
        [] if bias is None else _as_list(bias),
        mask,
        mode,
        backend=backend,
    )
    return distillation(None, term)[0]


def distillation(attention: AttentionTerm | None, hidden: HiddenTerm | None) -> tuple[Tensor, Tensor, Tensor]:
    """Both losses over all matched layers as one autograd node.

    Returns:
        The weighted total, a scalar with graph; the means of the hidden states and of the scores layer by
        layer, without weight and without graph, [layers] each. fp32 (fp64 for fp64 inputs).

    Raises:
        ValueError: as the single losses.
    """
    picked_attention = _pick_attention(attention) if attention else ""
    picked_hidden = _pick_hidden(hidden) if hidden else ""
    fused_attention = attention if picked_attention != "reference" else None
    fused_hidden = hidden if picked_hidden != "reference" else None
    totals, attention_means, hidden_means = [], None, None
    if fused_attention or fused_hidden:
        total, means = _fused(fused_attention, picked_attention, fused_hidden, picked_hidden)
        totals.append(total)
        states = len(fused_hidden.student) if fused_hidden else 0
        hidden_means, attention_means = means[:states], means[states:]
    if attention and not fused_attention:
        values = _reference_attention(attention)
        totals.append(values.sum() * attention.weight)
        attention_means = values.detach()
    if hidden and not fused_hidden:
        values = _reference_hidden(hidden)
        totals.append(values.sum() * hidden.weight)
        hidden_means = values.detach()
    nothing = totals[0].detach().new_empty(0)
    return (
        totals[0] if len(totals) == 1 else totals[0] + totals[1],
        nothing if hidden_means is None else hidden_means,
        nothing if attention_means is None else attention_means,
    )


def _fused(
    attention: AttentionTerm | None, attention_backend: str, hidden: HiddenTerm | None, hidden_backend: str
) -> tuple[Tensor, Tensor]:
    _check_reverse_mode(attention, hidden)
    empty: list[Tensor] = []
    scores = [empty] * 4
    states = [empty] * 4
    segments = cu_seqlens = valid = None
    max_length, mode, scales = 0, "tinybert", (1.0, 1.0)
    product = torch.float32
    wanted = 0
    if attention:
        scores = [
            [_padded(x, attention.cu_seqlens) for x in tensors]
            for tensors in (
                *(attention.student_q, attention.student_k),
                *(attention.teacher_q, attention.teacher_k),
            )
        ]
        if attention.segment_ids is not None:
            segments = as_segments(attention.segment_ids)
        cu_seqlens = attention.cu_seqlens
        max_length = attention.max_length or scores[0][0].shape[2]
        mode, scales = attention.mode, _scales(attention)
        wanted |= _wants(scores[0], ops.WANT_Q) | _wants(scores[1], ops.WANT_K)
    if hidden:
        states = [
            [x.reshape(-1, x.shape[-1]) for x in hidden.student],
            [x.reshape(-1, x.shape[-1]) for x in hidden.teacher],
            list(hidden.weights),
            list(hidden.biases),
        ]
        if hidden.mask is not None and hidden.mode != "tinybert":
            valid = hidden.mask.reshape(-1) > 0
        product = product_dtype(states[0][0], states[2][0])
        for tensors, flag in zip(
            (states[0], states[2], states[3]), (ops.WANT_H, ops.WANT_W, ops.WANT_B), strict=True
        ):
            wanted |= _wants(tensors, flag)
    total, means, *_ = ops.call_distillation(
        [*scores, *states],
        segments,
        cu_seqlens,
        valid,
        max_length,
        mode,
        *scales,
        _number(attention.weight) if attention else 0.0,
        _number(hidden.weight) if hidden else 0.0,
        attention_backend,
        hidden_backend,
        product,
        wanted,
    )
    return total, means


def _number(weight: float | Tensor) -> float:
    """Numbers of numpy and of tensors too; no gradient would reach them."""
    if isinstance(weight, Tensor) and weight.requires_grad:
        raise ValueError(
            "a weight that requires a gradient is given, and none would reach it: detach() it, or use "
            'backend="reference"'
        )
    return float(weight)


def _check_reverse_mode(attention: AttentionTerm | None, hidden: HiddenTerm | None) -> None:
    if attention:
        check_reverse_mode(attention.backend, [*attention.student_q, *attention.student_k])
    if hidden:
        check_reverse_mode(hidden.backend, [*hidden.student, *hidden.weights, *hidden.biases])


def _padded(x: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """[T, H, d] as [1, H, T, d]."""
    return x if cu_seqlens is None else x.transpose(0, 1).unsqueeze(0)


def _wants(tensors: Sequence[Tensor], flag: int) -> int:
    return flag if torch.is_grad_enabled() and any(x.requires_grad for x in tensors) else 0


def _as_list(x: Tensors) -> list[Tensor]:
    if not isinstance(x, (Tensor, list, tuple)):
        raise ValueError(
            f"a {type(x).__name__} is given: a tensor, or a list of one for each layer, is needed"
        )
    return [x] if isinstance(x, Tensor) else list(x)


def _scales(term: AttentionTerm) -> tuple[float, float]:
    student, teacher = term.student_scale, term.teacher_scale
    return (
        term.student_q[0].shape[-1] ** -0.5 if student is None else student,
        term.teacher_q[0].shape[-1] ** -0.5 if teacher is None else teacher,
    )


def _pick_attention(term: AttentionTerm) -> str:
    """Validate; the name of the implementation."""
    check_choice("mode", term.mode, ATTENTION_MODES)
    check_choice("backend", term.backend, choice.BACKENDS)
    check_choice("algorithm", term.algorithm, choice.ALGORITHMS)
    named = {
        "student_q": term.student_q,
        "student_k": term.student_k,
        "teacher_q": term.teacher_q,
        "teacher_k": term.teacher_k,
    }
    layers = {name: len(tensors) for name, tensors in named.items()}
    if len(set(layers.values())) > 1 or not term.student_q:
        raise ValueError(f"layers given: {layers}; the same number of each, at least one, is needed")
    varlen = term.cu_seqlens is not None
    for layer in zip(*named.values(), strict=True):
        check_scores(*layer, varlen=varlen)
    for name, tensors in named.items():
        check_same_shapes(name, tensors)
    first = term.student_q[0]
    if term.cu_seqlens is not None:
        check_lengths(term.cu_seqlens, first, term.max_length)
        if term.segment_ids is not None:
            raise ValueError("segment_ids and cu_seqlens are both given: one of them says where segments end")
        if term.mode != "valid_pairs":
            raise ValueError(
                f'mode {term.mode!r} counts padding, and with cu_seqlens there is none: use "valid_pairs"'
            )
    elif term.segment_ids is not None:
        check_mask("mask (segment_ids)", term.segment_ids, first, (first.shape[0], first.shape[2]))
    constants = [f"teacher_{x}" for x in "qk" if _wants(named[f"teacher_{x}"], 1)]
    length = first.shape[0 if varlen else 2]
    return choice.attention(
        term.backend,
        term.algorithm,
        first,
        term.teacher_q[0],
        constants,
        single=term.segment_ids is None or term.segment_ids.dtype == torch.bool,
        length=min(length, term.max_length) if varlen and term.max_length else length,
        varlen=varlen,
    )


def _pick_hidden(term: HiddenTerm) -> str:
    """Validate; the name of the implementation."""
    check_choice("mode", term.mode, HIDDEN_MODES)
    layers = len(term.student)
    if len(term.teacher) != layers or not layers:
        raise ValueError(
            f"{layers} hidden states of the student, {len(term.teacher)} of the teacher: as many are needed"
        )
    for name, tensors, counts in (
        ("weights", term.weights, (0, 1, layers)),
        ("biases", term.biases, (0, len(term.weights)) if term.weights else (0, 1, layers)),
    ):
        if len(tensors) not in counts:
            raise ValueError(
                f"{len(tensors)} {name} for {layers} layers: one for all or one for each is needed"
            )
    for index, (student, teacher) in enumerate(zip(term.student, term.teacher, strict=True)):
        weight, bias = (x[index % len(x)] if x else None for x in (term.weights, term.biases))
        check_projection(student, teacher, weight, bias, term.mask)
    for name, tensors in (("student_hidden", term.student), ("teacher_hidden", term.teacher)):
        check_same_shapes(name, tensors)
    constants = ["teacher_hidden"] if _wants(term.teacher, 1) else []
    weight = term.weights[0] if term.weights else None
    return choice.hidden(term.backend, term.student[0], term.teacher[0], weight, constants)


def _reference_attention(term: AttentionTerm) -> Tensor:
    segments = term.segment_ids
    if term.cu_seqlens is not None:
        total = term.student_q[0].shape[0]
        check_starts(term.cu_seqlens, total, term.max_length or total)
        segments = segments_of_lengths(term.cu_seqlens, total)
    student_scale, teacher_scale = _scales(term)
    values = []
    for tensors in zip(term.student_q, term.student_k, term.teacher_q, term.teacher_k, strict=True):
        sq, sk, tq, tk = (_padded(x, term.cu_seqlens) for x in tensors)
        values.append(
            reference.attention_score_mse(
                *(sq, sk, tq, tk, segments),
                mode=term.mode,
                student_scale=student_scale,
                teacher_scale=teacher_scale,
            )
        )
    return torch.stack(values)


def _reference_hidden(term: HiddenTerm) -> Tensor:
    values = []
    for index, (student, teacher) in enumerate(zip(term.student, term.teacher, strict=True)):
        weight, bias = (x[index % len(x)] if x else None for x in (term.weights, term.biases))
        values.append(reference.hidden_state_mse(student, teacher, weight, bias, term.mask, mode=term.mode))
    return torch.stack(values)
