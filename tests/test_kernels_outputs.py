"""Relations and predictions."""

from __future__ import annotations

import math
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import (
    DTYPES,
    Loss,
    draw_seeds,
    draws_within_budget,
    largest_made_and_total_saved,
    ragged,
    random_states,
    skip_where_it_cannot_run,
    value_and_gradients,
    within_budget,
)
from torch import Tensor, nn

from edad_fast.kernels import chunked, logit_kl, masked_lm_loss, relation_kl
from edad_fast.losses import LogitKL, MaskedLMHead, RelationKL

WAYS = [("cpu", "reference"), ("cpu", "chunked"), ("cpu", "triton")]
WAYS += [pytest.param("cuda", "triton", marks=pytest.mark.gpu)]
EVERY_WAY = pytest.mark.parametrize(("device", "backend"), WAYS)
FAST_WAYS = pytest.mark.parametrize(("device", "backend"), WAYS[1:])


@pytest.fixture(autouse=True)
def _needs(request: pytest.FixtureRequest) -> None:
    skip_where_it_cannot_run(request)


def finest(backend: str) -> torch.dtype:
    return torch.float32 if backend == "triton" else torch.float64


def way(loss: Loss, device: str, backend: str, **options: Any) -> Loss:
    def moved(*x: Tensor | None) -> Tensor:
        placed = [y if y is None else y.to(device) for y in x]
        return loss(*placed, backend=backend, **options).cpu()

    return moved


def written_out_relations(student: Tensor, teacher: Tensor, segments: list[list[int]]) -> Tensor:
    """Token by token, over the tokens of its own segment."""
    total, tokens = torch.zeros((), dtype=student.dtype), 0
    for b, ids in enumerate(segments):
        for i, own in enumerate(ids):
            if own <= 0:
                continue
            tokens += 1
            others = [j for j, other in enumerate(ids) if other == own]
            for h in range(student.shape[1]):
                s, t = (
                    (x[b, h, others] @ x[b, h, i] / x.shape[-1] ** 0.5).softmax(0) for x in (student, teacher)
                )
                total = total + (t * (t / s).log()).sum()
    return total / (tokens * student.shape[1])


@EVERY_WAY
def test_relations_follow_the_written_rule(device: str, backend: str) -> None:
    student, teacher = random_states((3, 2, 6, 3), (3, 2, 6, 4), dtype=finest(backend))
    segments = [[1, 1, 2, 2, 2, 0], [1, 0, 0, 0, 0, 0], [0] * 6]
    loss = way(relation_kl, device, backend)
    ours = value_and_gradients(loss, [teacher, torch.tensor(segments)], [student])
    plain = value_and_gradients(lambda x: written_out_relations(x, teacher, segments), [], [student])
    torch.testing.assert_close(ours, plain)
    nothing = torch.zeros(3, 6, dtype=torch.bool)
    assert not any(x.any() for x in value_and_gradients(loss, [teacher, nothing], [student]))


@pytest.mark.parametrize("backend", ["chunked", "triton"])
@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 2), st.integers(1, 2), st.integers(0, 9), st.integers(1, 5)),
    segments=st.lists(st.integers(0, 2), min_size=18, max_size=18) | st.none(),
    chunk_bytes=st.sampled_from([1, 300, 1 << 20]),
)
def test_relations_equal_the_definition(
    backend: str, shape: tuple[int, int, int, int], segments: list[int] | None, chunk_bytes: int
) -> None:
    batch, _, length, _ = shape
    mask = None if segments is None else torch.tensor(segments)[: batch * length].view(batch, length)
    student, teacher = random_states(shape, (*shape[:3], 4), dtype=finest(backend))
    with mock.patch.dict(chunked.CHUNK_BYTES, cpu=chunk_bytes):
        results = [
            value_and_gradients(lambda x, b=b: relation_kl(x, teacher, mask, backend=b), [], [student])
            for b in (backend, "reference")
        ]
    torch.testing.assert_close(*results)


