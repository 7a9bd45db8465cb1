"""The losses of reference.py with bounded working memory.

Value and gradients are computed together, chunk by chunk, in the forward pass: no L x L score map, projected
hidden state or vocabulary-wide logit outlives its chunk, and backward only scales the gradients that forward
kept in fp32. Runs on any device; nothing is accumulated by atomics, so equal inputs give equal bits.

The teacher's tensors are constants here: no gradient flows into them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .common import as_segments, compute_dtype, counted_pairs, product_dtype, without_autocast

# Bytes of one chunk of scores, residuals or logits; a chunk's temporaries take about as much again. On a CPU
# the chunk should stay in the cache.
CHUNK_BYTES = {"cpu": 2 << 20}
DEFAULT_CHUNK_BYTES = 32 << 20
# Projections and logits are computed for this many rows at least: fewer would starve the matrix products.
ROWS = 512


def _chunk_items(device: torch.device, dtype: torch.dtype) -> int:
    return CHUNK_BYTES.get(device.type, DEFAULT_CHUNK_BYTES) // dtype.itemsize


def _pieces(total: int, size: int) -> list[slice]:
    """Slices that cover range(total), of at most `size` (at least 1)."""
    size = max(1, size)
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def _row_pieces(rows: int, width: int, items: int) -> list[slice]:
    """Slices of equal length that cover `rows`: within the budget of `items`, or of at most ROWS rows."""
    pieces = max(1, -(-rows // max(ROWS, items // max(1, width))))
    return _pieces(rows, -(-rows // pieces))


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, in total's precision across calls."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


class _AttentionScoreMSE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student_q: Tensor,
        student_k: Tensor,
        teacher_q: Tensor,
        teacher_k: Tensor,
        segment_ids: Tensor | None,
        mode: str,
        student_scale: float,
        teacher_scale: float,
        grad_enabled: bool,
    ) -> Tensor:
        dtype = compute_dtype(student_q, student_k, teacher_q, teacher_k)
        device = student_q.device
        batch, heads, length, width = student_q.shape
        want_q, want_k = (grad_enabled and need for need in ctx.needs_input_grad[:2])
        grad_q = torch.empty(student_q.shape, dtype=dtype, device=device) if want_q else None
        grad_k = torch.zeros(student_k.shape, dtype=dtype, device=device) if want_k else None
        segments = None if segment_ids is None else as_segments(segment_ids)
        count_pairs = segments is not None and mode == "valid_pairs"

        items = _chunk_items(device, dtype)
        query_chunks = _pieces(length, items // max(1, length))
        head_chunks = _pieces(heads, items // max(1, length * length))
        batch_chunks = _pieces(batch, items // max(1, heads * length * length))

        total = torch.zeros((), dtype=dtype, device=device)
        counted = torch.full((), 0 if count_pairs else batch * length * length, device=device)
        with without_autocast(device):
            for b in batch_chunks:
                for i in query_chunks:
                    uncounted = None
                    if segments is not None:
                        pairs = counted_pairs(segments[b, i], segments[b], mode)
                        if count_pairs:
                            counted += pairs.sum()
                        uncounted = pairs.logical_not_().unsqueeze(1)
                    for h in head_chunks:
                        # One product yields the difference itself: [a Q_S | -b Q_T] [K_S | K_T]^T.
                        queries = torch.cat(
                            [
                                student_q[b, h, i].to(dtype) * student_scale,
                                teacher_q[b, h, i].to(dtype) * -teacher_scale,
                            ],
                            dim=-1,
                        )
                        keys = torch.cat([student_k[b, h].to(dtype), teacher_k[b, h].to(dtype)], dim=-1)
                        difference = queries @ keys.mT
                        if uncounted is not None:
                            difference.masked_fill_(uncounted, 0.0)
                        if grad_q is not None:
                            grad_q[b, h, i] = difference @ keys[..., :width]
                        if grad_k is not None:
                            grad_k[b, h] += difference.mT @ queries[..., :width]
                        total += difference.square_().sum()
        normaliser = (counted * heads).clamp(min=1).to(dtype)
        ctx.save_for_backward(grad_q, grad_k, normaliser)
        ctx.student_scale = student_scale
        ctx.dtypes = student_q.dtype, student_k.dtype
        return total / normaliser

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        grad_q, grad_k, normaliser = ctx.saved_tensors
        factor = grad_output * 2 / normaliser
        if grad_q is not None:
            grad_q = (grad_q * (factor * ctx.student_scale)).to(ctx.dtypes[0])
        if grad_k is not None:  # its queries carried the scale already
            grad_k = (grad_k * factor).to(ctx.dtypes[1])
        return grad_q, grad_k, *[None] * 7


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
    """`reference.attention_score_mse` in O(B H L d) memory beyond one chunk of scores; teacher constant."""
    value: Tensor = _AttentionScoreMSE.apply(
        student_q,
        student_k,
        teacher_q,
        teacher_k,
        segment_ids,
        mode,
        student_scale,
        teacher_scale,
        torch.is_grad_enabled(),
    )
    return value


class _HiddenStateMSE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        valid: Tensor | None,
        grad_enabled: bool,
    ) -> Tensor:
        dtype, product = compute_dtype(student, teacher, weight), product_dtype(student, weight)
        device = student.device
        width = weight.shape[0]
        want_h, _, want_w, want_b = (grad_enabled and need for need in ctx.needs_input_grad[:4])
        grad_h = torch.empty(student.shape, dtype=dtype, device=device) if want_h else None
        grad_w = torch.zeros(weight.shape, dtype=dtype, device=device) if want_w else None
        grad_b = torch.zeros((width,), dtype=dtype, device=device) if want_b else None
        total = torch.zeros((), dtype=dtype, device=device)
        with without_autocast(device):
            matrix = weight.to(product)
            offset = None if bias is None else bias.to(product)
            for n in _row_pieces(student.shape[0], width, _chunk_items(device, dtype)):
                hidden = student[n].to(product)
                residual = torch.nn.functional.linear(hidden, matrix, offset).to(dtype)
                residual -= teacher[n]
                if valid is not None:
                    residual.masked_fill_(~valid[n].unsqueeze(-1), 0.0)
                rounded = residual.to(product)
                if grad_h is not None:
                    grad_h[n] = rounded @ matrix
                if grad_w is not None:
                    _add_product(grad_w, rounded.mT, hidden)
                if grad_b is not None:
                    grad_b += residual.sum(0)
                total += residual.square_().sum()
        positions = torch.full((), student.shape[0], device=device) if valid is None else valid.sum()
        normaliser = (positions * width).clamp(min=1).to(dtype)
        ctx.save_for_backward(grad_h, grad_w, grad_b, normaliser)
        ctx.dtypes = student.dtype, weight.dtype, None if bias is None else bias.dtype
        return total / normaliser

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        *grads, normaliser = ctx.saved_tensors
        factor = grad_output * 2 / normaliser
        grad_h, grad_w, grad_b = (
            None if grad is None else (grad * factor).to(dtype)
            for grad, dtype in zip(grads, ctx.dtypes, strict=True)
        )
        return grad_h, None, grad_w, grad_b, None, None


def hidden_state_mse(
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    *,
    mode: str,
) -> Tensor:
    """`reference.hidden_state_mse` without keeping the projected states; teacher constant.

    The matrix products run in bf16 where student and weight are bf16 or autocast asks for it; the difference,
    its square and the sums over chunks stay in fp32.
    """
    valid = mask.reshape(-1) > 0 if mask is not None and mode == "valid" else None
    value: Tensor = _HiddenStateMSE.apply(
        student_hidden.reshape(-1, student_hidden.shape[-1]),
        teacher_hidden.reshape(-1, teacher_hidden.shape[-1]),
        weight,
        bias,
        valid,
        torch.is_grad_enabled(),
    )
    return value


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, grad_enabled: bool
    ) -> Tensor:
        dtype, product = compute_dtype(rows, weight), product_dtype(rows, weight)
        device = rows.device
        want_x, want_w, want_b = (grad_enabled and need for need in ctx.needs_input_grad[:3])
        grad_x = torch.empty(rows.shape, dtype=dtype, device=device) if want_x else None
        grad_w = torch.zeros(weight.shape, dtype=dtype, device=device) if want_w else None
        grad_b = torch.zeros(weight.shape[:1], dtype=dtype, device=device) if want_b else None
        total = torch.zeros((), dtype=dtype, device=device)
        with without_autocast(device):
            matrix = weight.to(product)
            offset = None if bias is None else bias.to(product)
            for n in _row_pieces(rows.shape[0], weight.shape[0], _chunk_items(device, dtype)):
                hidden, label = rows[n].to(product), labels[n].unsqueeze(-1)
                logits = torch.nn.functional.linear(hidden, matrix, offset).to(dtype)
                picked = logits.gather(1, label)
                log_normaliser = logits.logsumexp(1, keepdim=True)
                total += (log_normaliser - picked).sum()
                if not (want_x or want_w or want_b):
                    continue
                # d loss / d logits = softmax - one-hot, in the logits' own memory.
                difference = logits.sub_(log_normaliser).exp_()
                difference.scatter_add_(1, label, -torch.ones_like(picked))
                rounded = difference.to(product)
                if grad_x is not None:
                    grad_x[n] = rounded @ matrix
                if grad_w is not None:
                    _add_product(grad_w, rounded.mT, hidden)
                if grad_b is not None:
                    grad_b += difference.sum(0)
        count = max(1, rows.shape[0])
        ctx.save_for_backward(grad_x, grad_w, grad_b)
        ctx.count = count
        ctx.dtypes = rows.dtype, weight.dtype, None if bias is None else bias.dtype
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        factor = grad_output / ctx.count
        grads = (
            None if grad is None else (grad * factor).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return *grads, None, None


def masked_lm_loss(
    hidden: Tensor,
    positions: Tensor,
    labels: Tensor,
    transform: Callable[[Tensor], Tensor],
    decoder_weight: Tensor,
    decoder_bias: Tensor | None,
) -> Tensor:
    """`reference.masked_lm_loss` holding the logits of at most 512 positions (or a budget) at a time.

    The matrix products run in bf16 where rows and weight are bf16 or autocast asks for it; softmax, loss and
    the sum of the weight gradient over chunks stay in fp32.
    """
    rows = transform(hidden.reshape(-1, hidden.shape[-1]).index_select(0, positions))
    value: Tensor = _LinearCrossEntropy.apply(
        rows, decoder_weight, decoder_bias, labels, torch.is_grad_enabled()
    )
    return value
