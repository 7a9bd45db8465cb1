"""Relations, predictions, and cross-entropy with label smoothing and z-loss."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import largest_made_and_total_saved, random_states, value_and_gradients, within_budget
from torch import Tensor, nn

from edad_fast.kernels import chunked, logit_kl, masked_lm_loss, relation_kl
from edad_fast.losses import LogitKL, MaskedLMHead, RelationKL

BACKENDS = pytest.mark.parametrize("backend", ["reference", "chunked"])


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


@BACKENDS
def test_relations_follow_the_written_rule(backend: str) -> None:
    student, teacher = random_states((3, 2, 6, 3), (3, 2, 6, 4))
    segments = [[1, 1, 2, 2, 2, 0], [1, 0, 0, 0, 0, 0], [0] * 6]
    ours = value_and_gradients(
        lambda x: relation_kl(x, teacher, torch.tensor(segments), backend=backend), [], [student]
    )
    plain = value_and_gradients(lambda x: written_out_relations(x, teacher, segments), [], [student])
    torch.testing.assert_close(ours, plain)
    nothing = torch.zeros(3, 6, dtype=torch.bool)
    empty = value_and_gradients(lambda x: relation_kl(x, teacher, nothing, backend=backend), [], [student])
    assert not any(x.any() for x in empty)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(0, 9), st.integers(1, 5)),
    segments=st.lists(st.integers(0, 2), min_size=27, max_size=27) | st.none(),
    chunk_bytes=st.sampled_from([1, 300, 1 << 20]),
)
def test_chunked_relations_equal_the_definition(
    shape: tuple[int, int, int, int], segments: list[int] | None, chunk_bytes: int
) -> None:
    batch, _, length, _ = shape
    mask = None if segments is None else torch.tensor(segments)[: batch * length].view(batch, length)
    student, teacher = random_states(shape, (*shape[:3], 4))
    with mock.patch.dict(chunked.CHUNK_BYTES, cpu=chunk_bytes):
        results = [
            value_and_gradients(lambda x, b=b: relation_kl(x, teacher, mask, backend=b), [], [student])
            for b in ("chunked", "reference")
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_error_budget_of_relations(dtype: torch.dtype) -> None:
    student, teacher = random_states((2, 3, 97, 26), (2, 3, 97, 64), dtype=dtype)

    def plain(x: Tensor) -> Tensor:
        s, t = ((y @ y.mT * y.shape[-1] ** -0.5).log_softmax(-1) for y in (x, teacher))
        return F.kl_div(s, t, log_target=True, reduction="sum").float() / (2 * 3 * 97)

    exact = value_and_gradients(lambda x: relation_kl(x, teacher.double()), [], [student.double()])
    ours = value_and_gradients(lambda x: relation_kl(x, teacher), [], [student])
    within_budget(ours, value_and_gradients(plain, [], [student]), exact, dtype)


def test_no_relation_map_is_saved() -> None:
    student, teacher = random_states((1, 2, 1024, 8), (1, 2, 1024, 8), dtype=torch.float32)
    student.requires_grad_()
    _, saved = largest_made_and_total_saved(lambda: relation_kl(student, teacher))
    assert saved <= 4 * student.numel() + 64 < 4 * 1024 * 1024


@BACKENDS
def test_predictions_are_compared_as_distillation_does(backend: str) -> None:
    student, teacher = random_states((4, 3, 7), (4, 3, 7))
    ours = value_and_gradients(
        lambda x: logit_kl(x, teacher, temperature=4.0, backend=backend), [], [student]
    )
    plain = value_and_gradients(
        lambda x: F.kl_div((x / 4).log_softmax(-1), (teacher / 4).softmax(-1), reduction="sum") * 16 / 12,
        [],
        [student],
    )
    torch.testing.assert_close(ours, plain)


def smoothed_case(dtype: torch.dtype, seed: int = 0) -> tuple[list[Tensor], Tensor, Tensor]:
    hidden, weight, bias = random_states((130, 24), (77, 24), (77,), dtype=dtype, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    positions = torch.randperm(130, generator=generator)[:100]
    return [hidden, weight, bias], positions, torch.randint(77, (100,), generator=generator)


CE_WAYS = [("cpu", "reference"), ("cpu", "chunked"), ("cpu", "cpu"), ("cpu", "triton")]
CE_WAYS += [pytest.param("cuda", "triton", marks=pytest.mark.gpu)]
DRAWS = 8


@pytest.mark.parametrize(("device", "backend"), CE_WAYS)
@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.0, 0.0), (0.1, 0.0), (0.1, 1e-2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_cross_entropy_with_smoothing_and_z_loss(
    device: str, backend: str, smoothing: float, z_loss: float, dtype: torch.dtype
) -> None:
    """The errors of a mean's terms cancel, in one draw more than in another: several judge the value."""
    if backend == "triton":
        pytest.importorskip("triton")
    errors: dict[str, list[float]] = {"ours": [], "plain": []}
    size = 0.0
    for seed in range(DRAWS):
        variables, positions, labels = smoothed_case(dtype, seed)

        def plain(h: Tensor, w: Tensor, b: Tensor, p: Tensor = positions, y: Tensor = labels) -> Tensor:
            logits = F.linear(torch.tanh(h[p]), w, b).float()
            extra = z_loss * logits.logsumexp(1).square().mean()
            return F.cross_entropy(logits, y, label_smoothing=smoothing) + extra

        def loss(*x: Tensor, name: str, place: str, p: Tensor = positions, y: Tensor = labels) -> Tensor:
            h, w, b = (z.to(place) for z in x)
            options = {"label_smoothing": smoothing, "z_loss": z_loss, "backend": name}
            return masked_lm_loss(h, p.to(place), y.to(place), torch.tanh, w, b, **options).cpu()

        exact = value_and_gradients(
            lambda *x: loss(*x, name="reference", place="cpu"), [], [x.double() for x in variables]
        )
        results = {
            "ours": value_and_gradients(lambda *x: loss(*x, name=backend, place=device), [], variables),
            "plain": value_and_gradients(plain, [], variables),
        }
        for name, result in results.items():
            errors[name].append(float(result[0].double() - exact[0]))
        size = max(size, float(exact[0]))
        # The gradients have elements enough for one draw; the value stands in for itself.
        within_budget([exact[0], *results["ours"][1:]], [exact[0], *results["plain"][1:]], exact, dtype)
    ours, allowed = (torch.tensor(errors[name]).square().mean().sqrt() for name in ("ours", "plain"))
    assert ours <= 2 * allowed + 4 * torch.finfo(torch.float32).eps * size


