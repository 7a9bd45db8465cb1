"""What every backend shares: the pair rule, dtypes, the layout of its results, leaving autocast."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

ATTENTION_MODES = ("tinybert", "valid_pairs")
HIDDEN_MODES = ("tinybert", "valid", "valid_pairs")  # the last two are one


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


def narrow_segments(segments: Tensor) -> Tensor:
    """Segment ids as int32 without gaps; int64 ones, which may not fit, as ranks within their row."""
    if segments.dtype != torch.int64:
        return segments.to(torch.int32).contiguous()
    ordered = segments.sort(dim=1).values
    ranks = torch.searchsorted(ordered, segments, out_int32=True) + 1
    return torch.where(segments > 0, ranks, 0).contiguous()


def count_pairs(segments: Tensor | None, cu_seqlens: Tensor | None, like: Tensor) -> Tensor:
    """Pairs of tokens of one segment, float64 scalar on the device; `like` is [B, H, L, d].

    In O(B L) memory, and nothing is read back to the host.
    """
    if cu_seqlens is not None:
        return cu_seqlens.diff().double().square().sum()
    if segments is None:
        return torch.full(
            (), like.shape[0] * like.shape[2] * like.shape[2], dtype=torch.float64, device=like.device
        )
    ordered = segments.sort(dim=1).values
    same = torch.searchsorted(ordered, segments, right=True) - torch.searchsorted(ordered, segments)
    return (same * (segments > 0)).double().sum()


def segments_of_lengths(cu_seqlens: Tensor, total: int) -> Tensor:
    """Segment ids [1, total] of sequences laid end to end: 1, 1, 2, 2, 2, ...; 0 behind the last."""
    positions = torch.arange(total, device=cu_seqlens.device, dtype=cu_seqlens.dtype)
    ids = torch.searchsorted(cu_seqlens[1:], positions, right=True) + 1
    return torch.where(positions < cu_seqlens[-1], ids, 0).to(torch.int32).unsqueeze(0)


def saved_dtype(x: Tensor) -> torch.dtype:
    """Dtype in which forward keeps a gradient that still lacks its factor: fp16 has not the range for it."""
    return torch.float32 if x.dtype == torch.float16 else x.dtype


def stacked_like(tensors: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Uninitialised [len(tensors), *shape]; each slice is dense, in the first tensor's memory order."""
    first = tensors[0]
    if len(tensors) == 1:
        return torch.empty_like(first, dtype=dtype).unsqueeze(0)
    like = torch.empty_like(first, device="meta")
    strides = (first.numel(), *like.stride())
    return torch.empty_strided((len(tensors), *first.shape), strides, dtype=dtype, device=first.device)


def dense_rows(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors with their last dimension contiguous: the kernels take any other strides."""
    return [x if x.stride(-1) == 1 else x.contiguous() for x in tensors]


def gradient_like(tensors: Sequence[Tensor], fill: bool) -> Tensor:
    """Stacked gradients whose last dimension is contiguous; zeros where programs leave positions out."""
    made = stacked_like(tensors, saved_dtype(tensors[0]))
    if made.stride(-1) != 1:
        made = torch.empty(made.shape, dtype=made.dtype, device=made.device)
    return made.zero_() if fill else made


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
    if dtype != torch.float64 and _autocasts(device_type) and torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
    return dtype if dtype == torch.bfloat16 else torch.promote_types(dtype, torch.float32)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """The losses choose their own precision: autocast would round scores and residuals to bf16."""
    return torch.autocast(device.type, enabled=False) if _autocasts(device.type) else nullcontext()


def _autocasts(device_type: str) -> bool:
    """Whether the device knows autocast; what is compiled does, and torch 2.6 cannot compile the question."""
    return torch.compiler.is_compiling() or torch.amp.is_autocast_available(device_type)


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, in total's precision across calls; within one where the device can."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    elif _multiplies_into(left):
        total += torch.mm(left, right, out_dtype=total.dtype)
    else:
        total += left @ right


def set_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total = left @ right, in total's precision where the device can."""
    if left.dtype == total.dtype:
        torch.mm(left, right, out=total)
    elif _multiplies_into(left):
        torch.mm(left, right, out_dtype=total.dtype, out=total)
    else:
        total.copy_(left @ right)


def _multiplies_into(left: Tensor) -> bool:
    return left.is_cuda and hasattr(torch.ops.aten.mm, "dtype")  # torch 2.8 and later
