"""Cross-entropy of linear logits: softmax, loss and gradient in one kernel, in the logits' own memory."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import logit_chunks
from .launch import on_device

# Bytes of the logits held at a time.
BUDGET = 256 << 20
BLOCK = 4096


@triton.jit
def _softmax(
    logits, bias, labels, losses, classes, smoothing, z_loss,
    BIAS: tl.constexpr, GRADIENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row: its loss, and the gradient of its logits in their place."""
    row = tl.program_id(0).to(tl.int64)
    start = logits + row * classes
    label = tl.load(labels + row)
    largest = tl.full([BLOCK], float("-inf"), dtype=tl.float32)
    summed = tl.zeros([BLOCK], dtype=tl.float32)
    plain = tl.zeros([BLOCK], dtype=tl.float32)
    picked = tl.zeros([BLOCK], dtype=tl.float32)
    for first in range(0, classes, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        inside = columns < classes
        x = tl.load(start + columns, mask=inside, other=float("-inf")).to(tl.float32)
        if BIAS:
            x += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
        higher = tl.maximum(largest, x)
        # -inf - -inf where a lane has seen no class yet.
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        summed = summed * tl.exp(largest - safe) + tl.exp(x - safe)
        largest = higher
        plain += tl.where(inside, x, 0.0)
        picked += tl.where(columns == label, x, 0.0)
    top = tl.max(largest, 0)
    normaliser = top + tl.log(tl.sum(summed * tl.exp(largest - top), 0))
    loss = normaliser - (1.0 - smoothing) * tl.sum(picked, 0)
    loss += z_loss * normaliser * normaliser - smoothing / classes * tl.sum(plain, 0)
    tl.store(losses + row, loss)
    if GRADIENT:
        for first in range(0, classes, BLOCK):
            columns = first + tl.arange(0, BLOCK)
            inside = columns < classes
            x = tl.load(start + columns, mask=inside, other=float("-inf")).to(tl.float32)
            if BIAS:
                x += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
            gradient = tl.exp(x - normaliser) * (1.0 + 2.0 * z_loss * normaliser) - smoothing / classes
            gradient -= tl.where(columns == label, 1.0 - smoothing, 0.0)
            tl.store(start + columns, gradient.to(logits.dtype.element_ty), mask=inside)


def cross_entropy_terms(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    *,
    label_smoothing: float,
    z_loss: float,
    want_x: bool,
    want_w: bool,
    want_b: bool,
    **options: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `chunked_outputs.cross_entropy_terms`; logits are rounded to the products' dtype first."""

    def softmax(logits: Tensor, bias: Tensor | None, labels: Tensor, losses: Tensor) -> None:
        _softmax[(logits.shape[0],)](
            logits,
            losses if bias is None else bias,
            labels,
            losses,
            logits.shape[1],
            label_smoothing,
            z_loss,
            BIAS=bias is not None,
            GRADIENT=want_x or want_w or want_b,
            BLOCK=min(BLOCK, triton.next_power_of_2(logits.shape[1])),
            num_warps=8,
        )

    with on_device(rows):
        return logit_chunks.cross_entropy_terms(
            rows,
            weight,
            None if bias is None else bias.contiguous(),
            labels,
            softmax,
            budget=BUDGET,
            loss_dtype=torch.float32,
            want_x=want_x,
            want_w=want_w,
            want_b=want_b,
            **options,
        )
