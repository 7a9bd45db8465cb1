"""The hidden-state loss: projection and difference in one kernel, so that no projected state is stored.

The difference goes to memory once, rounded to the dtype of the products, a bounded number of rows at a time;
its square is summed in fp32 before that. The states' gradient is one cuBLAS product; the weight's is summed
in fp32 over all rows, in parts of fixed extent: equal inputs give equal bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common import compute_dtype, dense_rows, gradient_like, without_autocast
from .launch import LAYERS, groups, interpreting, on_device, pick, product

# Bytes of the differences that are held at a time, all layers together.
BUDGET = 128 << 20
ROWS = 128
# Columns of a tile of ROWS, and terms of a step, by the bytes of an element: fp32 keeps more in registers.
TILES = {2: (128, 64), 4: (64, 32)}
# Parts over which the sum over the rows is spread; each is a weight-sized fp32 tensor while it lasts.
PARTS = 8


@triton.jit
def _residual(
    h0, h1, h2, h3, t0, t1, t2, t3, w0, w1, w2, w3, b0, b1, b2, b3,
    valid, residual, sums, column_sums, first, end, width, teacher_width,
    h_row, t_row, w_row, r_layer, r_row, c_layer,
    LAYERS: tl.constexpr, BIAS: tl.constexpr, VALID: tl.constexpr, STORE: tl.constexpr,
    SUM_COLUMNS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    EMULATE: tl.constexpr,
):  # fmt: skip
    """A tile of H W^T + b - T for rows first + [0, ROWS) * program."""
    layer = tl.program_id(2)
    local = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    rows = (first + local).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    hidden = pick(layer, h0, h1, h2, h3, LAYERS)
    weight = pick(layer, w0, w1, w2, w3, LAYERS)
    dtype: tl.constexpr = residual.dtype.element_ty
    result = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    for start in range(0, width, DEPTH):
        depth = start + tl.arange(0, DEPTH)
        x = tl.load(
            hidden + rows[:, None] * h_row + depth[None, :],
            mask=(rows[:, None] < end) & (depth[None, :] < width),
            other=0.0,
        )
        w = tl.load(
            weight + columns[:, None] * w_row + depth[None, :],
            mask=(columns[:, None] < teacher_width) & (depth[None, :] < width),
            other=0.0,
        )
        result += product(x.to(dtype), tl.trans(w.to(dtype)), EMULATE)
    if BIAS:
        bias = tl.load(pick(layer, b0, b1, b2, b3, LAYERS) + columns, mask=columns < teacher_width, other=0.0)
        result += bias.to(tl.float32)[None, :]
    inside = (rows[:, None] < end) & (columns[None, :] < teacher_width)
    target = pick(layer, t0, t1, t2, t3, LAYERS)
    result -= tl.load(target + rows[:, None] * t_row + columns[None, :], mask=inside, other=0.0).to(
        tl.float32
    )
    if VALID:
        inside = inside & (tl.load(valid + rows, mask=rows < end, other=0) != 0)[:, None]
    result = tl.where(inside, result, 0.0)
    tile = (layer * tl.num_programs(0) + tl.program_id(0)) * tl.num_programs(1) + tl.program_id(1)
    tl.store(sums + tile, tl.sum(tl.sum(result * result, 1), 0))
    in_buffer = (rows[:, None] < end) & (columns[None, :] < teacher_width)
    if SUM_COLUMNS:
        place = column_sums + layer * c_layer + tl.program_id(0) * teacher_width + columns
        tl.store(place, tl.sum(result, 0), mask=columns < teacher_width)
    if STORE:
        place = (
            residual + layer.to(tl.int64) * r_layer + local[:, None].to(tl.int64) * r_row + columns[None, :]
        )
        tl.store(place, result.to(dtype), mask=in_buffer)


@triton.jit
def _weight_gradient(
    h0, h1, h2, h3, residual, parts, first, end, width, teacher_width, rows_per_part, h_row, r_layer, r_row,
    LAYERS: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr, DEPTH: tl.constexpr, EMULATE: tl.constexpr,
):  # fmt: skip
    """Adds R^T H of a part of the rows, all layers, to its own sum."""
    outs = tl.program_id(0) * OUT + tl.arange(0, OUT)
    ins = tl.program_id(1) * IN + tl.arange(0, IN)
    part = tl.program_id(2)
    dtype: tl.constexpr = residual.dtype.element_ty
    result = tl.zeros([OUT, IN], dtype=tl.float32)
    stop = tl.minimum(first + (part + 1) * rows_per_part, end)
    for layer in tl.static_range(LAYERS):
        if layer == 0:
            hidden = h0
        elif layer == 1:
            hidden = h1
        elif layer == 2:
            hidden = h2
        else:
            hidden = h3
        for start in range(first + part * rows_per_part, stop, DEPTH):
            rows = (start + tl.arange(0, DEPTH)).to(tl.int64)
            r = tl.load(
                residual + layer * r_layer + (rows[:, None] - first) * r_row + outs[None, :],
                mask=(rows[:, None] < stop) & (outs[None, :] < teacher_width),
                other=0.0,
            )
            x = tl.load(
                hidden + rows[:, None] * h_row + ins[None, :],
                mask=(rows[:, None] < stop) & (ins[None, :] < width),
                other=0.0,
            )
            result += product(tl.trans(r), x.to(dtype), EMULATE)
    place = parts + (part * teacher_width + outs[:, None]) * width + ins[None, :]
    inside = (outs[:, None] < teacher_width) & (ins[None, :] < width)
    tl.store(place, tl.load(place, mask=inside, other=0.0) + result, mask=inside)


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
    """As `chunked.hidden_terms`."""
    states, device = len(student), student[0].device
    rows, width = student[0].shape
    teacher_width = weights[0].shape[0]
    student, teacher = dense_rows(student), dense_rows(teacher)
    matrices = [x.to(product).contiguous() for x in weights]
    offsets = [x.contiguous() for x in biases]
    grad_h = gradient_like(student, False) if want_h else torch.empty(0, device=device)
    dtype = compute_dtype(student[0], teacher[0], weights[0])
    grad_w = torch.zeros((len(weights), teacher_width, width), dtype=dtype, device=device)
    grad_b = torch.zeros((max(1, len(biases)), teacher_width), dtype=dtype, device=device)
    sums = torch.zeros(states, dtype=torch.float64, device=device)
    store = want_h or want_w
    columns, depth = TILES[product.itemsize]
    budget = BUDGET // (states * teacher_width * product.itemsize)
    step = max(ROWS, min(rows, budget) // ROWS * ROWS)
    # Where nothing is stored, the buffer still tells the kernel the dtype.
    buffer = torch.empty(
        (states, min(step, rows) if store else 0, teacher_width), dtype=product, device=device
    )
    with on_device(sums), without_autocast(device):
        for first in range(0, rows, step):
            end = min(first + step, rows)
            tiles = triton.cdiv(end - first, ROWS)
            tile_sums = torch.zeros(
                (states, tiles * triton.cdiv(teacher_width, columns)), dtype=torch.float32, device=device
            )
            column_sums = torch.zeros(
                (states, tiles if want_b else 0, teacher_width), dtype=torch.float32, device=device
            )
            for start, count, pointers in groups(
                student, teacher, _each(matrices, states), _each(offsets, states)
            ):
                _residual[(tiles, triton.cdiv(teacher_width, columns), count)](
                    *pointers,
                    *([sums] * LAYERS if not offsets else []),
                    *(
                        sums if valid is None else valid,
                        buffer[start:],
                        tile_sums[start:],
                        column_sums[start:],
                    ),
                    *(first, end, width, teacher_width),
                    *(student[start].stride(0), teacher[start].stride(0), width),
                    *(buffer.stride(0), teacher_width, column_sums.stride(0)),
                    LAYERS=count,
                    BIAS=bool(offsets),
                    VALID=valid is not None,
                    STORE=store,
                    SUM_COLUMNS=want_b,
                    ROWS=ROWS,
                    COLUMNS=columns,
                    DEPTH=depth,
                    EMULATE=interpreting(),
                    num_warps=8,
                )
            sums += tile_sums.sum(1, dtype=torch.float64)
            for index in range(states if want_h else 0):
                residual, matrix = buffer[index, : end - first], matrices[index % len(matrices)]
                if grad_h.dtype == product:
                    torch.mm(residual, matrix, out=grad_h[index, first:end])
                else:
                    grad_h[index, first:end] = (residual @ matrix).to(grad_h.dtype)
            if want_w:
                _add_weight_gradients(grad_w, student, buffer, first, end)
            if want_b:
                total = column_sums.sum(1)
                grad_b += total.sum(0, keepdim=True) if len(biases) == 1 else total
    return sums.to(dtype), grad_h, grad_w, grad_b


def _each(tensors: Sequence[Tensor], states: int) -> list[Tensor]:
    """One for each state; an empty list stays empty."""
    return [tensors[index % len(tensors)] for index in range(states)] if tensors else []


def _add_weight_gradients(
    grad_w: Tensor, student: list[Tensor], buffer: Tensor, first: int, end: int
) -> None:
    count, teacher_width, width = grad_w.shape
    out, depth = TILES[buffer.element_size()]
    parts = max(1, min(PARTS, (end - first) // depth))
    rows_per_part = triton.cdiv(triton.cdiv(end - first, parts), depth) * depth
    sums = torch.zeros((count, parts, teacher_width, width), dtype=torch.float32, device=grad_w.device)
    for start, layers, pointers in groups(student) if count == 1 else _singly(student):
        _weight_gradient[(triton.cdiv(teacher_width, out), triton.cdiv(width, 64), parts)](
            *(*pointers, buffer[start:], sums[start if count > 1 else 0]),
            *(first, end, width, teacher_width, rows_per_part),
            *(student[start].stride(0), buffer.stride(0), teacher_width),
            LAYERS=layers,
            OUT=out,
            IN=64,
            DEPTH=depth,
            EMULATE=interpreting(),
            num_warps=8,
        )
    grad_w += sums.sum(1)


def _singly(student: list[Tensor]) -> list[tuple[int, int, list[Tensor]]]:
    return [(index, 1, [x] * LAYERS) for index, x in enumerate(student)]
