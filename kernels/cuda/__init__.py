"""Losses in CUDA C++ for bf16 and fp16, from sm_80 on; attention.py and hidden.py call the .cu files.

The launchers take raw pointers and the stream: one library serves every version of torch.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

NAME = "_losses_cuda.so"
# Layers of one launch, as in attention.cuh.
MAX_LAYERS = 16


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
            return loaded
    return None


def call(name: str, *arguments: Any) -> int:
    """What the library's function of that name returns.

    Raises:
        RuntimeError: the library is missing.
    """
    loaded = library()
    if loaded is None:
        raise RuntimeError("the CUDA losses were not built: use another backend")
    return int(getattr(loaded, f"edad_fast_cuda_{name}")(*arguments))


def launch(name: str, arguments: ctypes.Structure, device: torch.device, *numbers: int) -> None:
    """Start the kernels of that name on the device's current stream.

    Raises:
        RuntimeError: the library is missing, or CUDA refused the launch.
    """
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else None
    error = call(name, ctypes.byref(arguments), *numbers, device.index or 0, ctypes.c_void_p(stream))
    loaded = library()
    if error and loaded is not None:
        raise RuntimeError(f"CUDA refused the {name} loss: {loaded.edad_fast_cuda_message(error).decode()}")


def alike(*lists: Sequence[Tensor]) -> list[tuple[int, int]]:
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


def aligned(tensors: Sequence[Tensor], size: int) -> bool:
    """Whether all rows (of the last dimension) start at multiples of so many bytes."""
    return all(
        x.data_ptr() % size == 0 and all(s * x.element_size() % size == 0 for s in x.stride()[:-1])
        for x in tensors
    )