def test_gradcheck_of_relations_and_predictions() -> None:
    student, teacher, logits, targets = random_states((2, 2, 4, 3), (2, 2, 4, 2), (3, 5), (3, 5))
    mask = torch.tensor([[1, 1, 2, 0], [1, 1, 1, 1]])
    for backend in ("reference", "chunked"):
        inputs = [student.detach().requires_grad_(), logits.detach().requires_grad_()]
        assert torch.autograd.gradcheck(
            lambda x, b=backend: relation_kl(x, teacher, mask, backend=b), inputs[:1]
        )
        assert torch.autograd.gradcheck(
            lambda x, b=backend: logit_kl(x, targets, temperature=3.0, backend=b), inputs[1:]
        )


def plain_relations(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """What a user would write, at the inputs' own dtype."""
    hidden = ~mask[:, None, None, :]
    s, t = (
        (x @ x.mT * x.shape[-1] ** -0.5).masked_fill(hidden, -1e4).log_softmax(-1) for x in (student, teacher)
    )
    rows = F.kl_div(s, t, log_target=True, reduction="none").sum(-1).float()
    return rows.masked_fill(~mask[:, None], 0.0).sum() / (student.shape[1] * mask.sum())


def check_relations(device: str, backend: str, student: Tensor, teacher: Tensor, mask: Tensor) -> None:
    exact = value_and_gradients(relation_kl, [teacher.double(), mask], [student.double()])
    ours = value_and_gradients(way(relation_kl, device, backend), [teacher, mask], [student])
    assert [x.dtype for x in ours] == [torch.float32, student.dtype]
    plain = value_and_gradients(plain_relations, [teacher, mask], [student])
    within_budget(ours, plain, exact, student.dtype)


SMALL = [(3, 2, 1, 26, 32), (3, 2, 33, 26, 40), (2, 1, 70, 40, 64)]
LARGE = [(3, 2, 97, 26, 64), (4, 3, 128, 26, 64), (2, 1, 200, 32, 128), (1, 2, 512, 64, 64)]


@FAST_WAYS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [*SMALL, *LARGE], ids=str)
def test_error_budget_of_relations(
    device: str, backend: str, shape: tuple[int, int, int, int, int], dtype: torch.dtype
) -> None:
    if backend == "triton" and device == "cpu" and shape in LARGE:
        pytest.skip("the interpreter is slow")
    *common, own, other = shape
    student, teacher = random_states((*common, own), (*common, other), dtype=dtype)
    mask = ragged(shape[0], shape[2]) if shape[0] > 1 else torch.ones(1, shape[2], dtype=torch.bool)
    check_relations(device, backend, student, teacher, mask)