@pytest.mark.parametrize(("device", "backend"), CE_WAYS)
def test_no_bias_no_gradient_and_nan(device: str, backend: str) -> None:
    if backend == "triton":
        pytest.importorskip("triton")
    (hidden, weight, _), positions, labels = smoothed_case(torch.float32)
    inputs = [x.to(device) for x in (hidden, positions, labels)]
    with torch.no_grad():
        value = masked_lm_loss(*inputs, nn.Identity(), weight.to(device), backend=backend)
    expected = F.cross_entropy(hidden[positions] @ weight.mT, labels)
    torch.testing.assert_close(value.cpu(), expected)
    inputs[0][positions[3], 0] = torch.nan
    assert masked_lm_loss(*inputs, nn.Identity(), weight.to(device), backend=backend).isnan()


def test_the_weight_gradient_is_summed_in_fp32() -> None:
    """Many chunks of equal rows: in bf16 the sum would stand still."""
    rows = 64 * 512
    hidden = torch.ones(rows, 2, dtype=torch.bfloat16)
    weight = torch.zeros(4, 2, dtype=torch.bfloat16).requires_grad_()
    with mock.patch.dict(chunked.CHUNK_BYTES, cpu=1):
        loss = masked_lm_loss(
            hidden, torch.arange(rows), torch.zeros(rows, dtype=torch.int64), nn.Identity(), weight
        )
    loss.backward()
    expected = torch.tensor([[-0.75] * 2, [0.25] * 2, [0.25] * 2, [0.25] * 2])
    torch.testing.assert_close(weight.grad.float(), expected, rtol=1e-2, atol=0)


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


X, Y = torch.zeros(1, 4, 3, 3), torch.zeros(1, 2, 3, 6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: relation_kl(X, Y), ["[1, 4, 3, 3]", "[1, 2, 3, 6]", "relation heads"]),
        (lambda: relation_kl(X, X, backend="triton"), ["'triton'", "reference, chunked"]),
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
