"""The public functions: validate, pick a backend, call it. An explicit backend never falls back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType

import torch
from torch import Tensor

from . import chunked, reference
from .common import ATTENTION_MODES, HIDDEN_MODES

BACKENDS = ("auto", "reference", "chunked")


def attention_score_mse(
    student_q: Tensor,
    student_k: Tensor,
    teacher_q: Tensor,
    teacher_k: Tensor,
    segment_ids: Tensor | None = None,
    *,
    mode: str = "tinybert",
    student_scale: float | None = None,
    teacher_scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """Mean squared difference of the pre-softmax attention scores of student and teacher.

    The formula and both modes are at `reference.attention_score_mse`, the rule for padding and packed rows
    at `common.counted_pairs`. Difference and sums are computed in fp32 (fp64 for fp64 inputs), autocast or
    not.

    Args:
        student_q, student_k: [B, H, L, d_S], any floating dtype, any strides.
        teacher_q, teacher_k: [B, H, L, d_T]; `match_heads` makes unequal head counts equal.
        segment_ids: int [B, L], 0 = padding, k > 0 = k-th segment of the row (attention stays inside a
            segment); or bool [B, L], True = token; or None (no padding).
        mode: "tinybert" (the published mean over B H L L) or "valid_pairs" (mean over pairs of tokens).
        student_scale, teacher_scale: factor of Q K^T; default d ** -0.5.
        backend: "reference"; "chunked" (bounded memory; the teacher must not require a gradient); "auto".

    Returns:
        Scalar, fp32 (fp64 for fp64 inputs).

    Raises:
        ValueError: shapes, dtypes, devices, mode or backend that do not fit.
    """
    named = {"student_q": student_q, "student_k": student_k, "teacher_q": teacher_q, "teacher_k": teacher_k}
    _check_choice("mode", mode, ATTENTION_MODES)
    _check_floating(named)
    for name, x in named.items():
        if x.dim() != 4:
            raise ValueError(f"{name} has shape {_shape(x)}: [batch, heads, length, head width] is needed")
    for one, other in (("student_q", "student_k"), ("teacher_q", "teacher_k")):
        if named[one].shape != named[other].shape:
            raise ValueError(
                f"{one} is {_shape(named[one])} but {other} {_shape(named[other])}: make them equal"
            )
    if student_q.shape[1] != teacher_q.shape[1]:
        raise ValueError(
            f"student has {student_q.shape[1]} heads, teacher {teacher_q.shape[1]}: pass them through "
            "match_heads first"
        )
    if (student_q.shape[0], student_q.shape[2]) != (teacher_q.shape[0], teacher_q.shape[2]):
        raise ValueError(
            f"student_q is {_shape(student_q)} but teacher_q {_shape(teacher_q)}: batch and length must "
            "agree (both models must see the same tokens)"
        )
    if segment_ids is not None:
        _check_mask("segment_ids", segment_ids, student_q, (student_q.shape[0], student_q.shape[2]))
    implementation = _pick(backend, {"teacher_q": teacher_q, "teacher_k": teacher_k})
    loss: Tensor = implementation.attention_score_mse(
        student_q,
        student_k,
        teacher_q,
        teacher_k,
        segment_ids,
        mode=mode,
        student_scale=student_q.shape[-1] ** -0.5 if student_scale is None else student_scale,
        teacher_scale=teacher_q.shape[-1] ** -0.5 if teacher_scale is None else teacher_scale,
    )
    return loss


def hidden_state_mse(
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    mode: str = "tinybert",
    backend: str = "auto",
) -> Tensor:
    """Mean squared difference of H^S W^T + b and H^T; the formula is at `reference.hidden_state_mse`.

    Args:
        student_hidden: [..., d_S]; teacher_hidden: [..., d_T], any floating dtype, any strides.
        weight: [d_T, d_S] as `nn.Linear` holds it, or None where d_S = d_T; bias: [d_T] or None.
        mask: bool (True = token) or int (0 = padding) [...], or None.
        mode: "tinybert" (mean over all positions, padding too, as published) or "valid" (over tokens).
        backend: "reference"; "chunked" (nothing of the projection is kept; the teacher must not require a
            gradient; needs a weight); "auto".

    Returns:
        Scalar, fp32 (fp64 for fp64 inputs).

    Raises:
        ValueError: shapes, dtypes, devices, mode or backend that do not fit.
    """
    named = {
        "student_hidden": student_hidden,
        "teacher_hidden": teacher_hidden,
        "weight": weight,
        "bias": bias,
    }
    _check_choice("mode", mode, HIDDEN_MODES)
    _check_choice("backend", backend, BACKENDS)
    _check_floating(named)
    if student_hidden.dim() < 1 or student_hidden.shape[:-1] != teacher_hidden.shape[:-1]:
        raise ValueError(
            f"student_hidden is {_shape(student_hidden)} but teacher_hidden {_shape(teacher_hidden)}: all "
            "but the last dimension must agree (both models must see the same tokens)"
        )
    student_width, teacher_width = student_hidden.shape[-1], teacher_hidden.shape[-1]
    if weight is None:
        if student_width != teacher_width or bias is not None:
            raise ValueError(
                f"student width {student_width}, teacher width {teacher_width}"
                f"{', a bias' if bias is not None else ''} and no weight: give a projection "
                f"[{teacher_width}, {student_width}], such as the weight of nn.Linear"
            )
    elif weight.shape != (teacher_width, student_width):
        raise ValueError(
            f"weight is {_shape(weight)}: [{teacher_width}, {student_width}] is needed, "
            "teacher width by student width"
        )
    if bias is not None and bias.shape != (teacher_width,):
        raise ValueError(f"bias is {_shape(bias)}: [{teacher_width}] is needed")
    if mask is not None:
        _check_mask("mask", mask, student_hidden, student_hidden.shape[:-1])
    if backend == "chunked" and weight is None:
        raise ValueError('backend "chunked" needs a weight: use "auto" or "reference" without one')
    # Without a projection there is nothing to save.
    implementation = _pick("reference" if weight is None else backend, {"teacher_hidden": teacher_hidden})
    loss: Tensor = implementation.hidden_state_mse(
        student_hidden, teacher_hidden, weight, bias, mask, mode=mode
    )
    return loss


def masked_lm_loss(
    hidden: Tensor,
    positions: Tensor,
    labels: Tensor,
    transform: Callable[[Tensor], Tensor],
    decoder_weight: Tensor,
    decoder_bias: Tensor | None = None,
    *,
    backend: str = "auto",
) -> Tensor:
    """Mean masked-language-model cross-entropy, the prediction head run on the masked positions only.

    Args:
        hidden: [B, L, d] or [N, d], last hidden states, any floating dtype.
        positions: int64 [M], flat into the B*L (or N) positions.
        labels: int64 [M], ids below V.
        transform: what the head does before its decoder, [M, d] -> [M, d'] (BERT: dense, GELU, LayerNorm).
        decoder_weight: [V, d'], usually tied to the embeddings; decoder_bias: [V] or None.
        backend: "reference"; "chunked" (logits of a few hundred positions at a time); "auto".

    Returns:
        Scalar, fp32 (fp64 for fp64 inputs); 0, connected to the graph, when M = 0.

    Raises:
        ValueError: shapes, dtypes, devices or backend that do not fit.
    """
    _check_floating({"hidden": hidden, "decoder_weight": decoder_weight, "decoder_bias": decoder_bias})
    if hidden.dim() not in (2, 3):
        raise ValueError(
            f"hidden has shape {_shape(hidden)}: [batch, length, width] or [positions, width] is needed"
        )
    for name, x in (("positions", positions), ("labels", labels)):
        if x.dim() != 1 or x.dtype != torch.int64 or x.shape != positions.shape or x.device != hidden.device:
            raise ValueError(
                f"{name} is {x.dtype} {_shape(x)} on {x.device}: int64 [{positions.numel()}] on "
                f"{hidden.device} is needed, one entry for each masked position"
            )
    if decoder_weight.dim() != 2:
        raise ValueError(f"decoder_weight is {_shape(decoder_weight)}: [vocabulary, width] is needed")
    if decoder_bias is not None and decoder_bias.shape != decoder_weight.shape[:1]:
        raise ValueError(f"decoder_bias is {_shape(decoder_bias)}: [{decoder_weight.shape[0]}] is needed")
    implementation = _pick(backend, {})
    loss: Tensor = implementation.masked_lm_loss(
        hidden, positions, labels, transform, decoder_weight, decoder_bias
    )
    return loss


def next_sentence_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean next-sentence cross-entropy of logits [B, 2]; labels int64 [B], 0 = B follows A, 1 = random.

    Raises:
        ValueError: shapes or dtypes that do not fit.
    """
    _check_floating({"logits": logits})
    if logits.dim() != 2 or logits.shape[1] != 2:
        raise ValueError(f"logits are {_shape(logits)}: [batch, 2] is needed")
    if labels.dtype != torch.int64 or labels.shape != logits.shape[:1]:
        raise ValueError(f"labels are {labels.dtype} {_shape(labels)}: int64 [{logits.shape[0]}] is needed")
    return reference.next_sentence_loss(logits, labels)


def _pick(backend: str, constants: dict[str, Tensor]) -> ModuleType:
    """The backend's module; `constants` are the tensors for which "chunked" computes no gradient."""
    _check_choice("backend", backend, BACKENDS)
    if backend == "reference":
        return reference
    differentiable = [name for name, x in constants.items() if torch.is_grad_enabled() and x.requires_grad]
    if not differentiable:
        return chunked
    if backend == "auto":
        return reference
    raise ValueError(
        f'backend "chunked" computes no gradient for {" and ".join(differentiable)}: detach() the teacher, '
        'or use backend "reference"'
    )


def _shape(x: Tensor) -> list[int]:
    return list(x.shape)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} {value!r} is unknown: choose from {', '.join(choices)}")


def _check_floating(named: Mapping[str, Tensor | None]) -> None:
    devices = {}
    for name, x in named.items():
        if x is None:
            continue
        if not x.is_floating_point():
            raise ValueError(f"{name} is {x.dtype}: a floating dtype is needed")
        devices[name] = str(x.device)
    if len(set(devices.values())) > 1:
        raise ValueError(f"tensors lie on different devices ({devices}): move them to one")


def _check_mask(name: str, mask: Tensor, like: Tensor, shape: Sequence[int]) -> None:
    if mask.is_floating_point() or mask.is_complex():
        raise ValueError(
            f"{name} is {mask.dtype}: a bool mask (True = token) or integers (0 = padding) are needed, "
            f"such as {name}.bool() of a 0/1 mask"
        )
    if tuple(mask.shape) != tuple(shape):
        raise ValueError(f"{name} is {_shape(mask)}: {list(shape)} is needed")
    if mask.device != like.device:
        raise ValueError(
            f"{name} lies on {mask.device}, the states on {like.device}: move them to one device"
        )
