"""The losses of a model's outputs and relations: validate, pick a backend, call it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import choice, ops_outputs, reference
from .checks import (
    check_floating,
    check_indices,
    check_mask,
    check_regularisers,
    check_reverse_mode,
    check_temperature,
    check_tensor,
    readable,
    shape,
)
from .common import as_segments, product_dtype


def masked_lm_loss(
    hidden: Tensor,
    positions: Tensor,
    labels: Tensor,
    transform: Callable[[Tensor], Tensor],
    decoder_weight: Tensor,
    decoder_bias: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    backend: str = "auto",
) -> Tensor:
    """Mean masked-language-model cross-entropy, the prediction head run on the masked positions only.

    The formula is at `reference.linear_cross_entropy`. Logits of a few hundred positions are held at a time;
    the decoder's gradient is summed over them in fp32.

    Args:
        hidden: [B, L, d] or [N, d], last hidden states, any floating dtype.
        positions: int64 [M], flat into the B*L (or N) positions.
        labels: int64 [M], ids below V.
        transform: what the head does before its decoder, [M, d] -> [M, d'] (BERT: dense, GELU, LayerNorm).
        decoder_weight: [V, d'], usually tied to the embeddings; decoder_bias: [V] or None.
        label_smoothing: weight of the uniform distribution in the target, 0 to 1.
        z_loss: factor of the squared log-normaliser, 0 or above.
        backend: "reference"; "chunked" (plain PyTorch, any device); "cpu" and "triton" (softmax and its
            gradient in one kernel); "auto".

    Returns:
        Scalar, fp32 (fp64 for fp64 inputs); 0, connected to the graph, when M = 0.

    Raises:
        ValueError: shapes, dtypes, devices, options or backend that do not fit.
    """
    check_tensor("decoder_weight", decoder_weight)
    check_floating({"hidden": hidden, "decoder_weight": decoder_weight, "decoder_bias": decoder_bias})
    if hidden.dim() not in (2, 3):
        raise ValueError(
            f"hidden has shape {shape(hidden)}: [batch, length, width] or [positions, width] is needed"
        )
    for name, x in (("positions", positions), ("labels", labels)):
        check_tensor(name, x)
        if x.dim() != 1 or x.dtype != torch.int64 or x.shape != positions.shape or x.device != hidden.device:
            raise ValueError(
                f"{name} is {x.dtype} {shape(x)} on {x.device}: int64 [{positions.numel()}] on "
                f"{hidden.device} is needed, one entry for each masked position"
            )
    if decoder_weight.dim() != 2:
        raise ValueError(f"decoder_weight is {shape(decoder_weight)}: [vocabulary, width] is needed")
    if decoder_bias is not None and decoder_bias.shape != decoder_weight.shape[:1]:
        raise ValueError(f"decoder_bias is {shape(decoder_bias)}: [{decoder_weight.shape[0]}] is needed")
    check_regularisers(label_smoothing, z_loss)
    picked = choice.outputs(backend, "cross_entropy", [hidden, decoder_weight], [])
    rows = transform(_chosen(hidden, positions))
    if rows.shape != (positions.numel(), decoder_weight.shape[1]):
        raise ValueError(
            f"decoder_weight is {shape(decoder_weight)}, the transform gives {shape(rows)}: "
            f"[{positions.numel()}, {decoder_weight.shape[1]}] is needed"
        )
    if picked == "reference":
        check_indices("labels", labels, decoder_weight.shape[0])
        return reference.linear_cross_entropy(
            rows, decoder_weight, decoder_bias, labels, label_smoothing=label_smoothing, z_loss=z_loss
        )
    check_reverse_mode(backend, [rows, decoder_weight, decoder_bias])
    flags = (ops_outputs.WANT_X, ops_outputs.WANT_W, ops_outputs.WANT_B)
    wanted = sum(
        flag
        for x, flag in zip((rows, decoder_weight, decoder_bias), flags, strict=True)
        if x is not None and _asks(x)
    )
    loss: Tensor = ops_outputs.call_cross_entropy(
        rows,
        decoder_weight,
        decoder_bias,
        labels,
        label_smoothing,
        z_loss,
        picked,
        product_dtype(rows, decoder_weight),
        wanted,
    )[0]
    return loss


def relation_kl(
    student: Tensor,
    teacher: Tensor,
    segment_ids: Tensor | None = None,
    *,
    student_scale: float | None = None,
    teacher_scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """Divergence of the self-relations of one kind of vectors; the formula is at `reference.relation_kl`.

    Args:
        student: [B, H, L, d_S]; teacher: [B, H, L, d_T], any floating dtype, any strides; the teacher is a
            constant but for the reference.
        segment_ids: int [B, L] (0 = padding, k = k-th segment), bool [B, L] (True = token), or None.
        student_scale, teacher_scale: factor of A A^T; default d ** -0.5.
        backend: "reference"; "chunked" (any device), "triton" (heads of 128 at most): tile by tile, O(L)
            memory; "auto".

    Returns:
        Scalar, fp32 (fp64 for fp64 inputs).

    Raises:
        ValueError: shapes, dtypes, devices or backend that do not fit.
    """
    check_floating({"student": student, "teacher": teacher})
    for name, x in (("student", student), ("teacher", teacher)):
        if x.dim() != 4:
            raise ValueError(f"{name} has shape {shape(x)}: [batch, heads, length, head width] is needed")
        if not x.shape[-1]:
            raise ValueError(f"{name} has shape {shape(x)}: a head width of 1 at least is needed")
    if student.shape[:3] != teacher.shape[:3]:
        raise ValueError(
            f"student is {shape(student)} but teacher {shape(teacher)}: batch, relation heads and length "
            "must agree (regroup_heads gives both as many heads)"
        )
    if segment_ids is not None:
        check_mask("mask (segment_ids)", segment_ids, student, (student.shape[0], student.shape[2]))
    scales = (
        student.shape[-1] ** -0.5 if student_scale is None else student_scale,
        teacher.shape[-1] ** -0.5 if teacher_scale is None else teacher_scale,
    )
    picked = choice.outputs(backend, "relation", [student, teacher], _constants(teacher))
    if picked == "reference":
        return reference.relation_kl(
            student, teacher, segment_ids, student_scale=scales[0], teacher_scale=scales[1]
        )
    check_reverse_mode(backend, [student])
    segments = None if segment_ids is None else as_segments(segment_ids)
    loss: Tensor = ops_outputs.call_relation_kl(student, teacher, segments, *scales, picked, _asks(student))[
        0
    ]
    return loss


def logit_kl(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0, backend: str = "auto"
) -> Tensor:
    """T^2 KL of softened predictions; the formula is at `reference.logit_kl`.

    Args:
        student_logits, teacher_logits: [..., classes], any floating dtype; the teacher is a constant but for
            the reference.
        temperature: T, above 0.
        backend: "reference"; "chunked" (any device), "triton": value and gradient in one pass; "auto".

    Returns:
        Scalar, fp32 (fp64 for fp64 inputs).

    Raises:
        ValueError: shapes, dtypes, devices, temperature or backend that do not fit.
    """
    check_floating({"student_logits": student_logits, "teacher_logits": teacher_logits})
    if student_logits.shape != teacher_logits.shape or not student_logits.dim():
        raise ValueError(
            f"student_logits are {shape(student_logits)}, teacher_logits {shape(teacher_logits)}: the same "
            "[..., classes] is needed"
        )
    if not student_logits.shape[-1]:
        raise ValueError(f"logits are {shape(student_logits)}: one class at least is needed")
    check_temperature(temperature)
    picked = choice.outputs(backend, "logits", [student_logits, teacher_logits], _constants(teacher_logits))
    if picked == "reference":
        return reference.logit_kl(student_logits, teacher_logits, temperature=temperature)
    check_reverse_mode(backend, [student_logits])
    flat = [x.reshape(-1, x.shape[-1]) for x in (student_logits, teacher_logits)]
    loss: Tensor = ops_outputs.call_logit_kl(*flat, temperature, picked, _asks(student_logits))[0]
    return loss


def next_sentence_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean next-sentence cross-entropy of logits [B, 2]; labels int64 [B], 0 = B follows A, 1 = random.

    Raises:
        ValueError: shapes or dtypes that do not fit.
    """
    check_floating({"logits": logits})
    if logits.dim() != 2 or logits.shape[1] != 2:
        raise ValueError(f"logits are {shape(logits)}: [batch, 2] is needed")
    if labels.dtype != torch.int64 or labels.shape != logits.shape[:1]:
        raise ValueError(f"labels are {labels.dtype} {shape(labels)}: int64 [{logits.shape[0]}] is needed")
    return reference.next_sentence_loss(logits, labels)


def _chosen(hidden: Tensor, positions: Tensor) -> Tensor:
    """The rows at flat positions. Values are read only after a CPU found one outside."""
    flat = hidden.reshape(-1, hidden.shape[-1])
    if not readable(positions):
        return flat.index_select(0, positions)
    try:
        return flat.index_select(0, positions)
    except IndexError:
        check_indices("positions", positions, flat.shape[0])
        raise


def _asks(x: Tensor) -> bool:
    return torch.is_grad_enabled() and x.requires_grad


def _constants(teacher: Tensor) -> list[str]:
    """What only the reference gives a gradient."""
    return ["the teacher"] if _asks(teacher) else []
