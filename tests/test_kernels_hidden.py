"""The compiled hidden-state losses against the definition: Triton and CUDA on a GPU.

Without a GPU the Triton kernels run in their interpreter, at small shapes.
"""

from __future__ import annotations

import importlib
import math
from typing import Any
from unittest import mock

import pytest
import torch
from loss_cases import (
    DTYPES,
    ragged,
    random_states,
    refuses,
    skip_where_it_cannot_run,
    value_and_gradients,
    within_budget,
)
from torch import Tensor

from edad_fast.kernels import hidden_state_mse

HIDDEN_WAYS = pytest.mark.parametrize(
    ("device", "backend"),
    [("cpu", "triton"), *(pytest.param("cuda", x, marks=pytest.mark.gpu) for x in ("triton", "cuda"))],
)


@pytest.fixture(autouse=True)
def _needs(request: pytest.FixtureRequest) -> None:
    skip_where_it_cannot_run(request)


def hidden_way(device: str, backend: str) -> Any:
    """`hidden_state_mse` of lists and tensors, moved to the device."""

    def loss(*x: Tensor | list[Tensor], **options: Any) -> Tensor:
        moved = [y.to(device) if isinstance(y, Tensor) else [z.to(device) for z in y] for y in x]
        return hidden_state_mse(*moved, backend=backend, **options).cpu()

    return loss


@HIDDEN_WAYS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("mode", ["tinybert", "valid"])
def test_hidden_states(device: str, backend: str, dtype: torch.dtype, separate: bool, mode: str) -> None:
    """Five layers over chunks of rows, with one projection or one each."""
    if refuses(backend, dtype):
        pytest.skip("this backend computes bf16 and fp16")
    mask = ragged(2, 75)
    keep = mask if mode == "valid" else torch.ones_like(mask)
    count = 5 if separate else 1
    shapes = [(2, 75, 20)] * 5 + [(130, 20)] * count + [(130,)] * count
    variables = [x * (0.2 if x.shape == (130, 20) else 1) for x in random_states(*shapes, dtype=dtype)]
    teacher = random_states(*[(2, 75, 130)] * 5, dtype=dtype, seed=1)

    def results(loss: Any, kind: torch.dtype) -> list[Tensor]:
        return value_and_gradients(
            lambda *x: loss(
                list(x[:5]), [y.to(kind) for y in teacher], list(x[5 : 5 + count]), list(x[5 + count :])
            ),
            [],
            [x.to(kind) for x in variables],
        )

    def plain(
        states: list[Tensor], targets: list[Tensor], weights: list[Tensor], biases: list[Tensor]
    ) -> Any:
        return sum(
            torch.nn.functional.mse_loss(
                torch.nn.functional.linear(states[i], weights[i % count], biases[i % count])[keep].float(),
                targets[i][keep].float(),
            )
            for i in range(5)
        )

    def by(*place: str) -> Any:
        return lambda *x: hidden_way(*place)(*x, mask.to(place[0]), mode=mode)

    module = importlib.import_module(f"edad_fast.kernels.{backend}.hidden")
    with mock.patch.object(module, "BUDGET", 5 * 130 * dtype.itemsize * 128):
        ours = results(by(device, backend), dtype)
    within_budget(ours, results(plain, dtype), results(by("cpu", "reference"), torch.float64), dtype)


@HIDDEN_WAYS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_hidden_states_near_convergence(device: str, backend: str, dtype: torch.dtype) -> None:
    """Teacher's states a unit or two of bf16 from the projected ones; rows of every stride."""
    if refuses(backend, dtype):
        pytest.skip("this backend computes bf16 and fp16")
    student, weight, bias = random_states((90, 24), (40, 24), (40,), dtype=torch.bfloat16)
    teacher = (student.double() @ weight.double().mT + bias) * (1 + 1 / 128)
    variables = [x.to(dtype) for x in (student, weight, bias)]
    variables[0] = torch.stack([variables[0]] * 3, dim=1)[:, 1]
    teacher = teacher.to(dtype).mT.contiguous().mT
    exact = value_and_gradients(
        lambda h, *x: hidden_state_mse(h, teacher.double(), *x), [], [x.double() for x in variables]
    )
    plain = value_and_gradients(
        lambda h, *x: torch.nn.functional.mse_loss(
            torch.nn.functional.linear(h, *x).float(), teacher.float()
        ),
        [],
        variables,
    )
    loss = hidden_way(device, backend)
    ours = [value_and_gradients(lambda h, *x: loss(h, teacher, *x), [], variables) for _ in range(2)]
    within_budget(ours[0], plain, exact, dtype)
    assert all(torch.equal(a, b) for a, b in zip(*ours, strict=True))


@HIDDEN_WAYS
def test_hidden_differences_beyond_the_range_of_fp16(device: str, backend: str) -> None:
    student, teacher, weight = random_states((40, 12), (40, 24), (24, 12), dtype=torch.float16)
    student, weight = student * 300, weight * 300
    assert (student @ weight.mT).isinf().any()
    exact = value_and_gradients(
        lambda *x: hidden_state_mse(x[0], teacher.double(), x[1]), [], [student.double(), weight.double()]
    )
    # A loss that large is scaled down before its gradients are fp16.
    loss = hidden_way(device, backend)
    ours = value_and_gradients(lambda *x: loss(x[0], teacher, x[1]) / 1024, [], [student, weight])
    assert float(ours[0]) * 1024 == pytest.approx(float(exact[0]), rel=1e-5)
    for a, e in zip(ours[1:], exact[1:], strict=True):
        assert (1024 * a.double() - e).abs().max() <= torch.finfo(torch.float16).eps * e.abs().max()


@HIDDEN_WAYS
def test_a_nan_in_hidden_states_is_never_hidden_and_padding_hides_it(device: str, backend: str) -> None:
    tensors = random_states((2, 9, 6), (2, 9, 8), (8, 6), (8,), dtype=torch.bfloat16)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 5:] = False
    loss = hidden_way(device, backend)
    for index in range(4):
        poisoned = [x.clone() for x in tensors]
        poisoned[index].view(-1)[1] = math.nan
        assert loss(*poisoned, mask, mode="valid").isnan()
    for index in range(2):
        poisoned = [x.clone() for x in tensors]
        poisoned[index][1, 5:] = math.nan
        assert loss(*poisoned, mask, mode="valid").isfinite()


@HIDDEN_WAYS
def test_hidden_states_without_gradients_or_bias(device: str, backend: str) -> None:
    dtype = torch.bfloat16 if refuses(backend, torch.float32) else torch.float32
    student, teacher, weight = random_states((40, 12), (40, 24), (24, 12), dtype=dtype)
    loss = hidden_way(device, backend)
    with torch.no_grad():
        value = loss(student, teacher, weight)
    torch.testing.assert_close(value, hidden_state_mse(student, teacher, weight, backend="reference"))
    ours, expected = (
        value_and_gradients(lambda x, f=f: f(student, teacher, x), [], [weight])
        for f in (loss, hidden_way("cpu", "reference"))
    )
    torch.testing.assert_close(ours[0], expected[0])
    allowed = 4 * torch.finfo(dtype).eps * float(expected[1].abs().max())
    torch.testing.assert_close(ours[1], expected[1], rtol=0, atol=allowed)
