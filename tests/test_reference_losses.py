"""The definition of the losses against plain re-statements of what was published."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM

from edad_fast.kernels import attention_score_mse, hidden_state_mse, masked_lm_loss, next_sentence_loss


def states(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def tinybert_attention_loss(sq: Tensor, sk: Tensor, tq: Tensor, tk: Tensor, mask: Tensor) -> Tensor:
    """TinyBERT's rule as its general_distill.py and modeling.py state it."""
    extended = (1.0 - mask[:, None, None, :].to(sq.dtype)) * -10000.0
    student = torch.matmul(sq, sk.transpose(-1, -2)) / math.sqrt(sq.shape[-1]) + extended
    teacher = torch.matmul(tq, tk.transpose(-1, -2)) / math.sqrt(tq.shape[-1]) + extended
    student = torch.where(student <= -1e2, torch.zeros_like(student), student)
    teacher = torch.where(teacher <= -1e2, torch.zeros_like(teacher), teacher)
    return nn.MSELoss()(student, teacher)


def loop_attention_loss(
    sq: Tensor, sk: Tensor, tq: Tensor, tk: Tensor, segments: list[list[int]], mode: str
) -> float:
    """Pair by pair, with the rule for packed rows written out."""
    batch, heads, length, _ = sq.shape
    total, pairs = 0.0, 0
    for b in range(batch):
        for i in range(length):
            for j in range(length):
                query, key = segments[b][i], segments[b][j]
                counts = key > 0 and query == key
                if mode == "tinybert" and key > 0 and query == 0:
                    counts = True
                if not counts:
                    continue
                pairs += heads
                for h in range(heads):
                    student = float(sq[b, h, i] @ sk[b, h, j]) / math.sqrt(sq.shape[-1])
                    teacher = float(tq[b, h, i] @ tk[b, h, j]) / math.sqrt(tq.shape[-1])
                    total += (student - teacher) ** 2
    return total / (batch * heads * length * length if mode == "tinybert" else pairs)


RAGGED = torch.tensor(
    [[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]]
).bool()
PACKED = [[1, 1, 1, 2, 2, 0, 0], [1, 2, 2, 2, 3, 3, 3], [0, 0, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_attention_is_tinyberts_loss_with_its_gradients(backend: str) -> None:
    sq, sk, tq, tk = states((4, 3, 7, 5), (4, 3, 7, 5), (4, 3, 7, 8), (4, 3, 7, 8))
    results = []
    for loss in (tinybert_attention_loss, attention_score_mse):
        q, k = sq.clone().requires_grad_(), sk.clone().requires_grad_()
        extra = {"backend": backend} if loss is attention_score_mse else {}
        value = loss(q, k, tq, tk, RAGGED, **extra)
        results.append([value.detach(), *torch.autograd.grad(value, (q, k))])
    torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-15)
    # Padded query rows against tokens do count: a loss without them would differ.
    tokens_only = attention_score_mse(sq, sk, tq, tk, RAGGED, mode="valid_pairs", backend=backend)
    assert not torch.isclose(tokens_only * RAGGED.sum(1).square().sum() / (4 * 49), results[0][0])


def test_attention_without_padding_is_the_plain_mse() -> None:
    sq, sk, tq, tk = states((2, 3, 6, 4), (2, 3, 6, 4), (2, 3, 6, 4), (2, 3, 6, 4))
    expected = F.mse_loss(sq @ sk.mT / 2, tq @ tk.mT / 2)
    everything = torch.ones(2, 6, dtype=torch.bool)
    for mode in ("tinybert", "valid_pairs"):
        for mask in (None, everything, everything.int()):
            value = attention_score_mse(sq, sk, tq, tk, mask, mode=mode, backend="reference")
            torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("mode", ["tinybert", "valid_pairs"])
@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_packed_rows_follow_the_written_rule(mode: str, backend: str) -> None:
    tensors = states((3, 2, 7, 3), (3, 2, 7, 3), (3, 2, 7, 4), (3, 2, 7, 4))
    value = attention_score_mse(*tensors, torch.tensor(PACKED), mode=mode, backend=backend)
    assert float(value) == pytest.approx(loop_attention_loss(*tensors, PACKED, mode), rel=1e-12)


def test_valid_pairs_does_not_depend_on_padding_or_on_packing() -> None:
    sq, sk, tq, tk = states((2, 2, 4, 3), (2, 2, 4, 3), (2, 2, 4, 3), (2, 2, 4, 3))
    alone = attention_score_mse(sq, sk, tq, tk, mode="valid_pairs", backend="reference")
    packed = [torch.cat([x[:1], x[1:], x[:1] * 7], dim=2) for x in (sq, sk, tq, tk)]
    segments = torch.tensor([[1] * 4 + [2] * 4 + [0] * 4])
    value = attention_score_mse(*packed, segments, mode="valid_pairs", backend="reference")
    torch.testing.assert_close(value, alone)


def test_scales_are_those_given() -> None:
    sq, sk, tq, tk = states((1, 2, 5, 4), (1, 2, 5, 4), (1, 2, 5, 4), (1, 2, 5, 4))
    value = attention_score_mse(sq, sk, tq, tk, student_scale=0.3, teacher_scale=2.0, backend="reference")
    torch.testing.assert_close(value, F.mse_loss(0.3 * sq @ sk.mT, 2.0 * tq @ tk.mT))


@pytest.mark.parametrize("mode", ["tinybert", "valid_pairs"])
def test_gradcheck_of_the_attention_reference_teacher_included(mode: str) -> None:
    tensors = [x.requires_grad_() for x in states((2, 2, 4, 3), (2, 2, 4, 3), (2, 2, 4, 2), (2, 2, 4, 2))]
    segments = torch.tensor([[1, 1, 2, 0], [1, 1, 1, 1]])

    def loss(*x: Tensor) -> Tensor:
        return attention_score_mse(*x, segments, mode=mode, backend="reference")

    assert torch.autograd.gradcheck(loss, tensors)


def test_hidden_states_are_compared_as_tinybert_does() -> None:
    student, teacher, weight, bias = states((3, 7, 4), (3, 7, 6), (6, 4), (6,))
    projected = F.linear(student, weight, bias)
    mask = torch.tensor(PACKED)
    whole = hidden_state_mse(student, teacher, weight, bias, mask, backend="reference")
    torch.testing.assert_close(whole, nn.MSELoss()(projected, teacher))
    valid = hidden_state_mse(student, teacher, weight, bias, mask, mode="valid", backend="reference")
    torch.testing.assert_close(valid, nn.MSELoss()(projected[mask > 0], teacher[mask > 0]))
    same_width = hidden_state_mse(student, teacher[..., :4], backend="auto")
    torch.testing.assert_close(same_width, nn.MSELoss()(student, teacher[..., :4]))


def test_gradcheck_of_the_hidden_reference_teacher_included() -> None:
    tensors = [x.requires_grad_() for x in states((2, 3, 4), (2, 3, 5), (5, 4), (5,))]
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])

    def loss(*x: Tensor) -> Tensor:
        return hidden_state_mse(*x, mask, mode="valid", backend="reference")

    assert torch.autograd.gradcheck(loss, tensors)


