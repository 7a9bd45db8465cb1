"""The registered operators: opcheck, torch.compile, one node of the graph, CUDA graphs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from loss_cases import (
    need_triton,
    queries_and_keys,
    random_states,
    skip_where_it_cannot_run,
    value_and_gradients,
)
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edad_fast.kernels import (
    AttentionTerm,
    HiddenTerm,
    attention_score_mse,
    distillation,
    hidden_state_mse,
    logit_kl,
    masked_lm_loss,
    ops,
    ops_outputs,
    relation_kl,
)

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _needs(request: pytest.FixtureRequest) -> None:
    skip_where_it_cannot_run(request)


def distillation_arguments(dtype: torch.dtype) -> tuple[object, ...]:
    layers = [queries_and_keys(2, 2, 5, 3, 4, dtype=dtype, seed=i) for i in range(2)]
    scores = [[layer[i].requires_grad_(i < 2) for layer in layers] for i in range(4)]
    states = random_states(*[(10, 4)] * 2, *[(10, 6)] * 2, (6, 4), (6,), dtype=dtype)
    student, teacher, weights, biases = states[:2], states[2:4], states[4:5], states[5:]
    for x in (*student, *weights, *biases):
        x.requires_grad_()
    segments = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 2, 2, 0]], dtype=torch.int32)
    return (
        *(*scores, student, teacher, weights, biases),
        *(segments, None, segments.reshape(-1) > 0, 5, "valid_pairs", 0.5, 0.4, 0.7, 1.3),
        *("chunked", "chunked", dtype, 31),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_opcheck_of_the_distillation(dtype: torch.dtype) -> None:
    torch.library.opcheck(ops.distillation, distillation_arguments(dtype))
    nothing_wanted = (*distillation_arguments(dtype)[:-1], 0)
    detached = [
        [x.detach() for x in argument] if isinstance(argument, list) else argument
        for argument in nothing_wanted
    ]
    torch.library.opcheck(ops.distillation, tuple(detached))


@pytest.mark.parametrize("backend", ["chunked", "triton"])
def test_opcheck_of_the_outputs(backend: str) -> None:
    dtype = torch.float64
    names = {"cross_entropy": "chunked_outputs", "relation": "chunked_outputs", "logits": "chunked_outputs"}
    if backend == "triton":
        need_triton("cpu")
        dtype, names = torch.float32, {name: f"triton.{name}" for name in names}
    shapes = (7, 4), (9, 4), (9,), (2, 2, 5, 3), (2, 2, 5, 4)
    rows, weight, bias, student, teacher = random_states(*shapes, dtype=dtype)
    for x in (rows, weight, bias, student):
        x.requires_grad_()
    labels = torch.tensor([0, 8, 3, 3, 1, 2, 7])
    torch.library.opcheck(
        ops_outputs.linear_cross_entropy,
        (rows, weight, bias, labels, 0.1, 0.01, names["cross_entropy"], dtype, 7),
    )
    segments = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 2, 2, 0]], dtype=torch.int32)
    torch.library.opcheck(
        ops_outputs.relation_kl, (student, teacher, segments, 0.5, 0.4, names["relation"], True)
    )
    torch.library.opcheck(ops_outputs.logit_kl, (rows, weight.detach()[:7], 2.0, names["logits"], True))


def every_loss(student: list[Tensor], teacher: list[Tensor], mask: Tensor) -> Tensor:
    sq, sk, hidden, weight, bias = student
    tq, tk, target = teacher
    attention = AttentionTerm([sq], [sk], [tq], [tk], mask, mode="valid_pairs", weight=0.5)
    states = HiddenTerm([hidden], [target], [weight], [bias], mask, "valid", weight=2.0)
    total = distillation(attention, states)[0]
    positions, labels = torch.tensor([0, 3, 8]), torch.tensor([1, 5, 2])
    total = total + masked_lm_loss(hidden, positions, labels, torch.tanh, weight, bias, z_loss=0.1)
    return total + relation_kl(sq, tq, mask) + logit_kl(hidden, hidden.detach() * 2, temperature=2.0)


def cases() -> tuple[list[Tensor], list[Tensor], Tensor]:
    sq, sk, tq, tk = queries_and_keys(2, 2, 5, 3, 4, dtype=torch.float32)
    hidden, target, weight, bias = random_states((2, 5, 4), (2, 5, 6), (6, 4), (6,), dtype=torch.float32)
    mask = torch.arange(5)[None] < torch.tensor([[5], [3]])
    return [x.requires_grad_() for x in (sq, sk, hidden, weight, bias)], [tq, tk, target], mask


def test_torch_compile_sees_one_graph_and_gives_the_same() -> None:
    student, teacher, mask = cases()
    compiled = torch.compile(every_loss, fullgraph=True, backend="aot_eager")
    for loss in (every_loss, compiled):
        value = loss(student, teacher, mask)
        gradients = torch.autograd.grad(value, student)
        if loss is every_loss:
            expected = [value.detach(), *gradients]
    torch.testing.assert_close([value.detach(), *gradients], expected)


def test_second_and_forward_derivatives_are_refused_where_they_would_be_wrong() -> None:
    student, teacher, mask = cases()
    x = student[0]
    losses: list[tuple[Callable[..., Tensor], Tensor]] = [
        (lambda x, **o: attention_score_mse(x, student[1], *teacher[:2], mask, **o), x),
        (lambda x, **o: relation_kl(x, teacher[0], mask, **o), x),
        (lambda x, **o: logit_kl(x, 2 * x.detach(), **o), x),
        (lambda x, **o: hidden_state_mse(x, teacher[2], *student[3:], **o), student[2]),
        (
            lambda x, **o: masked_lm_loss(
                x, torch.tensor([0, 3]), torch.tensor([1, 2]), torch.tanh, student[3], **o
            ),
            student[2],
        ),
    ]
    for loss, at in losses:
        for create_graph in (True, False):
            value = loss(at, backend="chunked")
            if create_graph:
                with pytest.raises(RuntimeError, match=r'no second derivatives.*backend="reference"'):
                    torch.autograd.grad(value, at, create_graph=True)
            else:
                torch.autograd.grad(value, at)
        with pytest.raises(RuntimeError, match=r'no forward-mode derivative.*backend="reference"'):
            torch.func.jvp(partial(loss, backend="chunked"), (at.detach(),), (torch.ones_like(at),))
        (first,) = torch.autograd.grad(loss(at, backend="reference"), at, create_graph=True)
        first.square().sum().backward()
        assert at.grad is not None
        _, tangent = torch.func.jvp(
            partial(loss, backend="reference"), (at.detach(),), (torch.ones_like(at),)
        )
        torch.testing.assert_close(tangent, first.sum().detach().to(tangent.dtype))


@pytest.mark.parametrize("backend", ["chunked", "cpu"])
def test_a_compiled_loss_checks_the_ends_of_sequences_when_it_runs(backend: str) -> None:
    inputs = [x[0].transpose(0, 1) for x in queries_and_keys(1, 2, 8, 3, 4, dtype=torch.float32)]

    def loss(ends: Tensor) -> Tensor:
        return attention_score_mse(*inputs, cu_seqlens=ends, mode="valid_pairs", backend=backend)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(torch.tensor([0, 3, 8])), loss(torch.tensor([0, 3, 8])))
    with pytest.raises(ValueError, match=r"cu_seqlens is \[0, 3, 20\]"):
        compiled(torch.tensor([0, 3, 20]))


def test_all_layers_of_both_terms_are_one_node() -> None:
    (sq, sk, hidden, weight, bias), (tq, tk, target), mask = cases()
    total, hidden_means, attention_means = distillation(
        AttentionTerm([sq] * 3, [sk] * 3, [tq] * 3, [tk] * 3, mask, weight=0.5),
        HiddenTerm([hidden] * 2, [target] * 2, [weight], [bias], mask, weight=2.0),
    )
    assert {type(x).__name__ for x, _ in total.grad_fn.next_functions if x is not None} == {
        "AccumulateGrad",
        "ViewBackward0",
    }
    torch.testing.assert_close(total, 0.5 * attention_means.sum() + 2.0 * hidden_means.sum())
    assert not hidden_means.requires_grad
    assert not attention_means.requires_grad
    singles = [
        0.5 * 3 * attention_score_mse(sq, sk, tq, tk, mask),
        2.0 * 2 * hidden_state_mse(hidden, target, weight, bias, mask),
    ]
    torch.testing.assert_close(total, singles[0] + singles[1])
    leaves = [sq, sk, hidden, weight, bias]
    torch.testing.assert_close(
        torch.autograd.grad(total, leaves), torch.autograd.grad(singles[0] + singles[1], leaves)
    )


def test_a_copy_of_the_package_under_another_name_leaves_the_operators_alone() -> None:
    """Software that looks for a package named "kernels" finds this folder in a checkout's root."""
    code = (
        "import torch; from edad_fast.kernels import attention_score_mse; import kernels\n"
        "x = torch.ones(1, 1, 2, 2); print(float(attention_score_mse(x, x, 2 * x, x)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) == pytest.approx(2.0)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_capture_in_a_cuda_graph(backend: str) -> None:
    *student, tq, tk = queries_and_keys(2, 2, 40, 26, 64, dtype=torch.bfloat16)
    student += random_states((2, 40, 20), (130, 20), (130,), dtype=torch.bfloat16)
    (target,) = random_states((2, 40, 130), dtype=torch.bfloat16, seed=1)
    student, (tq, tk, target) = ([x.cuda() for x in y] for y in (student, (tq, tk, target)))
    mask = torch.arange(40, device="cuda")[None] < torch.tensor([[40], [13]], device="cuda")

    def loss(q: Tensor, k: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, *teacher: Tensor) -> Tensor:
        tq, tk, target = teacher
        scores = AttentionTerm([q], [k], [tq], [tk], mask, mode="valid_pairs", backend=backend)
        states = HiddenTerm([hidden], [target], [weight], [bias], mask, "valid", backend=backend)
        total = distillation(scores, states)[0]
        if backend == "triton":
            total = total + relation_kl(q, tq, mask, backend=backend)
            total = total + logit_kl(k, 2 * k.detach(), backend=backend)
        return total

    expected = value_and_gradients(loss, [tq, tk, target], student)
    leaves = [x.requires_grad_() for x in student]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            torch.autograd.grad(loss(*leaves, tq, tk, target), leaves)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = loss(*leaves, tq, tk, target)
        gradients = torch.autograd.grad(value, leaves)
    graph.replay()
    assert torch.equal(value, expected[0])
    assert all(torch.equal(a, b) for a, b in zip(gradients, expected[1:], strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize(("backend", "dtype"), [("auto", torch.float32), ("cuda", torch.bfloat16)])
def test_no_loss_waits_for_the_gpu(backend: str, dtype: torch.dtype) -> None:
    student, teacher, mask = cases()
    student = [x.detach().to("cuda", dtype).requires_grad_() for x in student]
    teacher, mask = [x.to("cuda", dtype) for x in teacher], mask.cuda()
    scores = [[x] for x in (*student[:2], *teacher[:2])]
    attention = AttentionTerm(*scores, mask, mode="valid_pairs", backend=backend)
    states = HiddenTerm(
        [student[2]], [teacher[2]], [student[3]], [student[4]], mask, "valid", backend=backend
    )

    def loss() -> Tensor:
        total = distillation(attention, states)[0] + relation_kl(student[0], teacher[0], mask)
        return total + logit_kl(student[1], 2 * student[1].detach())

    loss().backward()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_counted_operations_are_those_of_the_written_formulas() -> None:
    """A user's own products, forward and backward, under the same counter."""
    hidden, weight, student, teacher, fit = random_states((9, 6), (31, 6), (2, 3, 5, 4), (2, 3, 5, 8), (8, 6))
    target = torch.zeros(9, 8, dtype=torch.float64)
    everything = torch.arange(9)

    def plain() -> Tensor:
        scores = student @ student.mT - teacher @ teacher.mT
        relation = student @ student.mT - teacher @ teacher.mT
        return (hidden @ weight.mT).sum() + scores.sum() + relation.sum() + (hidden @ fit.mT - target).sum()

    def ours() -> Tensor:
        return (
            masked_lm_loss(hidden, everything, everything, nn.Identity(), weight)
            + attention_score_mse(student, student, teacher, teacher)
            + relation_kl(student, teacher)
            + hidden_state_mse(hidden, target, fit)
        )

    counts = []
    for loss in (plain, ours):
        for x in (hidden, weight, student, fit):
            x.requires_grad_()
        with FlopCounterMode(display=False) as counter:
            loss().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def _fused_losses() -> dict[str, tuple[Callable[[], Tensor], list[Tensor]]]:
    sq, sk, tq, tk = queries_and_keys(2, 2, 5, 3, 4, dtype=torch.float32, seed=1)
    x, y, weight, logits, target = random_states((10, 4), (10, 6), (6, 4), (10, 7), (10, 7))
    relation, other = random_states((2, 2, 5, 4), (2, 2, 5, 4))
    leaves = [t.requires_grad_() for t in (sq, sk, x, weight, logits, relation)]
    labels = torch.arange(10) % 6
    both = AttentionTerm([sq], [sk], [tq], [tk]), HiddenTerm([x], [y], [weight])
    return {
        "distillation": (lambda: distillation(*both)[0], [sq, sk, x, weight]),
        "cross-entropy": (
            lambda: masked_lm_loss(x, torch.arange(10), labels, nn.Identity(), weight),
            [x, weight],
        ),
        "logits": (lambda: logit_kl(logits, target), leaves[4:5]),
        "relation": (lambda: relation_kl(relation, other), leaves[5:]),
    }


@pytest.mark.parametrize("weight", [1, 3])
@pytest.mark.parametrize("name", list(_fused_losses()))
def test_what_backward_writes_in_place_is_used_no_more(name: str, weight: int) -> None:
    loss, leaves = _fused_losses()[name]
    value = weight * loss()
    first = [g.clone() for g in torch.autograd.grad(value, leaves, retain_graph=True)]
    kept = torch.autograd.grad(value, leaves, retain_graph=True)
    last = torch.autograd.grad(value, leaves)
    for a, b, c in zip(first, kept, last, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    value = weight * loss()
    value.backward(retain_graph=True)
    value.backward()
    for leaf, gradient in zip(leaves, first, strict=True):
        torch.testing.assert_close(leaf.grad, 2 * gradient)


@pytest.mark.parametrize(
    ("name", "operator"),
    [
        ("distillation", "distillation"),
        ("cross-entropy", "linear_cross_entropy"),
        ("logits", "logit_kl"),
        ("relation", "relation_kl"),
    ],
)
def test_the_profiler_sees_the_operators(name: str, operator: str) -> None:
    loss, leaves = _fused_losses()[name]
    plain = loss()
    expected = torch.autograd.grad(plain, leaves)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        seen = loss()
        gradients = torch.autograd.grad(seen, leaves)
    assert any(event.key.endswith(f"::{operator}") for event in profile.key_averages())
    for found, wanted in zip((seen, *gradients), (plain, *expected), strict=True):
        assert torch.equal(found, wanted)
