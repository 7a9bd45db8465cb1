"""The chunked losses against the definition: values, gradients, error, memory, determinism."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import (
    LargestTensor,
    Loss,
    largest_made_and_total_saved,
    plain_attention,
    queries_and_keys,
    ragged,
    random_states,
    value_and_gradients,
    within_budget,
)
from torch import Tensor

from edad_fast.kernels import (
    attention_score_mse,
    chunked,
    chunked_outputs,
    hidden_state_mse,
    linear_form,
    masked_lm_loss,
)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(
        st.integers(0, 3), st.integers(1, 4), st.integers(0, 9), st.integers(1, 5), st.integers(1, 6)
    ),
    mode=st.sampled_from(["tinybert", "valid_pairs"]),
    segments=st.lists(st.integers(0, 3), min_size=27, max_size=27) | st.none(),
    as_bool=st.booleans(),
    chunk_bytes=st.sampled_from([1, 64, 300, 1000, 1 << 20]),
)
def test_chunked_attention_equals_the_definition_for_any_shape_mask_and_chunk(
    shape: tuple[int, int, int, int, int],
    mode: str,
    segments: list[int] | None,
    as_bool: bool,
    chunk_bytes: int,
) -> None:
    batch, _, length, _, _ = shape
    mask = None
    if segments is not None:
        mask = torch.tensor(segments)[: batch * length].view(batch, length)
        mask = mask > 0 if as_bool else mask
    *student, tq, tk = queries_and_keys(*shape)

    def loss(backend: str) -> list[Tensor]:
        def call(q: Tensor, k: Tensor) -> Tensor:
            return attention_score_mse(q, k, tq, tk, mask, mode=mode, backend=backend)

        return value_and_gradients(call, [], student)

    with mock.patch.dict(chunked.CHUNK_BYTES, cpu=chunk_bytes):
        torch.testing.assert_close(loss("chunked"), loss("reference"), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("batch", "heads", "length", "student", "teacher"),
    [(2, 2, 1, 26, 32), (3, 2, 97, 26, 64), (4, 3, 128, 26, 32), (2, 1, 200, 40, 64), (1, 1, 512, 32, 32)],
)
@pytest.mark.parametrize("backend", ["chunked", "reference"])
def test_attention_error_budget(
    batch: int, heads: int, length: int, student: int, teacher: int, dtype: torch.dtype, backend: str
) -> None:
    *variables, tq, tk = queries_and_keys(batch, heads, length, student, teacher, dtype=dtype)
    constants = [tq, tk, ragged(batch, length) if batch > 1 else torch.ones(1, length, dtype=torch.bool)]

    def ours(*x: Tensor) -> Tensor:
        return attention_score_mse(*x, backend=backend)

    exact = value_and_gradients(
        ours, [tq.double(), tk.double(), constants[2]], [x.double() for x in variables]
    )
    result = value_and_gradients(ours, constants, variables)
    assert [x.dtype for x in result] == [torch.float32, dtype, dtype]
    within_budget(result, value_and_gradients(plain_attention, constants, variables), exact, dtype)


@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_attention_error_budget_at_extreme_scales(scale: float) -> None:
    inputs = [x * scale for x in queries_and_keys(2, 2, 33, 26, 32, dtype=torch.float32)]
    mask = ragged(2, 33)
    mask[1, 0] = True
    exact = value_and_gradients(
        attention_score_mse, [inputs[2].double(), inputs[3].double(), mask], [x.double() for x in inputs[:2]]
    )
    constants = [*inputs[2:], mask]
    plain = value_and_gradients(plain_attention, constants, inputs[:2])
    within_budget(
        value_and_gradients(attention_score_mse, constants, inputs[:2]), plain, exact, torch.float32
    )
    assert exact[0] > 0


def test_fp16_scores_beyond_its_range_do_not_overflow() -> None:
    inputs = [x * 60 for x in queries_and_keys(1, 2, 64, 32, 32, dtype=torch.float16)]
    value, *gradients = value_and_gradients(attention_score_mse, inputs[2:], inputs[:2])
    assert value.isfinite()
    assert all(x.isfinite().all() for x in gradients)


def test_the_difference_is_not_rounded_to_bf16_near_convergence() -> None:
    teacher = queries_and_keys(2, 2, 64, 32, 32, dtype=torch.bfloat16)[2:]
    student = [x * (1 + 1 / 128) for x in teacher]  # one or two units of bf16 away
    mask = torch.ones(2, 64, dtype=torch.bool)
    exact = value_and_gradients(
        attention_score_mse, [*(x.double() for x in teacher), mask], [x.double() for x in student]
    )
    ours = value_and_gradients(attention_score_mse, [*teacher, mask], student)
    plain = value_and_gradients(plain_attention, [*teacher, mask], student)
    assert abs(float(ours[0] / exact[0]) - 1) <= 5e-6
    for a, p, e in zip(ours[1:], plain[1:], exact[1:], strict=True):
        error = (a.double() - e).norm() / e.norm()
        assert error <= torch.finfo(torch.bfloat16).eps / 2  # the rounding of the result alone
        assert (p.double() - e).norm() / e.norm() >= 4 * error  # what the fp32 difference is for


@pytest.mark.parametrize("mode", ["tinybert", "valid_pairs"])
def test_gradcheck_of_chunked_attention(mode: str) -> None:
    sq, sk, tq, tk = queries_and_keys(2, 2, 4, 3, 2)
    segments = torch.tensor([[1, 1, 2, 0], [1, 1, 1, 1]])

    def loss(q: Tensor, k: Tensor) -> Tensor:
        return attention_score_mse(q, k, tq, tk, segments, mode=mode, backend="chunked")

    with mock.patch.dict(chunked.CHUNK_BYTES, cpu=200):
        assert torch.autograd.gradcheck(loss, [sq.requires_grad_(), sk.requires_grad_()])


def largest_made(call: Callable[[], object]) -> int:
    """Bytes of the largest tensor made; of a backend's own function, since operators are opaque."""
    with LargestTensor() as largest:
        call()
    return largest.bytes


