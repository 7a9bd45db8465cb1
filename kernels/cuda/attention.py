"""The attention-score loss in CUDA C++ (attention.cu)."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from ..common import dense_rows, gradient_like, narrow_segments
from . import MAX_LAYERS, aligned, alike, call, launch


class Strides(ctypes.Structure):
    """Of one tensor [B, H, L, d], in elements."""

    _fields_ = (("batch", ctypes.c_int64), ("head", ctypes.c_int64), ("row", ctypes.c_int64))


class Arguments(ctypes.Structure):
    """AttentionArguments of attention.cuh."""

    _fields_ = (
        ("student", ctypes.c_void_p * MAX_LAYERS * 2),
        ("teacher", ctypes.c_void_p * MAX_LAYERS * 2),
        ("gradient", ctypes.c_void_p * 2),
        ("segments", ctypes.c_void_p),
        ("cu_seqlens", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("student_strides", Strides * 2),
        ("teacher_strides", Strides * 2),
        ("gradient_strides", Strides * 2),
        ("gradient_layer", ctypes.c_int64 * 2),
        *((name, ctypes.c_int32) for name in ("layers", "sequences", "heads", "length")),
        *((name, ctypes.c_int32) for name in ("student_width", "teacher_width")),
        *((name, ctypes.c_float) for name in ("student_scale", "teacher_scale")),
        *((name, ctypes.c_uint8) for name in ("half", "tinybert")),
        *(
            (name, ctypes.c_uint8 * 2)
            for name in ("student_even", "teacher_even", "student_whole", "teacher_whole")
        ),
    )


def attention_terms(
    student_q: list[Tensor],
    student_k: list[Tensor],
    teacher_q: list[Tensor],
    teacher_k: list[Tensor],
    segments: Tensor | None,
    *,
    mode: str,
    student_scale: float,
    teacher_scale: float,
    want_q: bool,
    want_k: bool,
    cu_seqlens: Tensor | None,
    max_length: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `chunked.attention_terms`, for bf16 or fp16 and heads of `choice.WIDEST_CUDA` at most.

    With cu_seqlens B is 1.

    Raises:
        RuntimeError: the library is missing, or CUDA refused the launch.
    """
    lists = [dense_rows(x) for x in (student_q, student_k, teacher_q, teacher_k)]
    batch, heads, length, width = lists[0][0].shape
    device = lists[0][0].device
    sequences = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    longest = length if cu_seqlens is None else min(max_length, length)
    layers = len(student_q)
    # Positions behind the last sequence belong to no block.
    gradients = [
        gradient_like(x, cu_seqlens is not None) if want else torch.empty(0, device=device)
        for want, x in ((want_q, lists[0]), (want_k, lists[1]))
    ]
    tiles = -(-longest // call("rows"))
    sums = torch.zeros((layers, max(1, sequences * heads * tiles)), dtype=torch.float32, device=device)
    ids = None if segments is None else narrow_segments(segments)
    starts = None if cu_seqlens is None else cu_seqlens.to(torch.int32).contiguous()
    if sequences * heads * tiles:
        for start, end in alike(*lists):
            arguments = Arguments(
                segments=None if ids is None else ids.data_ptr(),
                cu_seqlens=None if starts is None else starts.data_ptr(),
                sums=sums[start].data_ptr(),
                layers=end - start,
                sequences=sequences,
                heads=heads,
                length=length,
                student_width=width,
                teacher_width=lists[2][0].shape[3],
                student_scale=student_scale,
                teacher_scale=teacher_scale,
                half=lists[0][0].dtype == torch.float16,
                tinybert=mode == "tinybert",
            )
            for side in (0, 1):
                for name, tensors in (("student", lists[side]), ("teacher", lists[2 + side])):
                    for layer in range(start, end):
                        getattr(arguments, name)[side][layer - start] = tensors[layer].data_ptr()
                    getattr(arguments, f"{name}_strides")[side] = Strides(*tensors[start].stride()[:3])
                    getattr(arguments, f"{name}_even")[side] = aligned(tensors[start:end], 4)
                    whole = tensors[0].shape[-1] % 8 == 0 and aligned(tensors[start:end], 16)
                    getattr(arguments, f"{name}_whole")[side] = whole
                made = gradients[side]
                if made.numel():
                    arguments.gradient[side] = made[start].data_ptr()
                    arguments.gradient_strides[side] = Strides(*made.stride()[1:4])
                    arguments.gradient_layer[side] = made.stride(0)
            launch("attention", arguments, device, longest)
    return sums.sum(1, dtype=torch.float64).float(), gradients[0], gradients[1]
