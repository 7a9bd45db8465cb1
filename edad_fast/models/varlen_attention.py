"""Attention over sequences laid end to end: no mask, and no work between the segments of a row."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@cache
def _kernel() -> Any:
    """PyTorch's flash attention for such sequences (2.10 and later); None in older versions."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


def available(device: torch.device) -> bool:
    """Whether `varlen_attention` can run on `device`."""
    return device.type == "cuda" and _kernel() is not None


def varlen_attention(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, max_length: int, scaling: float | None
) -> Tensor:
    """softmax(Q K^T scaling) V within each sequence; [B, L, H, d].

    Args:
        query, key, value: [B, H, L, d], bf16 or fp16.
        cu_seqlens: int32 [sequences + 1], where sequences begin and end in the B * L positions; sequences of
            no length may stand at the end.
        max_length: no sequence is longer.
        scaling: factor of Q K^T; default d ** -0.5.
    """
    batch, heads, length, width = query.shape
    # The kernel takes widths that are multiples of 8; added columns of zeros change no score and no output.
    spare = -width % 8
    flat = [
        functional.pad(x.transpose(1, 2), (0, spare)).reshape(batch * length, heads, width + spare)
        for x in (query, key, value)
    ]
    scale = width**-0.5 if scaling is None else scaling
    output: Tensor = _kernel()(*flat, cu_seqlens, cu_seqlens, max_length, max_length, scale=scale)
    return output.view(batch, length, heads, width + spare)[..., :width]
