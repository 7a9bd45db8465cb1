"""The hidden-state loss in CUDA C++ (hidden.cu)."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from ..common import dense_rows, gradient_like
from . import MAX_LAYERS, aligned, alike, call, launch

# Bytes of the differences that are held at a time, all layers together.
BUDGET = 128 << 20
# Blocks that an H200 runs at a time, two on each multiprocessor. Fixed: the parts of the weight's gradient,
# and so its bits, are the same on every GPU.
BLOCKS = 264
TILE = 128  # as in hidden.cuh
DEPTH = 32  # as in product.cuh


class Arguments(ctypes.Structure):
    """HiddenArguments of hidden.cuh."""

    _fields_ = (
        *((name, ctypes.c_void_p * MAX_LAYERS) for name in ("student", "teacher", "weight", "bias")),
        *((name, ctypes.c_void_p) for name in ("valid", "residual", "gradient", "weight_parts")),
        *((name, ctypes.c_void_p) for name in ("column_sums", "sums")),
        *((name, ctypes.c_int64) for name in ("teacher_row", "gradient_row", "gradient_layer")),
        *((name, ctypes.c_int32) for name in ("student_row", "weight_row", "residual_row")),
        *((name, ctypes.c_int32) for name in ("layers", "weights", "rows", "chunk")),
        *((name, ctypes.c_int32) for name in ("width", "teacher_width", "parts")),
        *((name, ctypes.c_uint8) for name in ("half", "teacher_wide", "gradient_wide", "teacher_whole")),
    )


def hidden_terms(
    student: list[Tensor],
    teacher: list[Tensor],
    weights: list[Tensor],
    biases: list[Tensor],
    valid: Tensor | None,
    *,
    product: torch.dtype,
    want_h: bool,
    want_w: bool,
    want_b: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `chunked.hidden_terms`, for products in bf16, and for student and weights in fp16.

    States of another dtype than the products', and rows that start at no multiple of 16 bytes, are copied.

    Raises:
        RuntimeError: the library is missing, or CUDA refused the launch.
    """
    states, device = len(student), student[0].device
    rows, width = student[0].shape
    teacher_width = weights[0].shape[0]
    element = torch.bfloat16 if product == torch.bfloat16 else torch.float16
    inputs = [_aligned_rows(x.to(element)) for x in student]
    matrices = [_aligned_rows(x.to(element)) for x in weights]
    targets = dense_rows([x if x.dtype in (element, torch.float32) else x.float() for x in teacher])
    offsets = [x.float().contiguous() for x in biases]
    grad_h = gradient_like(dense_rows(student), False) if want_h else torch.empty(0, device=device)
    sums = torch.zeros(states, dtype=torch.float32, device=device)
    grad_w = torch.zeros((len(weights), teacher_width, width), dtype=torch.float32, device=device)
    grad_b = torch.zeros((max(1, len(biases)), teacher_width), dtype=torch.float32, device=device)
    tiles, across = -(-rows // TILE), -(-teacher_width // TILE)
    columns = -(-width // call("hidden_columns", width))
    matrices, offsets = ([x[i % len(x)] for i in range(states)] if x else [] for x in (matrices, offsets))
    tokens = None if valid is None else valid.contiguous()

    def made(wanted: bool, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor | None:
        return torch.empty(shape, dtype=dtype, device=device) if wanted else None

    for start, end in alike(inputs, targets, matrices) if rows else ():
        layers = end - start
        shared = len(weights) == 1
        own = 1 if shared else layers
        pitch = -(-teacher_width // 8) * 8  # of a row of differences
        pieces = 1 if element == torch.bfloat16 else 2
        chunk = TILE * _tiles_at_a_time(tiles, 2 * pieces * layers * TILE * pitch, layers * columns)
        parts = max(1, min(BLOCKS // (columns * across * own), -(-rows // DEPTH)))
        residual = made(want_h or want_w, pieces, layers, chunk, pitch, dtype=torch.bfloat16)
        weight_parts = made(want_w, own, parts, teacher_width, width)
        column_sums = made(want_b, layers, 2 * tiles, teacher_width)
        squares = torch.empty((layers, tiles * across), dtype=torch.float32, device=device)
        arguments = Arguments(
            valid=_pointer(tokens),
            residual=_pointer(residual),
            gradient=_pointer(grad_h[start] if want_h else None),
            weight_parts=_pointer(weight_parts),
            column_sums=_pointer(column_sums),
            sums=_pointer(squares),
            student_row=inputs[start].stride(0),
            teacher_row=targets[start].stride(0),
            weight_row=matrices[start].stride(0),
            residual_row=pitch,
            gradient_row=grad_h.stride(1) if want_h else 0,
            gradient_layer=grad_h.stride(0),
            layers=layers,
            weights=own,
            rows=rows,
            chunk=chunk,
            width=width,
            teacher_width=teacher_width,
            parts=parts,
            half=element == torch.float16,
            teacher_wide=targets[start].dtype == torch.float32,
            gradient_wide=grad_h.dtype == torch.float32,
            teacher_whole=aligned(targets[start:end], 16),
        )
        lists = {"student": inputs, "teacher": targets, "weight": matrices, "bias": offsets}
        for name, tensors in lists.items():
            for index, x in enumerate(tensors[start:end]):
                getattr(arguments, name)[index] = x.data_ptr()
        launch("hidden", arguments, device)
        sums[start:end] = squares.sum(1, dtype=torch.float64)
        place = slice(0, 1) if shared else slice(start, end)
        if weight_parts is not None:
            grad_w[place] += weight_parts.sum(1)
        if column_sums is not None:
            total = column_sums.sum(1)
            grad_b[place] += total.sum(0, keepdim=True) if shared else total
    return sums, grad_h, grad_w, grad_b


def _aligned_rows(x: Tensor) -> Tensor:
    """`x` [rows, width], copied unless its rows start at multiples of 16 bytes, not too far apart."""
    if x.stride(-1) == 1 and aligned([x], 16) and x.stride(0) < 2**31:
        return x
    rows, width = x.shape
    return torch.empty((rows, -(-width // 8) * 8), dtype=x.dtype, device=x.device)[:, :width].copy_(x)


def _tiles_at_a_time(tiles: int, size: int, blocks: int) -> int:
    """Tiles of rows (`size` bytes and `blocks` blocks each) within BUDGET; if many, whole waves of blocks."""
    most = min(max(1, BUDGET // size), 65535)  # a grid's limit
    if tiles <= most:
        return max(1, tiles)
    waves = most * blocks // BLOCKS
    return waves * BLOCKS // blocks if waves else most


def _pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()
