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
    ``valid``: over the N positions where `mask` is set; N is at least 1.

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
        if mask is not None and mode == "valid":
            valid = mask > 0
            difference = difference.masked_fill(~valid.unsqueeze(-1), 0.0)
            positions = valid.sum()
        width = difference.shape[-1]
        return difference.square().sum() / torch.as_tensor(positions * width, device=projected.device).clamp(
            min=1
        )


def linear_cross_entropy(rows: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    """Mean over the rows of -log softmax(x W^T + b)[label]; 0, connected to the graph, for no rows.

    Args:
        rows: [M, d]; weight: [V, d]; bias: [V] or None; labels: int64 [M] in [0, V).

    Returns:
        Scalar, fp32 (fp64 for fp64 inputs).
    """
    dtype = compute_dtype(rows, weight)
    with without_autocast(rows.device):
        logits = F.linear(rows.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
        return F.cross_entropy(logits, labels, reduction="sum") / max(labels.numel(), 1)


def masked_lm_loss(
    hidden: Tensor,
    positions: Tensor,
    labels: Tensor,
    transform: Callable[[Tensor], Tensor],
    decoder_weight: Tensor,
    decoder_bias: Tensor | None,
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
    return linear_cross_entropy(transform(rows), decoder_weight, decoder_bias, labels)


def next_sentence_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the next-sentence logits [B, 2]; labels int64 [B], 0 = B follows A, 1 = not."""
    return F.cross_entropy(logits.to(compute_dtype(logits)), labels)
