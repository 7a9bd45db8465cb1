"""Cross-entropy of linear logits: softmax, loss and gradient in one kernel, in the logits' own memory.

The products are cuBLAS's, over chunks of rows; the weight's gradient is summed over them in fp32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common import compute_dtype, saved_dtype, without_autocast
from .launch import on_device

# Bytes of the logits held at a time, and the least number of rows: fewer would starve the products.
BUDGET = 256 << 20
ROWS = 512
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
    product: torch.dtype,
    want_x: bool,
    want_w: bool,
    want_b: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `chunked_outputs.cross_entropy_terms`; logits are rounded to `product` before the bias is added."""
    dtype, device = compute_dtype(rows, weight), rows.device
    count, classes = rows.shape[0], weight.shape[0]
    grad_x = rows.new_empty(rows.shape if want_x else 0, dtype=saved_dtype(rows))
    grad_w = torch.zeros(weight.shape if want_w else 0, dtype=dtype, device=device)
    grad_b = torch.zeros(classes if want_b else 0, dtype=dtype, device=device)
    losses = torch.empty(count, dtype=torch.float32, device=device)
    labels = labels.contiguous()
    step = max(ROWS, BUDGET // max(1, classes * product.itemsize))
    with without_autocast(device), on_device(rows):
        matrix = weight.to(product)
        for first in range(0, count, step):
            end = min(first + step, count)
            hidden = rows[first:end].to(product)
            logits = hidden @ matrix.mT
            _softmax[(end - first,)](
                logits,
                losses if bias is None else bias.contiguous(),
                labels[first:end],
                losses[first:end],
                classes,
                label_smoothing,
                z_loss,
                BIAS=bias is not None,
                GRADIENT=want_x or want_w or want_b,
                BLOCK=BLOCK,
                num_warps=8,
            )
            if want_x:
                grad_x[first:end] = (logits @ matrix).to(grad_x.dtype)
            if want_w:
                _add_product(grad_w, logits.mT, hidden)
            if want_b:
                grad_b += logits.sum(0, dtype=dtype)
    return losses.sum(dtype=torch.float64).to(dtype), grad_x, grad_w, grad_b


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right in fp32, where this torch can (2.8 and later) within one product too."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    elif left.is_cuda and hasattr(torch.ops.aten.mm, "dtype"):
        total += torch.mm(left, right, out_dtype=total.dtype)
    else:
        total += left @ right