@pytest.mark.parametrize("module", [chunked, linear_form])
def test_no_score_map_is_made_or_saved(module: Any) -> None:
    batch, heads, length = 2, 4, 1024
    inputs = queries_and_keys(batch, heads, length, 8, 8, dtype=torch.bfloat16)
    segments = torch.ones(batch, length, dtype=torch.int32)
    gradient = 4 * inputs[0].numel()
    scores = 4 * batch * heads * length * length
    options = {
        **{"mode": "valid_pairs", "student_scale": 1.0, "teacher_scale": 1.0},
        **{"want_q": True, "want_k": True},
    }
    if module is linear_form:
        options |= {"cu_seqlens": None, "max_length": length}
    made = largest_made(lambda: module.attention_terms(*[[x] for x in inputs], segments, **options))
    assert made <= max(chunked.CHUNK_BYTES["cpu"], gradient) < scores

    inputs[0].requires_grad_()
    inputs[1].requires_grad_()

    def loss(backend: str) -> Loss:
        return lambda: attention_score_mse(*inputs, segments, mode="valid_pairs", backend=backend)

    _, saved = largest_made_and_total_saved(loss("chunked"))
    assert saved <= 2 * gradient + 64
    # The measures see a map where there is one.
    made, saved = largest_made_and_total_saved(loss("reference"))
    assert made >= scores
    assert saved >= scores


def test_no_projection_and_no_whole_logits_are_made_or_saved() -> None:
    rows, width, teacher_width = 4096, 8, 256
    student, teacher, weight = random_states(
        (rows, width), (rows, teacher_width), (teacher_width, width), dtype=torch.float32
    )
    made = largest_made(
        lambda: chunked.hidden_terms(
            *([student], [teacher], [weight], [], None),
            product=torch.float32,
            want_h=True,
            want_w=True,
            want_b=False,
        )
    )
    assert made <= chunked.CHUNK_BYTES["cpu"] < 4 * rows * teacher_width
    made = largest_made(
        lambda: chunked_outputs.cross_entropy_terms(
            *(student, weight, None, torch.zeros(rows, dtype=torch.int64)),
            label_smoothing=0.1,
            z_loss=0.1,
            product=torch.float32,
            want_x=True,
            want_w=True,
            want_b=False,
        )
    )
    assert made <= chunked.CHUNK_BYTES["cpu"] < 4 * rows * teacher_width
    student.requires_grad_()
    weight.requires_grad_()
    _, saved = largest_made_and_total_saved(
        lambda: hidden_state_mse(student, teacher, weight, backend="chunked")
    )
    assert saved <= 4 * (student.numel() + weight.numel()) + 64


