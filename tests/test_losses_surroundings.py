"""The losses amid what else is switched on: default devices, modes, numbers of other kinds, compilation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.overrides import TorchFunctionMode

import edad_fast
from edad_fast.kernels import cpu
from edad_fast.losses import AttentionScoreMSE, DistillationLoss, MaskedLMHead

BUILT = cpu.library() is not None


def inputs(length: int = 6, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    made = [torch.randn(2, 3, length, width, generator=generator).to(dtype) for width in (4, 4, 5, 5)]
    return [x.requires_grad_(i < 2) for i, x in enumerate(made)]


def captured(seed: int) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(seed)
    hidden, q, k = (torch.randn(shape, generator=generator) for shape in ((2, 5, 6), *[(2, 2, 5, 3)] * 2))
    return SimpleNamespace(hidden_states=(hidden, hidden + 1), queries=(q,), keys=(k,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_default_device_does_not_reach_inside(dtype: torch.dtype) -> None:
    q, k, *teacher = inputs(dtype=dtype)
    hidden, weight = torch.randn(9, 4, dtype=dtype, requires_grad=True), torch.randn(11, 4, dtype=dtype)
    positions, labels, kept = torch.arange(9), torch.arange(9), torch.ones(2, 6, dtype=torch.bool)

    def losses() -> list[Tensor]:
        attention = AttentionScoreMSE()(q, k, *teacher, kept)
        head = MaskedLMHead()(hidden, nn.Identity(), weight, None, positions, labels)
        return [attention, head, *torch.autograd.grad(attention + head, (q, k, hidden))]

    expected = losses()
    with torch.device("meta"):
        found = losses()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_modes_see_the_operator() -> None:
    names = []

    class Seen(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.append(str(function))
            return function(*args, **(kwargs or {}))

    with Seen():
        AttentionScoreMSE()(*inputs()).backward()
    assert any("distillation" in name for name in names)


@pytest.mark.parametrize("backend", ["auto", "chunked"])
@pytest.mark.parametrize("kind", [np.float32, np.float64, torch.tensor, lambda x: torch.tensor([x]).double()])
def test_weights_may_be_numbers_of_other_kinds(kind: Any, backend: str) -> None:
    def run(half: Any) -> Tensor:
        torch.manual_seed(0)
        loss = DistillationLoss(6, 6, [(1, 1)], hidden_weight=half, attention_weight=half, backend=backend)
        total: Tensor = loss(captured(0), captured(1), scale={"hidden": half, "attention": half}).total
        return total

    found = run(kind(0.5))
    assert found.dtype == torch.float32
    assert found.shape == ()
    assert torch.equal(found, run(0.5))


def test_a_weight_that_wants_a_gradient_is_refused() -> None:
    loss = DistillationLoss(6, 6, [(1, 1)])
    alpha = torch.tensor(0.5, requires_grad=True)
    with pytest.raises(ValueError, match=r"requires a gradient.*detach"):
        loss(captured(0), captured(1), scale={"attention": alpha})


def test_compiled_once_for_many_lengths() -> None:
    counter = CompileCounter()
    compiled = torch.compile(AttentionScoreMSE(), backend=counter, fullgraph=True)
    for length in (5, 8, 11, 13, 17, 20, 23, 29, 31, 37):
        tensors = inputs(length)
        torch.testing.assert_close(compiled(*tensors), AttentionScoreMSE()(*tensors))
    assert counter.frame_count <= 3


@pytest.mark.skipif(not BUILT, reason="the C++ losses were not built")
def test_a_library_of_other_sources_is_named() -> None:
    folder = Path(edad_fast.__file__).parent
    other = next(folder.glob("_native*.so"), None)
    if other is None:
        pytest.skip("the native core was not built")
    code = "from edad_fast.kernels import cpu; cpu.library()"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "EDAD_FAST_CPU_LIBRARY": str(other)},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 1
    assert f"{other} was built from other sources; build it again" in found.stderr
