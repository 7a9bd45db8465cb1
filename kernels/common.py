"""What every backend shares: the pair rule, the compute dtype, leaving autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

ATTENTION_MODES = ("tinybert", "valid_pairs")
HIDDEN_MODES = ("tinybert", "valid")


def counted_pairs(query_segments: Tensor, key_segments: Tensor, mode: str) -> Tensor:
    """Which (query i, key j) pairs enter the attention loss: bool [B, L_q, L_k].

    Segments are integers; 0 is padding, tokens with the same positive number attend to each other.

    - ``valid_pairs``: i and j are tokens of the same segment.
    - ``tinybert``: j is a token, and i is padding or of j's segment. Padding *queries* count against
      every token of their row, as they do in the published loss; with one segment a row this is that
      loss exactly, with several (packed rows) it is the same rule under the block-diagonal mask.
    """
    query, key = query_segments.unsqueeze(-1), key_segments.unsqueeze(-2)
    pairs = query == key
    if mode == "tinybert":
        pairs = pairs | (query <= 0)
    return pairs & (key > 0)


def as_segments(segment_ids: Tensor) -> Tensor:
    """A bool mask (True = token) is one segment a row; integers pass through."""
    return segment_ids.to(torch.int32) if segment_ids.dtype == torch.bool else segment_ids


def compute_dtype(*tensors: Tensor | None) -> torch.dtype:
    """fp32, or fp64 where an input is fp64."""
    dtype = torch.float32
    for tensor in tensors:
        if tensor is not None:
            dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def product_dtype(activation: Tensor, weight: Tensor) -> torch.dtype:
    """The dtype in which a chunked loss multiplies activation and weight.

    bf16 if both are, or if autocast to bf16 is on; else fp32 (fp16's range is too small for sums over
    positions) or fp64. Call it before leaving autocast.
    """
    dtype = torch.promote_types(activation.dtype, weight.dtype)
    device_type = activation.device.type
    if (
        dtype != torch.float64
        and torch.amp.is_autocast_available(device_type)
        and torch.is_autocast_enabled(device_type)
    ):
        dtype = torch.get_autocast_dtype(device_type)
    return dtype if dtype == torch.bfloat16 else torch.promote_types(dtype, torch.float32)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """The losses choose their own precision: autocast would round scores and residuals to bf16."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
