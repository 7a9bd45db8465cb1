"""The losses in C++ for CPUs: a head or a row of logits at a time in a processor's cache, threads over them.

The library (attention.cpp, cross_entropy.cpp, library.cpp) links neither torch nor Python and is called
through ctypes. Each item's sum is its own and they are added in order, so the number of threads does not
change a bit.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..common import gradient_like, narrow_segments

NAME = "_losses_cpu.so"
VERSION = 2  # of library.cpp's functions
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("head", ctypes.c_int64),
        ("row", ctypes.c_int64),
    )

    @staticmethod
    def of(x: Tensor | None) -> _Tensor:
        if x is None:
            return _Tensor(None, 0, 0, 0)
        return _Tensor(x.data_ptr(), x.stride(0), x.stride(1), x.stride(2))


_pointer, _long, _int, _double = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_double
# Arguments of the functions of library.cpp.
_FUNCTIONS: dict[str, list[Any]] = {
    "edad_fast_attention": [
        *(ctypes.POINTER(_Tensor), _long, _long, _long, _pointer, _pointer, _long, _long),
        *(_double, _double, _double, _int, _int, _int, _int, _pointer),
    ],
    "edad_fast_cross_entropy": [
        *(_pointer, _long, _long, _pointer, _pointer, _double, _double, _int, _int, _int, _pointer),
    ],
    "edad_fast_scale": [_pointer, _pointer, _long, _pointer, _int],
    "edad_fast_column_sums": [_pointer, _long, _long, _int, _int, _pointer],
}


@cache
def library() -> ctypes.CDLL | None:
    """The compiled library; None where it was not built. EDAD_FAST_CPU_LIBRARY names another file.

    Raises:
        RuntimeError: it was built from other sources, so that its functions take other arguments.
    """
    import edad_fast

    folders = [Path(x) for x in getattr(edad_fast, "__path__", [])]
    named = os.environ.get("EDAD_FAST_CPU_LIBRARY")
    for file in [Path(named)] if named else [folder / NAME for folder in folders]:
        if file.is_file():
            loaded = ctypes.CDLL(str(file))
            version = getattr(loaded, "edad_fast_cpu_version", None)
            if version is None or version() != VERSION:
                raise RuntimeError(f"{file} was built from other sources; build it again: pip install .")
            for name, arguments in _FUNCTIONS.items():
                function = getattr(loaded, name)
                function.restype = ctypes.c_int
                function.argtypes = arguments
            return loaded
    return None


def scale(source: Tensor, factor: Tensor, target: Tensor) -> None:
    """target = source * factor (fp32 [1]), rounded once; both bf16, dense, in the same memory order.

    Raises:
        RuntimeError: the library is missing.
    """
    loaded = library()
    if loaded is None:
        raise RuntimeError("the C++ losses for CPUs were not built")
    loaded.edad_fast_scale(
        *(source.data_ptr(), target.data_ptr(), source.numel()),
        *(factor.data_ptr(), torch.get_num_threads()),
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
    algorithm: str,
    gradient_factor: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `chunked.attention_terms`; `algorithm` is "direct" or "linear" (one segment a row).

    The half gradients come multiplied by `gradient_factor`, rounded once. With cu_seqlens B is 1.

    Raises:
        RuntimeError: the library is missing, or memory ran out.
    """
    loaded = library()
    if loaded is None:
        raise RuntimeError("the C++ losses for CPUs were not built")
    batch, heads, length, width = student_q[0].shape
    dtype = student_q[0].dtype
    starts = None
    if cu_seqlens is not None:
        starts = cu_seqlens.to(torch.int32).contiguous()
        batch = starts.shape[0] - 1
    ids = None if segments is None else narrow_segments(segments)
    gradients = [
        gradient_like(x, cu_seqlens is not None) if want else x[0].new_empty(0)
        for want, x in ((want_q, student_q), (want_k, student_k))
    ]
    sums = student_q[0].new_zeros((len(student_q), batch * heads), dtype=torch.float64)
    for layer, tensors in enumerate(zip(student_q, student_k, teacher_q, teacher_k, strict=True)):
        # One dtype, adjacent elements of a row; `held` keeps what had to be copied.
        held = [x.to(dtype) for x in tensors]
        held = [x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous() for x in held]
        arguments = [*held, *(x[layer] if x.numel() else None for x in gradients)]
        failed = loaded.edad_fast_attention(
            (_Tensor * 6)(*(_Tensor.of(x) for x in arguments)),
            *(batch, heads, length),
            None if starts is None else starts.data_ptr(),
            None if ids is None else ids.data_ptr(),
            *(width, teacher_q[0].shape[3], student_scale, teacher_scale),
            *(gradient_factor, DTYPES[dtype]),
            *(mode == "tinybert", algorithm == "linear", torch.get_num_threads()),
            sums[layer].data_ptr(),
        )
        if failed:
            raise RuntimeError("not enough memory for the attention-score loss")
    return sums.sum(1).float(), gradients[0], gradients[1]
