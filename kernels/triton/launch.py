"""What the Triton kernels share: product precision, pointers of several layers, where they can run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

# Layers of one launch; more are launched in groups.
LAYERS = 4


def interpreting() -> bool:
    """Whether the kernels are run on the CPU by Triton's interpreter (TRITON_INTERPRET=1 at import)."""
    return not isinstance(pick, triton.runtime.JITFunction)


def can_run(device: torch.device) -> bool:
    """Whether tensors of this device can be given to the kernels."""
    return device.type == "cuda" or interpreting()


def on_device(x: Tensor) -> AbstractContextManager[object]:
    """Launches go to the current device: make it that of the tensor."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def roomy(device: torch.device) -> bool:
    """Whether factors of products need no registers: tensor cores that read shared memory (sm_90, sm_100)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] in (9, 10)


def groups(*lists: Sequence[Tensor]) -> Iterator[tuple[int, int, list[Tensor]]]:
    """(first layer, layers, LAYERS tensors of each list) for each launch; short groups repeat their first.

    Layers whose strides differ are launched apart.
    """
    lists = tuple(x for x in lists if x)
    start = 0
    while start < len(lists[0]):
        end = start + 1
        while end < min(start + LAYERS, len(lists[0])) and all(
            x[end].stride() == x[start].stride() for x in lists
        ):
            end += 1
        yield (
            start,
            end - start,
            [x[i if i < end else start] for x in lists for i in range(start, start + LAYERS)],
        )
        start = end


def block(size: int, least: int = 16) -> int:
    """The power of two that holds `size`, at least what tl.dot takes."""
    return max(least, triton.next_power_of_2(size))


@triton.jit
def pick(layer, first, second, third, fourth, LAYERS: tl.constexpr):
    """The layer's pointer."""
    chosen = first
    if LAYERS > 1:
        chosen = tl.where(layer == 1, second, chosen)
    if LAYERS > 2:
        chosen = tl.where(layer == 2, third, chosen)
    if LAYERS > 3:
        chosen = tl.where(layer == 3, fourth, chosen)
    return chosen


@triton.jit
def divergence(log_own, log_target, own, target):
    """Terms of KL(target || own) from the logarithms of the probabilities and the probabilities.

    target (e^d - 1 - d) with d = log_own - log_target: in sum the same as -target d, as both sides sum to 1,
    but never negative and of second order in d, so that rounded normalisers cancel where both are close. By
    its series where d is small.
    """
    d = log_own - log_target
    series = 1.0 / 720 + d * (1.0 / 5040 + d * (1.0 / 40320))
    series = 0.5 + d * (1.0 / 6 + d * (1.0 / 24 + d * (1.0 / 120 + d * series)))
    # 0 * inf where the target is 0.
    far = own - target - tl.where(target > 0, target * d, 0.0)
    return tl.where(tl.abs(d) < 0.5, target * d * d * series, far)


@triton.jit
def product(x, y, EMULATE: tl.constexpr):
    """x y of two tiles of inputs, exact up to the fp32 sum."""
    if EMULATE:  # the interpreter multiplies bf16 wrongly (triton #11584)
        x = x.to(tl.float32)
        y = y.to(tl.float32)
    return tl.dot(x, y, input_precision="ieee")


@triton.jit
def fine_product(x, y, EMULATE: tl.constexpr):
    """x y with x in fp32 and y a tile of inputs; x is not rounded to the inputs' dtype.

    Tensor cores take both in one dtype, and x may leave the range of fp16: x goes in as two parts in bf16,
    and y too where it is fp16.
    """
    if EMULATE:
        result = tl.dot(x, y.to(tl.float32))
    elif y.dtype == tl.bfloat16:
        high = x.to(tl.bfloat16)
        low = (x - high.to(tl.float32)).to(tl.bfloat16)
        result = tl.dot(low, y)
        result = tl.dot(high, y, result)
    elif y.dtype == tl.float16:  # its 11 bits are two parts in bf16
        high = x.to(tl.bfloat16)
        low = (x - high.to(tl.float32)).to(tl.bfloat16)
        head = y.to(tl.bfloat16)
        tail = (y.to(tl.float32) - head.to(tl.float32)).to(tl.bfloat16)
        result = tl.dot(low, head)
        result = tl.dot(high, tail, result)
        result = tl.dot(high, head, result)
    else:
        result = tl.dot(x, y, input_precision="ieee")
    return result