@FAST_WAYS
@pytest.mark.parametrize("scale", [1e-2, 5.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_relations_of_extreme_scales(device: str, backend: str, scale: float, dtype: torch.dtype) -> None:
    student, teacher = (x * scale for x in random_states((1, 2, 33, 26), (1, 2, 33, 32), dtype=dtype))
    check_relations(device, backend, student, teacher, torch.ones(1, 33, dtype=torch.bool))


@FAST_WAYS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_error_budget_near_convergence(device: str, backend: str, dtype: torch.dtype) -> None:
    """Student and teacher a few units of bf16 apart: the losses are small differences of large numbers."""
    (teacher,) = random_states((2, 2, 60, 32), dtype=torch.bfloat16)
    student = teacher * (1 + 1 / 128)
    check_relations(device, backend, student.to(dtype), teacher.to(dtype), torch.ones(2, 60) > 0)
    rows = [
        (s.to(dtype), t.to(dtype)) for s, t in zip(student.flatten(0, 1), teacher.flatten(0, 1), strict=True)
    ]
    check_predictions(device, backend, rows, 1.0)


@FAST_WAYS
def test_a_nan_is_never_hidden_and_padding_hides_it(device: str, backend: str) -> None:
    tensors = random_states((2, 2, 9, 6), (2, 2, 9, 8), dtype=torch.bfloat16)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 5:] = False
    for loss, options in ((relation_kl, (mask,)), (logit_kl, ())):
        for index in range(2):
            for bad in (math.nan, math.inf):
                poisoned = [x.clone()[..., :6] for x in tensors]
                poisoned[index][0, 1, 3, 2] = bad
                value, gradient = value_and_gradients(
                    way(loss, device, backend), [poisoned[1], *options], poisoned[:1]
                )
                assert value.isnan()
                assert gradient[0, 1, 3].isnan().any()
                assert gradient[1].isfinite().all()
    for index in range(2):
        poisoned = [x.clone() for x in tensors]
        poisoned[index][1, :, 5:] = math.nan
        found = value_and_gradients(way(relation_kl, device, backend), [poisoned[1], mask], poisoned[:1])
        assert all(x.isfinite().all() for x in found)
        assert not found[1][1, :, 5:].any()


@FAST_WAYS
def test_strides_two_runs_and_poisoned_memory_change_no_bit(device: str, backend: str) -> None:
    """The teacher's last dimension is strided, the student's heads lie behind its positions."""
    student, teacher = random_states((2, 3, 37, 26), (2, 3, 37, 40), dtype=torch.bfloat16)
    mask = torch.arange(37)[None] < torch.tensor([[37], [11]])
    laid = [student.transpose(1, 2).contiguous().transpose(1, 2), torch.stack([teacher] * 2, -1)[..., 0]]
    empty, new_empty = torch.empty, Tensor.new_empty

    def poisoned(original: Any) -> Any:
        def make(*args: Any, **kwargs: Any) -> Tensor:
            made = original(*args, **kwargs)
            return made.fill_(math.nan) if made.is_floating_point() else made

        return make

    for loss, options, width in ((relation_kl, [mask], 40), (logit_kl, [], 26)):
        call = way(loss, device, backend)
        one = value_and_gradients(call, [teacher[..., :width], *options], [student])
        with (
            mock.patch.object(torch, "empty", poisoned(empty)),
            mock.patch.object(Tensor, "new_empty", poisoned(new_empty)),
        ):
            other = value_and_gradients(call, [laid[1][..., :width], *options], laid[:1])
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_no_relation_map_is_saved() -> None:
    student, teacher = random_states((1, 2, 1024, 8), (1, 2, 1024, 8), dtype=torch.float32)
    student.requires_grad_()
    _, saved = largest_made_and_total_saved(lambda: relation_kl(student, teacher))
    assert saved <= 4 * student.numel() + 64 < 4 * 1024 * 1024


@EVERY_WAY
def test_predictions_are_compared_as_distillation_does(device: str, backend: str) -> None:
    student, teacher = random_states((4, 3, 7), (4, 3, 7), dtype=finest(backend))
    ours = value_and_gradients(way(logit_kl, device, backend, temperature=4.0), [teacher], [student])
    plain = value_and_gradients(
        lambda x: F.kl_div((x / 4).log_softmax(-1), (teacher / 4).softmax(-1), reduction="sum") * 16 / 12,
        [],
        [student],
    )
    torch.testing.assert_close(ours, plain)


def check_predictions(
    device: str, backend: str, pairs: list[tuple[Tensor, Tensor]], temperature: float
) -> None:
    def plain(x: Tensor, target: Tensor) -> Tensor:
        s, t = ((y / temperature).log_softmax(-1) for y in (x, target))
        rows = F.kl_div(s, t, log_target=True, reduction="none").sum(-1).float()
        return rows.mean() * temperature**2

    options = {"temperature": temperature}
    draws = []
    for student, teacher in pairs:
        ours = value_and_gradients(way(logit_kl, device, backend, **options), [teacher], [student])
        assert [x.dtype for x in ours] == [torch.float32, student.dtype]
        definition = way(logit_kl, "cpu", "reference", **options)
        exact = value_and_gradients(definition, [teacher.double()], [student.double()])
        draws.append((ours, value_and_gradients(plain, [teacher], [student]), exact))
    draws_within_budget(draws, pairs[0][0].dtype)


@FAST_WAYS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [1e-2, 3.0, 1e3])
@pytest.mark.parametrize("shape", [(1100, 2), (5, 9), (3, 1), (2, 4100)], ids=str)
def test_error_budget_of_predictions(
    device: str, backend: str, shape: tuple[int, int], scale: float, dtype: torch.dtype
) -> None:
    """Few classes, of which a program takes many rows, up to more than its block holds."""
    seeds = draw_seeds(device, backend)
    made = [random_states(shape, shape, dtype=dtype, seed=seed) for seed in seeds]
    pairs = [(student * scale, teacher * scale) for student, teacher in made]
    check_predictions(device, backend, pairs, 2.5)


