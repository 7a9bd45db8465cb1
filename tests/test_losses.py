"""The public loss modules."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from loss_cases import plain_attention, ragged, random_states
from torch import nn

from edad_fast.errors import InputError
from edad_fast.losses import DistillationLoss, HiddenStateMSE, MaskedLMHead, layer_map


def captured(
    layers: int, width: int, heads: int, head_width: int, *, grad: bool, seed: int
) -> SimpleNamespace:
    batch, length = 3, 7
    tensors = random_states(
        *[(batch, length, width)] * (layers + 1),
        *[(batch, heads, length, head_width)] * (2 * layers),
        seed=seed,
    )
    tensors = [x.requires_grad_(grad) for x in tensors]
    return SimpleNamespace(
        hidden_states=tuple(tensors[: layers + 1]),
        queries=tuple(tensors[layers + 1 : 2 * layers + 1]),
        keys=tuple(tensors[2 * layers + 1 :]),
    )


SEGMENTS = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 2 + [0] * 5], dtype=torch.int32)


@pytest.mark.parametrize("backend", ["auto", "reference", "chunked"])
def test_distillation_loss_is_tinyberts_general_distillation(backend: str) -> None:
    student = captured(2, 6, 2, 3, grad=True, seed=0)
    teacher = captured(4, 8, 2, 4, grad=True, seed=1)
    loss = DistillationLoss(6, 8, layer_map("uniform", 2, 4), backend=backend).double()
    result = loss(student, teacher, SEGMENTS)

    mask = SEGMENTS > 0
    attention = [
        plain_attention(
            student.queries[m - 1],
            student.keys[m - 1],
            teacher.queries[g - 1].detach(),
            teacher.keys[g - 1].detach(),
            mask,
        )
        for m, g in ((1, 2), (2, 4))
    ]
    hidden = [
        nn.MSELoss()(loss.fit_dense(student.hidden_states[m]), teacher.hidden_states[g].detach())
        for m, g in ((0, 0), (1, 2), (2, 4))
    ]
    total = sum(attention) + sum(hidden)
    torch.testing.assert_close(result.total, total)
    torch.testing.assert_close(
        result.terms, {"attention": sum(attention).detach(), "hidden": sum(hidden).detach()}
    )
    torch.testing.assert_close(
        result.layers, {"attention": torch.stack(attention).detach(), "hidden": torch.stack(hidden).detach()}
    )
    assert not any(x.requires_grad for x in [*result.terms.values(), *result.layers.values()])
    leaves = [*student.hidden_states, *student.queries, *student.keys, *loss.parameters()]
    torch.testing.assert_close(torch.autograd.grad(result.total, leaves), torch.autograd.grad(total, leaves))
    assert all(x.grad is None for x in teacher.hidden_states)
    assert loss.applied == "equal: 2 heads"


def test_distillation_weights_scales_and_options() -> None:
    student = captured(2, 6, 2, 3, grad=False, seed=0)
    teacher = captured(4, 6, 3, 4, grad=False, seed=1)
    pairs = layer_map("last", 2, 4)
    loss = DistillationLoss(
        6, 6, pairs, attention_weight=0.25, hidden_weight=3.0, mode="valid_pairs"
    ).double()
    result = loss(student, teacher, SEGMENTS)
    torch.testing.assert_close(result.total, 0.25 * result.terms["attention"] + 3.0 * result.terms["hidden"])
    assert loss.applied == "regrouped: 2 student and 3 teacher heads to 1"
    mask = SEGMENTS > 0
    fitted = loss.fit_dense(student.hidden_states[2])
    torch.testing.assert_close(
        result.layers["hidden"][2], F.mse_loss(fitted[mask], teacher.hidden_states[4][mask]).detach()
    )
    scaled = loss(student, teacher, SEGMENTS, scale={"attention": 0.5, "hidden": 0.125})
    torch.testing.assert_close(scaled.terms["attention"], 0.5 * result.terms["attention"])
    torch.testing.assert_close(scaled.terms["hidden"], 0.125 * result.terms["hidden"])

    separate = DistillationLoss(6, 6, pairs, include_embeddings=False, share_projection=False).double()
    assert [p.shape for p in separate.parameters()] == [(6, 6), (6,)] * 2
    value = separate(student, teacher, SEGMENTS)
    assert value.layers["hidden"].shape == (2,)
    value.total.backward()
    assert all(p.grad is not None for p in separate.parameters())


def test_a_term_of_weight_zero_asks_for_nothing() -> None:
    student = captured(2, 6, 2, 3, grad=False, seed=0)
    teacher = captured(4, 8, 2, 4, grad=False, seed=1)
    pairs = layer_map("uniform", 2, 4)
    bare = [SimpleNamespace(hidden_states=x.hidden_states, queries=(), keys=()) for x in (student, teacher)]
    hidden_only = DistillationLoss(6, 8, pairs, attention_weight=0.0).double()
    assert set(hidden_only(*bare).terms) == {"hidden"}
    attention_only = DistillationLoss(6, 8, pairs, hidden_weight=0.0)
    assert list(attention_only.parameters()) == []
    assert set(attention_only(student, teacher).terms) == {"attention"}


def test_the_paper_size_projection_has_its_parameter_count() -> None:
    with torch.device("meta"):
        loss = DistillationLoss(312, 768, layer_map("uniform", 4, 12))
    assert {name: tuple(p.shape) for name, p in loss.named_parameters()} == {
        "fit_dense.weight": (768, 312),
        "fit_dense.bias": (768,),
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"attention_weight": -1.0}, ["attention_weight", "-1.0"]),
        ({"hidden_weight": math.nan}, ["hidden_weight", "nan"]),
        ({"attention_weight": 0.0, "hidden_weight": 0.0}, ["both 0"]),
        ({"pairs": []}, ["empty"]),
    ],
)
def test_bad_distillation_options_are_explained(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        DistillationLoss(6, 8, **{"pairs": [(1, 2)], **options})
    for word in words:
        assert word in str(caught.value)


def test_a_layer_that_was_not_captured_is_named() -> None:
    student = captured(2, 6, 2, 3, grad=False, seed=0)
    teacher = captured(4, 8, 2, 4, grad=False, seed=1)
    loss = DistillationLoss(6, 8, [(1, 2), (2, 5)]).double()
    with pytest.raises(ValueError, match="teacher hidden_states holds 5 tensors, number 5"):
        loss(student, teacher)
    teacher.queries = teacher.keys = (torch.empty(0),) * 4
    with pytest.raises(ValueError, match=r"teacher's queries are .*was this layer captured"):
        DistillationLoss(6, 8, [(1, 2)], hidden_weight=0.0)(student, teacher)


def test_modules_call_what_they_say() -> None:
    hidden, teacher, weight, bias = random_states((2, 5, 4), (2, 5, 6), (6, 4), (6,))
    mask = ragged(2, 5)
    torch.testing.assert_close(
        HiddenStateMSE(mode="valid")(hidden, teacher.requires_grad_(), weight, bias, mask),
        F.mse_loss(F.linear(hidden, weight, bias)[mask], teacher[mask]).detach(),
    )
    positions, labels = torch.tensor([3, 8]), torch.tensor([5, 0])
    torch.testing.assert_close(
        MaskedLMHead()(hidden, torch.tanh, weight, bias, positions, labels),
        F.cross_entropy(F.linear(torch.tanh(hidden.view(-1, 4)[positions]), weight, bias), labels),
    )
