"""Operations of one step: matrix products and attention, a multiply-add counted twice.

`FlopCounterMode` does not know the CPU's SDPA, nor PyTorch's chunked linear cross-entropy.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

Shape = Sequence[int]


def _head(rows: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    """Linear cross-entropy with its gradients: one product forward, two backward."""
    return 6 * rows[0] * weight[0] * weight[1]


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    batch, heads, length, width = query
    return 2 * batch * heads * length * key[2] * (width + value[3])


def _attention_backward(gradient: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """Scores again, then the gradients of query, key, value and probabilities."""
    batch, heads, length, width = query
    return 2 * batch * heads * length * key[2] * (3 * width + 2 * value[3])


def _formulas() -> dict[Any, Callable[..., int]]:
    aten = torch.ops.aten
    found: dict[Any, Callable[..., int]] = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    chunked = getattr(torch.ops.torch_nn, "_linear_cross_entropy_batch_chunked", None)
    return found if chunked is None else {**found, chunked: _head}  # PyTorch registers it at its first call


def count(step: Callable[[], object]) -> int:
    """Operations of `step`, run once, uncompiled."""
    counter = FlopCounterMode(display=False, custom_mapping=_formulas())
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"), counter:
        warnings.simplefilter("ignore")  # compiled modules dislike the counter's hooks, and are not called
        step()
    return counter.get_total_flops()
