"""Cross-entropy of linear logits, with label smoothing and z-loss."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from loss_cases import (
    draw_seeds,
    draws_within_budget,
    random_states,
    skip_where_it_cannot_run,
    value_and_gradients,
)
from torch import Tensor, nn

from edad_fast.kernels import chunked, cpu, masked_lm_loss
from edad_fast.kernels.cpu import cross_entropy as cpu_cross_entropy

WAYS = [("cpu", "reference"), ("cpu", "chunked"), ("cpu", "cpu"), ("cpu", "triton")]
WAYS += [pytest.param("cuda", "triton", marks=pytest.mark.gpu)]
EVERY_WAY = pytest.mark.parametrize(("device", "backend"), WAYS)


@pytest.fixture(autouse=True)
def _needs(request: pytest.FixtureRequest) -> None:
    skip_where_it_cannot_run(request)


def smoothed_case(dtype: torch.dtype, seed: int = 0) -> tuple[list[Tensor], Tensor, Tensor]:
    hidden, weight, bias = random_states((130, 24), (77, 24), (77,), dtype=dtype, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    positions = torch.randperm(130, generator=generator)[:100]
    return [hidden, weight, bias], positions, torch.randint(77, (100,), generator=generator)


@EVERY_WAY
@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.0, 0.0), (0.1, 0.0), (0.1, 1e-2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_cross_entropy_with_smoothing_and_z_loss(
    device: str, backend: str, smoothing: float, z_loss: float, dtype: torch.dtype
) -> None:
    draws = []
    for seed in draw_seeds(device, backend):
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
        ours = value_and_gradients(lambda *x: loss(*x, name=backend, place=device), [], variables)
        draws.append((ours, value_and_gradients(plain, [], variables), exact))
    draws_within_budget(draws, dtype)


@EVERY_WAY
def test_no_bias_no_gradient_and_nan(device: str, backend: str) -> None:
    (hidden, weight, _), positions, labels = smoothed_case(torch.float32)
    inputs = [x.to(device) for x in (hidden, positions, labels)]
    with torch.no_grad():
        value = masked_lm_loss(*inputs, nn.Identity(), weight.to(device), backend=backend)
    expected = F.cross_entropy(hidden[positions] @ weight.mT, labels)
    torch.testing.assert_close(value.cpu(), expected)
    inputs[0][positions[3], 0] = torch.nan
    assert masked_lm_loss(*inputs, nn.Identity(), weight.to(device), backend=backend).isnan()


@pytest.mark.parametrize("backend", ["chunked", "cpu"])
def test_the_weight_gradient_is_summed_in_fp32(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many chunks of equal rows: in bf16 the sum would stand still."""
    monkeypatch.setattr(cpu_cross_entropy, "BUDGET", 1)
    rows = 64 * 512
    hidden = torch.ones(rows, 2, dtype=torch.bfloat16)
    weight = torch.zeros(4, 2, dtype=torch.bfloat16).requires_grad_()
    with mock.patch.dict(chunked.CHUNK_BYTES, cpu=1):
        loss = masked_lm_loss(
            *(hidden, torch.arange(rows), torch.zeros(rows, dtype=torch.int64), nn.Identity(), weight),
            backend=backend,
        )
    loss.backward()
    expected = torch.tensor([[-0.75] * 2, [0.25] * 2, [0.25] * 2, [0.25] * 2])
    torch.testing.assert_close(weight.grad.float(), expected, rtol=1e-2, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("classes", [1, 2, 15, 16, 17, 1023, 5000])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 10.0])
def test_any_number_of_classes(classes: int, scale: float, dtype: torch.dtype) -> None:
    """What fills the C++ code's vectors and blocks, and what does not."""
    if cpu.library() is None:
        pytest.skip("the C++ losses were not built")
    labels = torch.arange(9) * 7 % classes

    def loss(h: Tensor, w: Tensor, b: Tensor, backend: str = "cpu") -> Tensor:
        return masked_lm_loss(h, torch.arange(9), labels, nn.Identity(), w, b, backend=backend)

    def user(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(h, w, b).float(), labels)

    squares = torch.zeros(2, 4)
    for seed in range(24):  # both errors are the rounding of a few logits: they agree in the mean
        hidden, weight, bias = random_states((9, 4), (classes, 4), (classes,), dtype=dtype, seed=seed)
        variables = [hidden * scale, weight, bias]
        exact = value_and_gradients(lambda *x: loss(*x, "reference"), [], [x.double() for x in variables])
        for index, way in enumerate((loss, user)):
            found = value_and_gradients(way, [], variables)
            errors = [float((a.double() - e).square().mean()) for a, e in zip(found, exact, strict=True)]
            squares[index] += torch.tensor(errors)
    ours, plain = squares.sqrt()
    assert (ours <= 2 * plain + 1e-7).all(), (ours, plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_excluded_and_overflowing_classes(dtype: torch.dtype) -> None:
    if cpu.library() is None:
        pytest.skip("the C++ losses were not built")
    hidden, weight = random_states((3, 4), (37, 4), dtype=dtype)
    for value in (-torch.inf, torch.inf, torch.nan, 3e38):
        bias = torch.zeros(37, dtype=dtype)
        bias[5] = value
        found = [
            value_and_gradients(
                lambda h, b=backend, o=bias: masked_lm_loss(
                    h, torch.arange(3), torch.arange(3), nn.Identity(), weight, o, backend=b
                ),
                [],
                [hidden],
            )
            for backend in ("cpu", "reference")
        ]
        torch.testing.assert_close(*found, equal_nan=True, check_dtype=False, rtol=2e-2, atol=1e-2)


def test_a_label_that_is_no_class_is_refused() -> None:
    if cpu.library() is None:
        pytest.skip("the C++ losses were not built")
    hidden, weight = random_states((3, 4), (37, 4), dtype=torch.float32)
    for label in (-1, 37):
        with pytest.raises(ValueError, match=rf"labels go from .*{label}.*: 0 to 36 is needed"):
            masked_lm_loss(
                *(hidden, torch.arange(3), torch.tensor([0, label, 1]), nn.Identity(), weight), backend="cpu"
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_threads_do_not_change_a_bit(dtype: torch.dtype) -> None:
    hidden, weight, bias = random_states((130, 24), (4099, 24), (4099,), dtype=dtype)
    labels = torch.arange(130)
    found = []
    threads = torch.get_num_threads()
    for count in (1, 3):
        torch.set_num_threads(count)
        try:
            found.append(
                cpu_cross_entropy.cross_entropy_terms(
                    *(hidden, weight, bias, labels),
                    label_smoothing=0.1,
                    z_loss=0.1,
                    product=dtype,
                    want_x=False,  # its product, and the weight's, are PyTorch's
                    want_w=False,
                    want_b=True,
                )
            )
        finally:
            torch.set_num_threads(threads)
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][3], found[1][3])
