"""The public loss modules."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from loss_cases import plain_attention, ragged, random_states
from torch import nn

from edad_fast.errors import InputError
from edad_fast.losses import (
    AttentionScoreMSE,
    DistillationLoss,
    HiddenStateMSE,
    LogitKL,
    MaskedLMHead,
    RelationKL,
    hidden_state_mse,
    layer_map,
)


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


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DistillationLoss(6, 8, [(1, 2)], backend="nonsense", attention_weight=0.0), ["nonsense"]),
        (lambda: DistillationLoss(6, 8, [(1, 2)], mode="valid"), ["'valid'", "valid_pairs"]),
        (lambda: AttentionScoreMSE("pairs"), ["'pairs'", "valid_pairs"]),
        (lambda: AttentionScoreMSE(head_match="nearest"), ["'nearest'", "regroup"]),
        (lambda: AttentionScoreMSE(algorithm="quick"), ["'quick'", "linear"]),
        (lambda: HiddenStateMSE("pairs"), ["'pairs'", "valid"]),
        (lambda: HiddenStateMSE(backend="cpu"), ["'cpu'", "no code"]),
        (lambda: RelationKL(0), ["relation_heads is 0"]),
        (lambda: RelationKL(-8), ["relation_heads is -8"]),
        (lambda: RelationKL(backend="cpu"), ["'cpu'", "no code"]),
        (lambda: RelationKL()({"q": (torch.ones(3), torch.ones(3))}), ["q of the student is [3]"]),
        (lambda: RelationKL()({"q": (torch.ones(1, 2, 3, 4), [1])}), ["q of the teacher is a list"]),
        (lambda: RelationKL(5)({"q": (torch.ones(1, 2, 3, 4),) * 2}), ["8, must be a multiple of 5"]),
        (lambda: RelationKL()((torch.ones(1, 2, 3, 4),) * 2), ["relations are a tuple", "a dict"]),
        (lambda: HiddenStateMSE()(3, 3), ["teacher_hidden is a int"]),
        (lambda: HiddenStateMSE()(torch.ones(2, 0), torch.ones(2, 0)), ["a width of 1"]),
        (
            lambda: MaskedLMHead()(torch.ones(2, 4), torch.tanh, None, None, *[torch.tensor([0])] * 2),
            ["decoder_weight is a NoneType"],
        ),
        (lambda: LogitKL(0.0), ["temperature is 0.0"]),
        (lambda: LogitKL(backend="fast"), ["'fast'"]),
        (lambda: LogitKL()(torch.ones(2, 0), torch.ones(2, 0)), ["one class"]),
        (lambda: LogitKL()(torch.ones(2, 3), (1.0,)), ["teacher_logits is a tuple"]),
        (lambda: LogitKL()((1.0,), torch.ones(2, 3)), ["student_logits is a tuple"]),
        (lambda: MaskedLMHead(backend="cuda"), ["'cuda'", "no code"]),
        (lambda: MaskedLMHead(label_smoothing=2.0), ["label_smoothing is 2.0"]),
        (lambda: MaskedLMHead(z_loss=-1.0), ["z_loss is -1.0"]),
    ],
)
def test_what_a_module_cannot_do_is_said_at_once(make: Callable[[], Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        make()
    for word in words:
        assert word in str(caught.value)


def test_an_unknown_term_of_scale_is_refused() -> None:
    student = captured(2, 6, 2, 3, grad=False, seed=0)
    with pytest.raises(ValueError, match=r"\['atention'\].*'attention'"):
        DistillationLoss(6, 6, [(1, 1)]).double()(student, student, scale={"atention": 0.5})


def test_modules_show_their_options() -> None:
    shown = {
        AttentionScoreMSE("valid_pairs"): "mode='valid_pairs', head_match='auto', backend='auto', algorithm",
        HiddenStateMSE("valid"): "mode='valid', backend='auto'",
        RelationKL(48, {"q": 2.0}): "relation_heads=48, weights={'q': 2.0}, backend='auto'",
        LogitKL(2.0): "temperature=2.0, backend='auto'",
        MaskedLMHead(z_loss=0.1): "backend='auto', label_smoothing=0.0, z_loss=0.1",
        DistillationLoss(6, 8, [(1, 2)]): "pairs=[(1, 2)], hidden_weight=1.0, attention_weight=1.0",
    }
    for module, words in shown.items():
        assert words in repr(module)


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
    named = [HiddenStateMSE(x)(hidden, teacher, weight, bias, mask) for x in ("valid", "valid_pairs")]
    assert torch.equal(*named)
    assert torch.equal(
        *(
            hidden_state_mse(hidden, teacher, weight, bias, mask, mode=x, backend="reference")
            for x in ("valid", "valid_pairs")
        )
    )
    positions, labels = torch.tensor([3, 8]), torch.tensor([5, 0])
    torch.testing.assert_close(
        MaskedLMHead()(hidden, torch.tanh, weight, bias, positions, labels),
        F.cross_entropy(F.linear(torch.tanh(hidden.view(-1, 4)[positions]), weight, bias), labels),
    )
