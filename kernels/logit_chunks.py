"""The products around a fused softmax: logits of many rows at a time, their gradient's way back."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .common import add_product, compute_dtype, saved_dtype, set_product, without_autocast

# Fewer rows would starve the products.
ROWS = 512
# (logits [n, V] of the product dtype, bias, labels [n], losses [n]) -> None: writes the losses, and the
# gradient of the logits in their place.
Softmax = Callable[[Tensor, Tensor | None, Tensor, Tensor], None]


def _column_sums(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.sum(0, dtype=dtype)


def cross_entropy_terms(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    softmax: Softmax,
    *,
    budget: int,
    loss_dtype: torch.dtype,
    product: torch.dtype,
    want_x: bool,
    want_w: bool,
    want_b: bool,
    column_sums: Callable[[Tensor, torch.dtype], Tensor] = _column_sums,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `chunked_outputs.cross_entropy_terms`; logits are rounded to `product` before the bias is added.

    Args:
        softmax: see `Softmax`.
        budget: bytes of the logits held at a time, but for at least ROWS rows.
        loss_dtype: of the losses that `softmax` writes.
        column_sums: ([n, V], dtype) -> [V] of that dtype.
    """
    dtype, device = compute_dtype(rows, weight), rows.device
    count, classes = rows.shape[0], weight.shape[0]
    grad_x = rows.new_empty(rows.shape if want_x else 0, dtype=saved_dtype(rows))
    grad_w = torch.empty(weight.shape if want_w else 0, dtype=dtype, device=device)
    grad_b = torch.zeros(classes if want_b else 0, dtype=dtype, device=device)
    if not count:
        grad_w.zero_()
    losses = torch.empty(count, dtype=loss_dtype, device=device)
    labels = labels.contiguous()
    step = max(ROWS, budget // max(1, classes * product.itemsize))
    with without_autocast(device):
        matrix = weight.to(product)
        for first in range(0, count, step):
            n = slice(first, min(first + step, count))
            hidden = rows[n].to(product)
            logits = hidden @ matrix.mT
            softmax(logits, bias, labels[n], losses[n])
            if want_x:
                grad_x[n] = (logits @ matrix).to(grad_x.dtype)
            if want_w and first == 0:
                set_product(grad_w, logits.mT, hidden)
            elif want_w:
                add_product(grad_w, logits.mT, hidden)
            if want_b:
                grad_b += column_sums(logits, dtype)
    return losses.sum(dtype=torch.float64).to(dtype), grad_x, grad_w, grad_b