@FAST_WAYS
def test_classes_that_both_models_exclude(device: str, backend: str) -> None:
    student, teacher = random_states((3, 6), (3, 6), dtype=torch.float32)
    expected = value_and_gradients(way(logit_kl, device, backend), [teacher[:, :4]], [student[:, :4]])
    for x in (student, teacher):
        x[:, 4:] = -math.inf
    value, gradient = value_and_gradients(way(logit_kl, device, backend), [teacher], [student])
    torch.testing.assert_close([value, gradient[:, :4]], expected)
    assert not gradient[:, 4:].any()
    teacher[1, 5] = 0.0
    assert way(logit_kl, device, backend)(student, teacher) == math.inf


def test_modules() -> None:
    student = random_states((2, 4, 6, 3), (2, 4, 6, 3), (2, 4, 6, 3))
    teacher = [x.requires_grad_() for x in random_states((2, 3, 6, 8), (2, 3, 6, 8), (2, 3, 6, 8), seed=1)]
    mask = torch.arange(6)[None] < torch.tensor([[6], [4]])
    pairs = dict(zip("qkv", zip(student, teacher, strict=True), strict=True))
    loss = RelationKL(relation_heads=6, weights={"v": 2.0})(pairs, mask)
    parts = [RelationKL(relation_heads=6)({kind: pair}, mask) for kind, pair in pairs.items()]
    torch.testing.assert_close(loss, parts[0] + parts[1] + 2 * parts[2])
    assert not loss.requires_grad
    logits, targets = random_states((3, 5), (3, 5))
    torch.testing.assert_close(
        LogitKL(2.0)(logits, targets.requires_grad_()), logit_kl(logits, targets.detach(), temperature=2.0)
    )
    hidden, weight = random_states((4, 3), (7, 3))
    positions, labels = torch.tensor([1, 3]), torch.tensor([0, 6])
    torch.testing.assert_close(
        MaskedLMHead(label_smoothing=0.2)(hidden, nn.Identity(), weight, None, positions, labels),
        F.cross_entropy(hidden[positions] @ weight.mT, labels, label_smoothing=0.2),
    )


X, Y, Z = torch.zeros(1, 4, 3, 3), torch.zeros(1, 2, 3, 6), torch.zeros(1, 4, 3, 129)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: relation_kl(X, Y), ["[1, 4, 3, 3]", "[1, 2, 3, 6]", "relation heads"]),
        (lambda: relation_kl(X, X, backend="cuda"), ["'cuda'", "no code", "reference, chunked, triton"]),
        (lambda: relation_kl(X, X, backend="cpu"), ["cpu", "no code", "chunked"]),
        (lambda: relation_kl(X, Z, backend="triton"), ["at most", "128", "chunked"]),
        (lambda: relation_kl(X, X.clone().requires_grad_(), backend="chunked"), ["teacher", "detach()"]),
        (lambda: RelationKL(5)({"q": (X, Y)}), ["q of the student", "5 relation heads"]),
        (lambda: RelationKL(weights={"x": 1.0})({"q": (X, X)}), ["['x']", "['q']"]),
        (lambda: RelationKL()({}), ["no relations"]),
        (lambda: logit_kl(X, Y), ["[1, 4, 3, 3]", "[1, 2, 3, 6]"]),
        (lambda: logit_kl(X, X, temperature=0.0), ["temperature", "0.0"]),
        (lambda: _lm(label_smoothing=1.5), ["label_smoothing", "1.5"]),
        (lambda: _lm(z_loss=-1.0), ["z_loss", "-1.0"]),
    ],
)
def test_what_does_not_fit_is_refused(call: Any, words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call()
    for word in words:
        assert word in str(caught.value)


def _lm(**options: float) -> Tensor:
    nothing = torch.empty(0, dtype=torch.int64)
    return masked_lm_loss(torch.zeros(2, 3), nothing, nothing, nn.Identity(), torch.zeros(4, 3), **options)
