"""Cross-entropy of linear logits on CPUs: softmax, loss and gradient in C++, row by row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import logit_chunks
from ..checks import check_indices
from . import library

# Bytes of the logits held at a time.
BUDGET = 64 << 20
PRODUCTS = (torch.float32, torch.bfloat16)


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
    """As `chunked_outputs.cross_entropy_terms`, for products of `PRODUCTS`.

    Raises:
        ValueError: a label that is no class. RuntimeError: the library is missing, or memory ran out.
    """
    check_indices("labels", labels, weight.shape[0])
    loaded = library()
    if loaded is None:
        raise RuntimeError("the C++ losses for CPUs were not built")

    def softmax(logits: Tensor, bias: Tensor | None, labels: Tensor, losses: Tensor) -> None:
        failed = loaded.edad_fast_cross_entropy(
            *(logits.data_ptr(), *logits.shape),
            None if bias is None else bias.data_ptr(),
            *(labels.data_ptr(), label_smoothing, z_loss),
            *(logits.dtype == torch.bfloat16, want_x or want_w or want_b, torch.get_num_threads()),
            losses.data_ptr(),
        )
        if failed:
            raise RuntimeError("not enough memory for the cross-entropy")

    def column_sums(x: Tensor, dtype: torch.dtype) -> Tensor:
        sums = x.new_empty(x.shape[1], dtype=torch.float32)
        loaded.edad_fast_column_sums(
            *(x.data_ptr(), *x.shape, x.dtype == torch.bfloat16, torch.get_num_threads(), sums.data_ptr())
        )
        return sums.to(dtype)

    return logit_chunks.cross_entropy_terms(
        rows,
        weight,
        None if bias is None else bias.detach().float().contiguous(),
        labels,
        softmax,
        budget=BUDGET,
        loss_dtype=torch.float64,
        want_x=want_x,
        want_w=want_w,
        want_b=want_b,
        column_sums=column_sums,
        **options,
    )
