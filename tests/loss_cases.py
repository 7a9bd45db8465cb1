"""Inputs, measures and budgets that the tests of the losses share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from edad_fast.kernels import cpu

Loss = Callable[..., Tensor]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def need_triton(device: str) -> None:
    """Skips the test where Triton is absent, or would not interpret kernels of a CPU's tensors."""
    pytest.importorskip("triton")
    from edad_fast.kernels.triton.launch import interpreting

    if device == "cpu" and not interpreting():
        pytest.skip("a GPU is there: the kernels are compiled, not interpreted")


def skip_where_it_cannot_run(request: pytest.FixtureRequest) -> None:
    """Skips a test whose parameters name a backend that is not there."""
    arguments = getattr(request.node, "callspec", None)
    backend, device = ((arguments.params.get(x) if arguments else None) for x in ("backend", "device"))
    if backend == "triton":
        need_triton(str(device))
    if backend == "cpu" and cpu.library() is None:
        pytest.skip("the C++ losses were not built")


def draw_seeds(device: str, backend: str) -> range:
    """Of the inputs whose errors judge a value together."""
    return range(2 if (device, backend) == ("cpu", "triton") else 8)  # the interpreter is slow


def refuses(backend: str, dtype: torch.dtype) -> bool:
    """Whether a backend computes in other dtypes only."""
    return backend == "cuda" and dtype == torch.float32


def random_states(
    *shapes: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 0
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def queries_and_keys(
    batch: int, heads: int, length: int, student: int, teacher: int, **options: Any
) -> list[Tensor]:
    one, other = (batch, heads, length, student), (batch, heads, length, teacher)
    return random_states(one, one, other, other, **options)


def ragged(batch: int, length: int) -> Tensor:
    """Rows of falling length; the last one is all padding."""
    ends = torch.linspace(length, 0, batch).round().long()
    return torch.arange(length)[None] < ends[:, None]


def value_and_gradients(loss: Loss, constants: list[Tensor], variables: list[Tensor]) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in variables]
    value = loss(*leaves, *constants)
    return [value.detach(), *torch.autograd.grad(value, leaves)]


def within_budget(ours: list[Tensor], plain: list[Tensor], exact: list[Tensor], dtype: torch.dtype) -> None:
    """Error at most twice that of plain PyTorch at the same dtype, plus a few units of rounding."""
    for index, (a, p, e) in enumerate(zip(ours, plain, exact, strict=True)):
        scale = e.abs().max()
        eps = torch.finfo(torch.float32 if index == 0 else dtype).eps
        error, allowed = (a.double() - e).abs().max(), (p.double() - e).abs().max()
        assert error <= 2 * allowed + 4 * eps * scale, (index, float(error / scale), float(allowed / scale))


def draws_within_budget(
    draws: list[tuple[list[Tensor], list[Tensor], list[Tensor]]], dtype: torch.dtype
) -> None:
    """`within_budget` of (ours, plain, exact) of several inputs.

    The errors of a mean's terms cancel, in one draw more than in another: all of them judge the value. The
    gradients have elements enough for one draw.
    """
    for ours, plain, exact in draws:
        within_budget([exact[0], *ours[1:]], [exact[0], *plain[1:]], exact, dtype)
    exact_values = torch.stack([exact[0] for _, _, exact in draws])
    error, allowed = (
        (torch.stack([draw[i][0] for draw in draws]).double() - exact_values).square().mean().sqrt()
        for i in range(2)
    )
    assert error <= 2 * allowed + 4 * torch.finfo(torch.float32).eps * exact_values.max()


def plain_attention(sq: Tensor, sk: Tensor, tq: Tensor, tk: Tensor, mask: Tensor) -> Tensor:
    """What a user would write, at the inputs' own dtype."""
    student = (sq @ sk.mT * sq.shape[-1] ** -0.5).masked_fill(~mask[:, None, None, :], 0.0)
    teacher = (tq @ tk.mT * tq.shape[-1] ** -0.5).masked_fill(~mask[:, None, None, :], 0.0)
    return F.mse_loss(student, teacher)


class LargestTensor(TorchDispatchMode):
    """Bytes of the largest tensor that any operation brought forth."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in tree_leaves(args) if isinstance(x, Tensor)}
        for x in tree_leaves(result):
            if isinstance(x, Tensor) and x.untyped_storage().data_ptr() not in given:
                self.bytes = max(self.bytes, x.numel() * x.element_size())
        return result


def largest_made_and_total_saved(loss: Loss) -> tuple[int, int]:
    """Bytes of the largest tensor made in forward and backward, and of all tensors saved in between."""
    saved: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        saved[x.data_ptr()] = x.numel() * x.element_size()
        return x

    with LargestTensor() as largest, torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss().backward()
    return largest.bytes, sum(saved.values())
