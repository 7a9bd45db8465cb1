"""The definition of every loss, in plain PyTorch.

Any floating dtype; fp16 and bf16 are computed in fp32, fp64 in fp64. Differentiable by autograd in every
floating input, the teacher's included. Scores and projections are materialised: clear, not economical.
Inputs are trusted; `edad_fast.kernels` (dispatch.py) validates them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .common import as_segments, compute_dtype, counted_pairs, without_autocast


def attention_score_mse(
    student_q: Tensor,
    student_k: Tensor,
    teacher_q: Tensor,
    teacher_k: Tensor,
    segment_ids: Tensor | None,
    *,
    mode: str,
    student_scale: float,
    teacher_scale: float,
) -> Tensor:
    """Mean squared difference of two models' pre-softmax attention scores.

    With A = scale * Q K^T and c_ij = 1 where pair (i, j) counts (`counted_pairs`), else 0::

        loss = 1/Z * sum_{b,h,i,j} c_bij * (A^S_bhij - A^T_bhij)^2

    ``tinybert``: Z = B H L L, the rule of TinyBERT's general_distill.py (scores of masked keys are 0 in
    both models, nn.MSELoss over the whole map, padded query rows included). There a masked key is known
    by a score <= -100, so an unmasked score that low would be zeroed too; here it is not.
    ``valid_pairs``: Z = H * (number of counted pairs), at least 1.

    Args:
        student_q, student_k: [B, H, L, d_S].
        teacher_q, teacher_k: [B, H, L, d_T].
        segment_ids: int [B, L] (0 = padding), bool [B, L] (True = token), or None (no padding).
        student_scale, teacher_scale: usually d ** -0.5.

    Returns:
        Scalar, fp32 (fp64 for fp64 inputs).
    """
    dtype = compute_dtype(student_q, student_k, teacher_q, teacher_k)
    sq, sk, tq, tk = (x.to(dtype) for x in (student_q, student_k, teacher_q, teacher_k))
    batch, heads, length, _ = sq.shape
    with without_autocast(sq.device):
        difference = student_scale * (sq @ sk.mT) - teacher_scale * (tq @ tk.mT)
        counted: Tensor | int = batch * length * length
        if segment_ids is not None:
            segments = as_segments(segment_ids)
            pairs = counted_pairs(segments, segments, mode)
            difference = difference.masked_fill(~pairs.unsqueeze(1), 0.0)
            if mode == "valid_pairs":
                counted = pairs.sum()
        return difference.square().sum() / torch.as_tensor(counted * heads, device=sq.device).clamp(min=1)


def hidden_state_mse(
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mask: Tensor | None,
    *,
    mode: str,
) -> Tensor:
    """Mean squared difference of hidden states after a linear projection of the student's.

    ::

        loss = 1/(N d_T) * sum_n || H^S_n W^T + b - H^T_n ||^2

    ``tinybert``: the sum runs over all N positions, padding included (the published nn.MSELoss).
    ``valid`` (also ``valid_pairs``): over the N positions where `mask` is set; N is at least 1.

    Args:
        student_hidden: [..., d_S]; teacher_hidden: [..., d_T].
        weight: [d_T, d_S], or None (no projection, d_S = d_T); bias: [d_T] or None.
        mask: bool or int [...], non-zero = token; or None (all are tokens).

    Returns:
        Scalar, fp32 (fp64 for fp64 inputs).
    """
    dtype = compute_dtype(student_hidden, teacher_hidden, weight)
    with without_autocast(student_hidden.device):
        projected = student_hidden.to(dtype)
        if weight is not None:
            projected = F.linear(projected, weight.to(dtype), None if bias is None else bias.to(dtype))
        difference = projected - teacher_hidden.to(dtype)
        positions: Tensor | int = difference.shape[:-1].numel()
        if mask is not None and mode != "tinybert":
            valid = mask > 0
            difference = difference.masked_fill(~valid.unsqueeze(-1), 0.0)
            positions = valid.sum()
        width = difference.shape[-1]
        return difference.square().sum() / torch.as_tensor(positions * width, device=projected.device).clamp(
            min=1
        )


def linear_cross_entropy(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Tensor:
    """Cross-entropy of logits z = x W^T + b, the mean over the rows; 0, connected to the graph, for no rows.

    ::

        loss = 1/M * sum_m  lse(z_m) - (1 - e) z_m[y_m] - e/V * sum_v z_m[v]  +  c * lse(z_m)^2

    with e = label_smoothing (as torch.nn.CrossEntropyLoss has it) and c = z_loss (the log of the normaliser
    is kept near 0; Chowdhery et al. 2022).

    Args:
        rows: [M, d]; weight: [V, d]; bias: [V] or None; labels: int64 [M] in [0, V).

    Returns:
        Scalar, fp32 (fp64 for fp64 inputs).
    """
    dtype = compute_dtype(rows, weight)
    with without_autocast(rows.device):
        logits = F.linear(rows.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
        loss = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=label_smoothing)
        if z_loss:
            loss = loss + z_loss * logits.logsumexp(1).square().sum()
        return loss / max(labels.numel(), 1)


def masked_lm_loss(
    hidden: Tensor,
    positions: Tensor,
    labels: Tensor,
    transform: Callable[[Tensor], Tensor],
    decoder_weight: Tensor,
    decoder_bias: Tensor | None,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Tensor:
    """BERT's masked-language-model loss, with the prediction head run on the masked positions only.

    ::

        loss = 1/M * sum_m -log softmax(transform(h_{p_m}) W^T + b)[y_m]

    Equal to the dense head's cross-entropy with ignore_index elsewhere, since the head is positionwise.
    0, connected to the graph, when M = 0.

    Args:
        hidden: [B, L, d] or [N, d]; positions: int64 [M], flat into the B*L (or N) rows.
        labels: int64 [M]; transform: [M, d] -> [M, d'] (dense, activation, LayerNorm).
        decoder_weight: [V, d']; decoder_bias: [V] or None.

    Returns:
        Scalar, fp32 (fp64 for fp64 inputs).
    """
    rows = hidden.reshape(-1, hidden.shape[-1]).index_select(0, positions)
    return linear_cross_entropy(
        transform(rows),
        decoder_weight,
        decoder_bias,
        labels,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
    )


def next_sentence_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the next-sentence logits [B, 2]; labels int64 [B], 0 = B follows A, 1 = not."""
    return F.cross_entropy(logits.to(compute_dtype(logits)), labels)


def relation_kl(
    student: Tensor,
    teacher: Tensor,
    segment_ids: Tensor | None,
    *,
    student_scale: float,
    teacher_scale: float,
) -> Tensor:
    """Divergence of two models' self-relations of queries, keys or values (MiniLMv2, Wang et al. 2021).

    With R = softmax(scale * A A^T) over the tokens of the row's own segment::

        loss = 1/(H N) * sum_{b,h,i} KL(R^T_bhi || R^S_bhi)

    the sum over the N tokens i; padding is in no row and in no normaliser. N is at least 1.

    Args:
        student: [B, H, L, d_S]; teacher: [B, H, L, d_T], as many relation heads.
        segment_ids: int [B, L] (0 = padding), bool [B, L] (True = token), or None.
        student_scale, teacher_scale: usually d ** -0.5.

    Returns:
        Scalar, fp32 (fp64 for fp64 inputs).
    """
    dtype = compute_dtype(student, teacher)
    with without_autocast(student.device):
        scores = [
            scale * (x.to(dtype) @ x.to(dtype).mT)
            for x, scale in ((student, student_scale), (teacher, teacher_scale))
        ]
        tokens: Tensor | int = student.shape[0] * student.shape[2]
        if segment_ids is not None:
            segments = as_segments(segment_ids)
            pairs = counted_pairs(segments, segments, "valid_pairs").unsqueeze(1)
            tokens = (segments > 0).sum()
            # Rows of padding: any finite relation, the same in both models, diverges by nothing.
            empty = ~pairs.any(-1, keepdim=True)
            scores = [x.masked_fill(~pairs, -torch.inf).masked_fill(empty, 0.0) for x in scores]
        log_student, log_teacher = (x.log_softmax(-1) for x in scores)
        probability = log_teacher.exp()
        # 0 * (-inf - -inf) where a pair does not count.
        terms = torch.where(probability > 0, probability * (log_teacher - log_student), probability)
        count = torch.as_tensor(tokens * student.shape[1], device=student.device).clamp(min=1)
        return terms.sum() / count


def logit_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """T^2 KL(softmax(t / T) || softmax(s / T)), the mean over the rows (Hinton et al. 2015).

    Args:
        student_logits, teacher_logits: [..., classes].

    Returns:
        Scalar, fp32 (fp64 for fp64 inputs).
    """
    dtype = compute_dtype(student_logits, teacher_logits)
    log_student, log_teacher = (
        (x.to(dtype) / temperature).log_softmax(-1) for x in (student_logits, teacher_logits)
    )
    rows = max(1, log_student.shape[:-1].numel())
    return F.kl_div(log_student, log_teacher, reduction="sum", log_target=True) * temperature**2 / rows
