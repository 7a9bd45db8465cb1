"""The C++ losses on the CPU: padding anywhere, blocks and panels of every size, many threads."""

from __future__ import annotations

import math
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import plain_attention, queries_and_keys, random_states, value_and_gradients, within_budget
from torch import Tensor

from edad_fast.kernels import attention_score_mse, choice, cpu, ops

pytestmark = pytest.mark.skipif(cpu.library() is None, reason="the C++ losses were not built")
ALGORITHMS = pytest.mark.parametrize("algorithm", ["direct", "linear"])
MODES = pytest.mark.parametrize("mode", ["tinybert", "valid_pairs"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


def close_to_the_definition(
    tensors: list[Tensor], segments: Tensor, mode: str, algorithm: str
) -> list[Tensor]:
    """Value and gradients in C++, each as close as its sums allow."""
    *student, tq, tk = tensors
    dtype = tq.dtype

    def loss(*x: Tensor) -> Tensor:
        return attention_score_mse(*x, segments, mode=mode, backend="cpu", algorithm=algorithm)

    def definition(*x: Tensor) -> Tensor:
        return attention_score_mse(*x, segments, mode=mode, backend="reference")

    ours = value_and_gradients(loss, [tq, tk], student)
    *student, tq, tk = (x.double() for x in tensors)
    exact = value_and_gradients(definition, [tq, tk], student)
    # The same sums where nothing cancels: rounding errors are in proportion to them.
    sizes = value_and_gradients(definition, [tq.abs(), -tk.abs()], [x.abs() for x in student])
    unit = 8 * torch.finfo(torch.float32).eps
    assert abs(float(ours[0]) - float(exact[0])) <= unit * float(sizes[0])
    if dtype != torch.float32:  # fp32 factors as two parts in bf16
        unit = 2.0**-16
    tiny = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    for a, e, size in zip(ours[1:], exact[1:], sizes[1:], strict=True):
        assert ((a.double() - e).abs() <= torch.finfo(dtype).eps * e.abs() + unit * size + tiny).all()
    return ours


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(
        st.integers(1, 3), st.integers(1, 2), st.integers(1, 70), st.integers(1, 70), st.integers(1, 70)
    ),
    mode=st.sampled_from(["tinybert", "valid_pairs"]),
    algorithm=st.sampled_from(["direct", "linear"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 1000),
    tokens=st.sampled_from([0.1, 0.5, 0.95]),
)
def test_padding_anywhere(
    shape: tuple[int, int, int, int, int],
    mode: str,
    algorithm: str,
    dtype: torch.dtype,
    seed: int,
    tokens: float,
) -> None:
    mask = torch.rand(shape[0], shape[2], generator=torch.Generator().manual_seed(seed)) < tokens
    _, gradient_q, gradient_k = close_to_the_definition(
        queries_and_keys(*shape, dtype=dtype), mask, mode, algorithm
    )
    assert not gradient_k.transpose(1, 2)[~mask].any()
    if mode == "valid_pairs":
        assert not gradient_q.transpose(1, 2)[~mask].any()


@ALGORITHMS
@MODES
@DTYPES
def test_more_rows_than_a_block(algorithm: str, mode: str, dtype: torch.dtype) -> None:
    """Beyond a block of queries, of keys and of the linear form; first, inner, last and only padding."""
    mask = torch.ones(3, 601, dtype=torch.bool)
    mask[0, 0] = mask[0, 300:340] = mask[0, 590:] = False
    mask[1] = False
    close_to_the_definition(queries_and_keys(3, 1, 601, 26, 40, dtype=dtype), mask, mode, algorithm)


@MODES
@DTYPES
def test_packed_rows_longer_than_a_block(mode: str, dtype: torch.dtype) -> None:
    segments = torch.arange(550).div(90, rounding_mode="floor").repeat(2, 1)
    segments[1, 100:130] = 0
    segments[1, 200:] = 3
    close_to_the_definition(queries_and_keys(2, 1, 550, 26, 33, dtype=dtype), segments, mode, "direct")


@ALGORITHMS
@MODES
def test_padding_is_never_read(algorithm: str, mode: str) -> None:
    """Not even where it holds NaN and the next row begins."""
    mask = torch.ones(2, 45, dtype=torch.bool)
    mask[0, 7] = mask[0, 30:] = False
    results = []
    for poison in (0.0, math.nan):
        sq, sk, tq, tk = queries_and_keys(2, 2, 45, 26, 40, dtype=torch.bfloat16)
        for x in (sk, tk, *([sq, tq] if mode == "valid_pairs" else [])):
            x.transpose(1, 2)[~mask] = poison

        def loss(*x: Tensor) -> Tensor:
            return attention_score_mse(*x, mask, mode=mode, backend="cpu", algorithm=algorithm)

        results.append(value_and_gradients(loss, [tq, tk], [sq, sk]))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("scales", [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0), (-0.3, 2.0), (5.0, -0.1)], ids=str)
def test_any_scale(scales: tuple[float, float]) -> None:
    *student, tq, tk = queries_and_keys(1, 2, 40, 26, 40, dtype=torch.float32)
    results = []
    for backend, dtype in (("cpu", torch.float32), ("reference", torch.float64)):

        def loss(*x: Tensor, backend: str = backend) -> Tensor:
            return attention_score_mse(
                *x,
                student_scale=scales[0],
                teacher_scale=scales[1],
                backend=backend,
                algorithm=algorithm(backend),
            )

        results.append(
            value_and_gradients(loss, [tq.to(dtype), tk.to(dtype)], [x.to(dtype) for x in student])
        )
    for a, e in zip(*results, strict=True):
        torch.testing.assert_close(a.double(), e, rtol=1e-5, atol=1e-6 * float(e.abs().max()))


def algorithm(backend: str) -> str:
    return "direct" if backend == "cpu" else "auto"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_auto_picks_is_exact_near_convergence(dtype: torch.dtype) -> None:
    """On both sides of the crossover; student and teacher a few units of bf16 apart."""
    for length in (choice.CPU_CROSSOVER[dtype], choice.CPU_CROSSOVER[dtype] + 1, 400):
        tq, tk = queries_and_keys(1, 2, length, 32, 32, dtype=torch.bfloat16)[2:]
        student = [x * (1 + 1 / 128) for x in (tq, tk)]
        tq, tk, *student = (x.to(dtype) for x in (tq, tk, *student))
        mask = torch.ones(1, length, dtype=torch.bool)
        exact = value_and_gradients(
            attention_score_mse, [tq.double(), tk.double(), mask], [x.double() for x in student]
        )
        ours = value_and_gradients(lambda *x: attention_score_mse(*x, backend="cpu"), [tq, tk, mask], student)
        within_budget(ours, value_and_gradients(plain_attention, [tq, tk, mask], student), exact, dtype)


def test_scaling_bf16_gradients_rounds_once_whatever_the_threads() -> None:
    threads = torch.get_num_threads()
    for count in (0, 1, 15, 33, (3 << 20) + 5):
        (gradient,) = random_states((count,), dtype=torch.bfloat16)
        factor = torch.tensor(0.3)
        expected = (gradient.float() * factor).bfloat16()
        try:
            for team in (1, 3):
                torch.set_num_threads(team)
                with mock.patch.object(torch, "mul", side_effect=AssertionError):  # the C++ code it is
                    assert torch.equal(ops.scaled(gradient, factor, torch.bfloat16), expected)
        finally:
            torch.set_num_threads(threads)