# All three losses.


def hidden_case(dtype: torch.dtype) -> tuple[Loss, list[Tensor]]:
    student, teacher, weight, bias = random_states((3, 400, 24), (3, 400, 40), (40, 24), (40,), dtype=dtype)
    mask = ragged(3, 400)

    def loss(h: Tensor, w: Tensor, b: Tensor, backend: str = "chunked", mode: str = "valid") -> Tensor:
        target = teacher.to(h.dtype) if h.dtype == torch.float64 else teacher
        return hidden_state_mse(h, target, w, b, mask, mode=mode, backend=backend)

    return loss, [student, weight * 0.2, bias]


def attention_case(dtype: torch.dtype) -> tuple[Loss, list[Tensor]]:
    *student, tq, tk = queries_and_keys(3, 4, 40, 26, 32, dtype=dtype)
    mask = ragged(3, 40)

    def loss(q: Tensor, k: Tensor, backend: str = "chunked") -> Tensor:
        return attention_score_mse(q, k, tq, tk, mask, mode="valid_pairs", backend=backend)

    return loss, student


def masked_lm_case(dtype: torch.dtype) -> tuple[Loss, list[Tensor]]:
    hidden, weight, bias = random_states((1500, 24), (77, 24), (77,), dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    positions = torch.randperm(1500, generator=generator)[:1300]
    labels = torch.randint(77, (1300,), generator=generator)

    def loss(h: Tensor, w: Tensor, b: Tensor, backend: str = "chunked") -> Tensor:
        return masked_lm_loss(h, positions, labels, torch.tanh, w, b, backend=backend)

    return loss, [hidden, weight, bias]


CASES = pytest.mark.parametrize("case", [attention_case, hidden_case, masked_lm_case])
Case = Callable[[torch.dtype], tuple[Loss, list[Tensor]]]


@CASES
@pytest.mark.parametrize("chunk_bytes", [1, 1 << 14, 1 << 20])
def test_chunked_equals_the_definition_in_fp64(case: Case, chunk_bytes: int) -> None:
    loss, variables = case(torch.float64)
    expected = value_and_gradients(lambda *x: loss(*x, backend="reference"), [], variables)
    with mock.patch.dict(chunked.CHUNK_BYTES, cpu=chunk_bytes):
        torch.testing.assert_close(value_and_gradients(loss, [], variables), expected, rtol=1e-10, atol=1e-13)


@CASES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_two_runs_are_bit_identical(case: Case, dtype: torch.dtype) -> None:
    loss, variables = case(dtype)
    one, other = (value_and_gradients(loss, [], variables) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@CASES
@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_a_nan_is_never_hidden(case: Case, backend: str) -> None:
    loss, variables = case(torch.float32)
    for index in range(len(variables)):
        poisoned = [x.clone() for x in variables]
        # Masked out in hidden_case and attention_case at the end, a token at the start.
        poisoned[index].view(-1)[0] = math.nan
        if case is masked_lm_case and index == 0:
            poisoned[index][:] = math.nan
        assert loss(*poisoned, backend=backend).isnan()


@CASES
def test_non_contiguous_inputs_and_gradients(case: Case) -> None:
    loss, variables = case(torch.float64)
    strided = [
        torch.stack([x, x * 7], dim=-1)[..., 0].mT.contiguous().mT if x.dim() > 1 else x for x in variables
    ]
    assert not strided[0].is_contiguous()
    # `clone` inside value_and_gradients keeps these strides.
    torch.testing.assert_close(
        value_and_gradients(loss, [], strided), value_and_gradients(loss, [], variables)
    )


@CASES
@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_frozen_inputs_reused_graphs_and_modes_without_gradient(case: Case, backend: str) -> None:
    loss, variables = case(torch.float64)
    expected = value_and_gradients(lambda *x: loss(*x, backend=backend), [], variables)
    for index, x in enumerate(variables):
        inputs = [v.detach().clone() for v in variables]
        inputs[index].requires_grad_()
        value = loss(*inputs, backend=backend)
        value.backward(retain_graph=True)
        (2 * value).backward()
        assert inputs[index].grad is not None
        torch.testing.assert_close(inputs[index].grad, 3 * expected[index + 1])
        assert x.grad is None
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            value = loss(*(v.clone() for v in variables), backend=backend)
        assert not value.requires_grad
        torch.testing.assert_close(value, expected[0])


@CASES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_leaves_sums_in_fp32(case: Case, dtype: torch.dtype) -> None:
    loss, variables = case(dtype)

    def autocast(function: Loss) -> Loss:
        def run(*x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return function(*x)

        return run

    exact = value_and_gradients(loss, [], [x.double() for x in variables])
    ours = value_and_gradients(autocast(loss), [], variables)
    assert [x.dtype for x in ours] == [torch.float32, *(x.dtype for x in variables)]
    if case is attention_case:
        # Autocast changes nothing: scores are never rounded to bf16.
        without = value_and_gradients(loss, [], variables)
        assert all(torch.equal(a, b) for a, b in zip(ours, without, strict=True))
    else:
        plain = plain_hidden if case is hidden_case else plain_masked_lm
        within_budget(ours, value_and_gradients(autocast(plain), [], variables), exact, torch.bfloat16)


def plain_hidden(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
    _, teacher, _, _ = random_states((3, 400, 24), (3, 400, 40), (40, 24), (40,), dtype=h.dtype)
    mask = ragged(3, 400)
    return F.mse_loss(F.linear(h, w, b)[mask].float(), teacher[mask].float())


def plain_masked_lm(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    positions = torch.randperm(1500, generator=generator)[:1300]
    labels = torch.randint(77, (1300,), generator=generator)
    return F.cross_entropy(F.linear(torch.tanh(h[positions]), w, b).float(), labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("case", "plain"), [(hidden_case, plain_hidden), (masked_lm_case, plain_masked_lm)])
def test_error_budget_of_the_projecting_losses(case: Case, plain: Loss, dtype: torch.dtype) -> None:
    loss, variables = case(dtype)
    exact = value_and_gradients(loss, [], [x.double() for x in variables])
    within_budget(
        value_and_gradients(loss, [], variables), value_and_gradients(plain, [], variables), exact, dtype
    )


@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_padding_alone_is_finite(backend: str) -> None:
    nothing = torch.zeros(2, 5, dtype=torch.int32)
    *student, tq, tk = queries_and_keys(2, 2, 5, 3, 4)
    for mode in ("tinybert", "valid_pairs"):

        def attention(q: Tensor, k: Tensor, mode: str = mode) -> Tensor:
            return attention_score_mse(q, k, tq, tk, nothing, mode=mode, backend=backend)

        assert not any(x.any() for x in value_and_gradients(attention, [], student))
    hidden, teacher, weight = random_states((2, 5, 3), (2, 5, 4), (4, 3))

    def states(h: Tensor, w: Tensor) -> Tensor:
        return hidden_state_mse(h, teacher, w, None, nothing, mode="valid", backend=backend)

    assert not any(x.any() for x in value_and_gradients(states, [], [hidden, weight]))


def test_gradcheck_of_the_projecting_losses() -> None:
    student, teacher, weight, bias = random_states((2, 3, 4), (2, 3, 5), (5, 4), (5,))
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])

    def hidden(*x: Tensor) -> Tensor:
        return hidden_state_mse(x[0], teacher, x[1], x[2], mask, mode="valid", backend="chunked")

    def masked_lm(*x: Tensor) -> Tensor:
        return masked_lm_loss(x[0], torch.tensor([0, 5, 2]), torch.tensor([4, 0, 1]), torch.tanh, *x[1:])

    inputs = [student.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]
    assert torch.autograd.gradcheck(hidden, inputs)
    assert torch.autograd.gradcheck(masked_lm, inputs)
