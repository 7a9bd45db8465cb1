"""The losses of reference.py with bounded working memory.

Value and gradients are computed together, chunk by chunk, in the forward pass: no L x L score map, projected
hidden state or vocabulary-wide logit outlives its chunk, and backward only scales the gradients that forward
kept. Runs on any device; nothing is accumulated by atomics, so equal inputs give equal bits.

The teacher's tensors are constants here: no gradient flows into them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .common import (
    add_product,
    compute_dtype,
    counted_pairs,
    saved_dtype,
    stacked_like,
    without_autocast,
)

# Bytes of one chunk of scores, residuals or logits; a chunk's temporaries take about as much again. On a CPU
# the chunk should stay in the cache.
CHUNK_BYTES = {"cpu": 2 << 20}
DEFAULT_CHUNK_BYTES = 32 << 20
# Projections and logits are computed for this many rows at least: fewer would starve the matrix products.
ROWS = 512


def chunk_items(device: torch.device, dtype: torch.dtype) -> int:
    """Elements of one chunk."""
    return CHUNK_BYTES.get(device.type, DEFAULT_CHUNK_BYTES) // dtype.itemsize


def pieces(total: int, size: int) -> list[slice]:
    """Slices that cover range(total), of at most `size` (at least 1)."""
    size = max(1, size)
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def row_pieces(rows: int, width: int, items: int) -> list[slice]:
    """Slices of equal length that cover `rows`: within the budget of `items`, or of at most ROWS rows."""
    count = max(1, -(-rows // max(ROWS, items // max(1, width))))
    return pieces(rows, -(-rows // count))


def attention_terms(
    student_q: list[Tensor],
    student_k: list[Tensor],
    teacher_q: list[Tensor],
    teacher_k: list[Tensor],
    segments: Tensor | None,
    *,
    mode: str,
    student_scale: float,
    teacher_scale: float,
    want_q: bool,
    want_k: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of squared differences of the scores of several layers, and half their gradients.

    Args:
        student_q, student_k: [B, H, L, d_S] each; teacher_q, teacher_k: [B, H, L, d_T] each.
        segments: int [B, L] or None.
        want_q, want_k: whether a gradient is computed.

    Returns:
        [layers] in the compute dtype; [layers, B, H, L, d_S] for the queries and the same for the keys, or
        empty where not wanted.
    """
    dtype = compute_dtype(student_q[0], teacher_q[0])
    device = student_q[0].device
    sums = torch.zeros(len(student_q), dtype=dtype, device=device)
    gradients = [
        stacked_like(x, saved_dtype(x[0])) if want else x[0].new_empty(0)
        for want, x in ((want_q, student_q), (want_k, student_k))
    ]
    with without_autocast(device):
        for layer, tensors in enumerate(zip(student_q, student_k, teacher_q, teacher_k, strict=True)):
            _attention_layer(
                *tensors,
                segments,
                mode,
                student_scale,
                teacher_scale,
                dtype,
                sums[layer],
                *(x[layer] if x.dim() > 1 else None for x in gradients),
            )
    return sums, gradients[0], gradients[1]


def _attention_layer(
    student_q: Tensor,
    student_k: Tensor,
    teacher_q: Tensor,
    teacher_k: Tensor,
    segments: Tensor | None,
    mode: str,
    student_scale: float,
    teacher_scale: float,
    dtype: torch.dtype,
    total: Tensor,
    grad_q: Tensor | None,
    grad_k: Tensor | None,
) -> None:
    """Adds to `total` and writes the gradients."""
    batch, heads, length, width = student_q.shape
    items = chunk_items(student_q.device, dtype)
    for b in pieces(batch, items // max(1, heads * length * length)):
        for h in pieces(heads, items // max(1, length * length)):
            keys = torch.cat([student_k[b, h].to(dtype), teacher_k[b, h].to(dtype)], dim=-1)
            key_gradient = None if grad_k is None else torch.zeros_like(keys[..., :width])
            for i in pieces(length, items // max(1, length)):
                # One product yields the difference itself: [a Q_S | -b Q_T] [K_S | K_T]^T.
                queries = torch.cat(
                    [
                        student_q[b, h, i].to(dtype) * student_scale,
                        teacher_q[b, h, i].to(dtype) * -teacher_scale,
                    ],
                    dim=-1,
                )
                difference = queries @ keys.mT
                if segments is not None:
                    pairs = counted_pairs(segments[b, i], segments[b], mode)
                    difference.masked_fill_(pairs.logical_not_().unsqueeze(1), 0.0)
                if grad_q is not None:
                    grad_q[b, h, i] = (difference @ keys[..., :width] * student_scale).to(grad_q.dtype)
                if key_gradient is not None:
                    key_gradient += difference.mT @ queries[..., :width]
                total += difference.square_().sum()
            if grad_k is not None and key_gradient is not None:
                grad_k[b, h] = key_gradient.to(grad_k.dtype)


def hidden_terms(
    student: list[Tensor],
    teacher: list[Tensor],
    weights: list[Tensor],
    biases: list[Tensor],
    valid: Tensor | None,
    *,
    product: torch.dtype,
    want_h: bool,
    want_w: bool,
    want_b: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sums of squared differences of projected and teacher states, and half their gradients.

    Args:
        student: [N, d_S] each; teacher: [N, d_T] each.
        weights: [d_T, d_S], one for all states or one for each; biases: [d_T], as many as weights or none.
        valid: bool [N] or None.
        product: dtype of the matrix products.
        want_h, want_w, want_b: whether a gradient is computed.

    Returns:
        [states] in the compute dtype; [states, N, d_S], [weights, d_T, d_S], [biases, d_T] or empty.
    """
    dtype = compute_dtype(student[0], teacher[0], weights[0])
    device = student[0].device
    width = weights[0].shape[0]
    sums = torch.zeros(len(student), dtype=dtype, device=device)
    grad_h = stacked_like(student, saved_dtype(student[0])) if want_h else student[0].new_empty(0)
    grad_w = torch.zeros((len(weights) if want_w else 0, *weights[0].shape), dtype=dtype, device=device)
    grad_b = torch.zeros((len(biases) if want_b else 0, width), dtype=dtype, device=device)
    with without_autocast(device):
        matrices = [x.to(product) for x in weights]
        offsets = [x.to(product) for x in biases]
        for index, (inputs, target) in enumerate(zip(student, teacher, strict=True)):
            which = index % len(weights)
            for n in row_pieces(inputs.shape[0], width, chunk_items(device, dtype)):
                hidden = inputs[n].to(product)
                residual = torch.nn.functional.linear(
                    hidden, matrices[which], offsets[which] if offsets else None
                ).to(dtype)
                residual -= target[n]
                if valid is not None:
                    residual.masked_fill_(~valid[n].unsqueeze(-1), 0.0)
                rounded = residual.to(product)
                if want_h:
                    grad_h[index, n] = (rounded @ matrices[which]).to(grad_h.dtype)
                if want_w:
                    add_product(grad_w[which], rounded.mT, hidden)
                if want_b:
                    grad_b[which] += residual.sum(0)
                sums[index] += residual.square_().sum()
    return sums, grad_h, grad_w, grad_b
