"""Operations of one step: matrix products and attention, PyTorch's chunked linear cross-entropy too."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from edad_fast.training import flop_counter

Shape = Sequence[int]


def _head(rows: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    """Linear cross-entropy with its gradients: one product forward, two backward."""
    return 6 * rows[0] * weight[0] * weight[1]


def _formulas() -> dict[Any, Callable[..., int]]:
    # PyTorch registers it at its first call.
    chunked = getattr(torch.ops.torch_nn, "_linear_cross_entropy_batch_chunked", None)
    return {} if chunked is None else {chunked: _head}


def count(step: Callable[[], object]) -> int:
    """Operations of `step`, run once, uncompiled."""
    counter = flop_counter(_formulas())
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"), counter:
        warnings.simplefilter("ignore")  # compiled modules dislike the counter's hooks, and are not called
        step()
    return counter.get_total_flops()