@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_masked_lm_loss_is_the_dense_heads_with_all_gradients(backend: str) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=53, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    head = BertForMaskedLM(config).double().cls.predictions
    nn.init.normal_(head.decoder.bias)
    hidden = torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)
    positions = torch.tensor([0, 4, 7, 14, 9])
    labels = torch.tensor([52, 0, 17, 3, 17])
    dense_labels = torch.full((15,), -100).scatter(0, positions, labels)
    inputs = [hidden, *head.parameters()]

    dense = F.cross_entropy(head(hidden).view(-1, 53), dense_labels, ignore_index=-100)
    gathered = masked_lm_loss(
        hidden,
        positions,
        labels,
        head.transform,
        head.decoder.weight,
        head.decoder.bias,
        backend=backend,
    )
    torch.testing.assert_close(gathered, dense, rtol=1e-12, atol=0)
    for ours, theirs in zip(
        torch.autograd.grad(gathered, inputs), torch.autograd.grad(dense, inputs), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_nothing_masked_gives_zero_with_zero_gradients(backend: str) -> None:
    torch.manual_seed(0)
    transform, decoder = nn.Linear(4, 4), nn.Linear(4, 9)
    hidden = torch.full((2, 3, 4), math.inf, requires_grad=True)
    nothing = torch.empty(0, dtype=torch.int64)
    value = masked_lm_loss(hidden, nothing, nothing, transform, decoder.weight, decoder.bias, backend=backend)
    assert value == 0
    value.backward()
    for x in (hidden, transform.weight, decoder.weight, decoder.bias):
        assert x.grad is not None
        assert not x.grad.any()


def test_next_sentence_loss_is_the_mean_cross_entropy() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [math.log(4.0), 0.0]])
    value = next_sentence_loss(logits, torch.tensor([0, 0]))
    assert float(value) == pytest.approx((math.log(4.0) + math.log(1.25)) / 2)
    assert next_sentence_loss(logits.bfloat16(), torch.tensor([0, 1])).dtype == torch.float32
