"""The attention-score loss in CUDA C++ for bf16 (attention.cu), from sm_80 on.

The launchers take raw pointers and the stream: one library serves every version of torch.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ..common import saved_dtype, stacked_like

NAME = "_losses_cuda.so"
# As in attention.cuh.
MAX_LAYERS = 16


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
        ("tinybert", ctypes.c_uint8),
        *(
            (name, ctypes.c_uint8 * 2)
            for name in ("student_even", "teacher_even", "student_whole", "teacher_whole")
        ),
    )


@cache
def library() -> ctypes.CDLL | None:
    """The compiled library; None where it was not built. EDAD_FAST_CUDA_LIBRARY names another file."""
    import edad_fast

    named = os.environ.get("EDAD_FAST_CUDA_LIBRARY")
    files = [Path(named)] if named else [Path(x) / NAME for x in edad_fast.__path__]
    for file in files:
        if file.is_file():
            loaded = ctypes.CDLL(str(file))
            loaded.edad_fast_cuda_message.restype = ctypes.c_char_p
            loaded.edad_fast_cuda_attention.argtypes = [
                *(ctypes.POINTER(Arguments), ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
            ]
            return loaded
    return None


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
    """As `chunked.attention_terms`, for bf16 and heads of `choice.WIDEST_CUDA` at most.

    With cu_seqlens B is 1.

    Raises:
        RuntimeError: the library is missing, or CUDA refused the launch.
    """
    loaded = library()
    if loaded is None:
        raise RuntimeError("the CUDA losses were not built")
    lists = [
        [x if x.stride(-1) == 1 else x.contiguous() for x in tensors]
        for tensors in (student_q, student_k, teacher_q, teacher_k)
    ]
    batch, heads, length, width = lists[0][0].shape
    device = lists[0][0].device
    sequences = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    longest = length if cu_seqlens is None else min(max_length, length)
    layers = len(student_q)
    gradients = []
    for want, tensors in ((want_q, lists[0]), (want_k, lists[1])):
        made = stacked_like(tensors, saved_dtype(tensors[0])) if want else torch.empty(0, device=device)
        gradients.append(made.zero_() if cu_seqlens is not None else made)
    tiles = -(-longest // loaded.edad_fast_cuda_rows())
    sums = torch.zeros((layers, max(1, sequences * heads * tiles)), dtype=torch.float32, device=device)
    ids = None if segments is None else segments.to(torch.int32).contiguous()
    starts = None if cu_seqlens is None else cu_seqlens.to(torch.int32).contiguous()
    if sequences * heads * tiles:
        for start, end in _alike(lists):
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
                tinybert=mode == "tinybert",
            )
            for side in (0, 1):
                for name, tensors in (("student", lists[side]), ("teacher", lists[2 + side])):
                    for layer in range(start, end):
                        getattr(arguments, name)[side][layer - start] = tensors[layer].data_ptr()
                    getattr(arguments, f"{name}_strides")[side] = Strides(*tensors[start].stride()[:3])
                    getattr(arguments, f"{name}_even")[side] = _aligned(tensors[start:end], 2)
                    getattr(arguments, f"{name}_whole")[side] = _aligned(tensors[start:end], 8)
                made = gradients[side]
                if made.numel():
                    arguments.gradient[side] = made[start].data_ptr()
                    arguments.gradient_strides[side] = Strides(*made.stride()[1:4])
                    arguments.gradient_layer[side] = made.stride(0)
            stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else None
            error = loaded.edad_fast_cuda_attention(
                ctypes.byref(arguments), longest, device.index or 0, stream
            )
            if error:
                raise RuntimeError(f"attention-score loss: {loaded.edad_fast_cuda_message(error).decode()}")
    return sums.sum(1, dtype=torch.float64).float(), gradients[0], gradients[1]


def _alike(lists: list[list[Tensor]]) -> list[tuple[int, int]]:
    """Ranges of layers of equal strides, MAX_LAYERS at most: one launch each."""
    ranges, start = [], 0
    for layer in range(1, len(lists[0]) + 1):
        if (
            layer == len(lists[0])
            or layer - start == MAX_LAYERS
            or any(x[layer].stride() != x[start].stride() for x in lists)
        ):
            ranges.append((start, layer))
            start = layer
    return ranges


def _aligned(tensors: list[Tensor], elements: int) -> bool:
    """Whether all rows start at multiples of so many elements; for 8, whether they are such multiples."""
    widths = elements == 2 or tensors[0].shape[3] % elements == 0
    return widths and all(
        x.data_ptr() % (2 * elements) == 0 and all(s % elements == 0 for s in x.stride()[:3]) for x in tensors
    )
