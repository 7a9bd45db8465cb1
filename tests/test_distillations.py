"""L_DT of MiniLMv2 and DistilBERT against the formulas written out, and what they leave unrun."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_methods import Kit, _gradients, _terms
from tiny import tiny_config, tiny_student
from torch import Tensor
from transformers import BertForPreTraining

from edad_fast.batches import Batch, Shares
from edad_fast.methods.adapt import Adaptation, AdaptationLoss, Execution
from edad_fast.methods.cost import step_cost
from edad_fast.methods.edad import loss_weights
from edad_fast.models import (
    build_pretraining_model,
    capture,
    copy_layers,
    encode,
    exbert_config,
    spread_layers,
)
from edad_fast.training import Stage

RELATIONS = {"distillation": "minilmv2", "relation_heads": 6}


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return Kit(tmp_path_factory.mktemp("kit"))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A student as wide as its teacher, as DistilBERT needs it."""
    file = tiny_student(tmp_path_factory.mktemp("wide") / "student.json", width=24)
    return {"distillation": "distilbert", "student": str(file)}


def _batch(stage: Stage) -> Batch:
    ((batch,),) = stage.batches.iterate(0, 1)
    return batch


def _lively(stage: Stage) -> Stage:
    """With attention and predictions far from uniform, so that fp32 tells one formula from another."""
    with torch.no_grad():
        for name, parameter in stage.objective.named_parameters():
            if (".attention.self." in name or "word_embeddings" in name) and parameter.dim() == 2:
                parameter.mul_(30.0)
    return stage


def _sequences(batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
    """Every segment by itself: its ids [1, n], and the places of its tokens in the flat batch."""
    for row, segments in enumerate(batch.segment_ids):
        for number in range(1, int(segments.max()) + 1):
            places = (segments == number).nonzero().flatten()
            yield batch.input_ids[row, places][None], row * len(segments) + places


def _split(states: Tensor, heads: int) -> Tensor:
    """[1, n, d] -> [heads, n, d / heads]."""
    return states[0].unflatten(-1, (heads, -1)).transpose(0, 1)


def _relations(stage: Stage, batch: Batch, layer: int, heads: int) -> dict[str, Tensor]:
    """MiniLMv2's terms, sequence by sequence, from the projections themselves."""
    models = {"student": (stage.objective.student, 2), "teacher": (stage.objective.teacher, layer)}
    sums = {kind: torch.zeros(()) for kind in ("query", "key", "value")}
    tokens = 0
    for ids, _ in _sequences(batch):
        tokens += ids.numel()
        found: dict[str, dict[str, Tensor]] = {}
        for role, (model, number) in models.items():
            below = model.bert(ids, output_hidden_states=True).hidden_states[number - 1]
            attention = model.bert.encoder.layer[number - 1].attention.self
            found[role] = {kind: _split(getattr(attention, kind)(below), heads) for kind in sums}
        for kind in sums:
            logs = []
            for role in ("student", "teacher"):
                x = found[role][kind]
                logs.append((x @ x.mT / x.shape[-1] ** 0.5).log_softmax(-1))
            sums[kind] = sums[kind] + (logs[1].exp() * (logs[1] - logs[0])).sum()
    return {f"relation_{kind[0]}": total / (heads * tokens) for kind, total in sums.items()}


@pytest.mark.parametrize("layer", [None, 3])
def test_relations_are_those_of_the_paper(kit: Kit, layer: int | None) -> None:
    stage = _lively(kit.stage(method="general_distillation", relation_layer=layer, **RELATIONS))
    batch = _batch(stage)
    assert int(batch.segment_ids.max()) > 1, "rows of several sequences are what can go wrong"
    expected = _relations(stage, batch, layer or 4, 6)
    total = sum(expected.values())
    total.backward()
    gradients = {
        n: p.grad.clone() for n, p in stage.objective.student.named_parameters() if p.grad is not None
    }
    found = _terms(stage, 0.0)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value.item(), rel=1e-4), name
        assert value > 1e-2
    assert found["total"] == pytest.approx(total.item(), rel=1e-4)
    ours = _gradients(stage, 0.0)
    assert {f"student.{name}" for name in gradients} == set(ours), "no projection, no head"
    for name, gradient in gradients.items():
        torch.testing.assert_close(ours[f"student.{name}"], gradient, rtol=1e-3, atol=1e-6, msg=name)


def test_distilberts_three_terms(kit: Kit, wide: dict[str, Any]) -> None:
    stage = kit.stage(method="general_distillation", **wide)
    batch = _batch(stage)
    labels = dict(zip(batch.masked_positions.tolist(), batch.masked_labels.tolist(), strict=True))
    assert labels
    student, teacher = stage.objective.student, stage.objective.teacher
    with torch.no_grad():  # else the first layers, copied from the teacher, differ little
        for parameter in student.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    kl, mlm, cosine, tokens = torch.zeros(()), torch.zeros(()), torch.zeros(()), 0
    for ids, places in _sequences(batch):
        mine = student.bert(ids).last_hidden_state[0]
        theirs = teacher.bert(ids).last_hidden_state[0].detach()
        tokens += len(places)
        cosine = cosine + sum(1 - (a @ b) / (a.norm() * b.norm()) for a, b in zip(mine, theirs, strict=True))
        for here, place in enumerate(places.tolist()):
            if place in labels:
                s = student.cls.predictions(mine[here][None])[0]
                t = teacher.cls.predictions(theirs[here][None])[0].detach()
                p = (t / 2).softmax(-1)
                kl = kl + 4 * (p * (p.log() - (s / 2).log_softmax(-1))).sum()
                mlm = mlm - s.log_softmax(-1)[labels[place]]
    expected = {"logit_kl": kl / len(labels), "distil_mlm": mlm / len(labels), "cosine": cosine / tokens}
    total = 5 * expected["logit_kl"] + 2 * expected["distil_mlm"] + expected["cosine"]
    total.backward()
    gradients = {n: p.grad.clone() for n, p in student.named_parameters() if p.grad is not None}
    found = _terms(stage, 0.0)
    for name, value in {**expected, "total": total}.items():
        assert found[name] == pytest.approx(value.item(), rel=1e-4), name
        assert value > 1e-4
    ours = _gradients(stage, 0.0)
    assert {f"student.{name}" for name in gradients} == set(ours)
    for name, gradient in gradients.items():
        torch.testing.assert_close(ours[f"student.{name}"], gradient, rtol=1e-3, atol=1e-6, msg=name)


def test_weights_of_distilbert_are_options(kit: Kit, wide: dict[str, Any]) -> None:
    def terms_with(**changes: Any) -> dict[str, float]:
        options = {**wide, "method": "general_distillation", "student_init": "fresh", **changes}
        return _terms(_lively(kit.stage(**options)), 0.0)

    terms = terms_with()
    weights = {"kl_weight": 0.0, "student_mlm_weight": 3.0, "cosine_weight": 0.5}
    found = terms_with(**weights)
    assert "logit_kl" not in found
    assert found["total"] == pytest.approx(3 * terms["distil_mlm"] + 0.5 * terms["cosine"], rel=1e-5)
    assert terms_with(kl_temperature=1.0)["logit_kl"] != pytest.approx(terms["logit_kl"], rel=0.1)


@pytest.mark.parametrize("name", ["minilmv2", "distilbert"])
def test_edad_weighs_every_l_dt_alike(kit: Kit, wide: dict[str, Any], name: str) -> None:
    options = RELATIONS if name == "minilmv2" else wide
    stage = kit.stage(**options)
    terms = _terms(stage, 0.25)
    teacher_da, student_da, student_dt = loss_weights("student", 0.25)
    parts = {"minilmv2": {"relation_q": 1, "relation_k": 1, "relation_v": 1},
             "distilbert": {"logit_kl": 5, "distil_mlm": 2, "cosine": 1}}[name]  # fmt: skip
    distillation = sum(weight * terms[term] for term, weight in parts.items())
    expected = teacher_da * terms["teacher_mlm"] + student_da * terms["student_mlm"]
    assert terms["total"] == pytest.approx(expected + student_dt * distillation, rel=1e-5)
    # The teacher's gradient is that of its own loss.
    own, found = _gradients(kit.stage(method="adapt_then_distill", **options), 1.0), _gradients(stage, 0.25)
    for key, gradient in own.items():
        torch.testing.assert_close(found[key.replace("model.", "teacher.", 1)], gradient)


def test_edad_with_relations_is_the_frozen_objective_at_its_start(kit: Kit) -> None:
    """The same relations whether the last layers are run whole or for the masked positions alone."""
    edad = _lively(kit.stage(relation_layer=3, **RELATIONS))
    batch = _batch(edad)
    expected, found = _relations(edad, batch, 3, 6), _terms(edad, 0.5)
    adaptation = Adaptation(edad.objective.teacher, "teacher", 1e-4, AdaptationLoss())
    alone = adaptation(batch, 1.0).terms["teacher_mlm"].item()
    assert found["teacher_mlm"] == pytest.approx(alone, rel=1e-5), "of all its layers"
    for name, value in expected.items():
        assert found[name] == pytest.approx(value.item(), rel=1e-4), name


@pytest.mark.parametrize("name", ["minilmv2", "distilbert"])
@pytest.mark.parametrize("method", ["edad", "general_distillation"])
def test_accumulation_equals_one_large_batch(kit: Kit, wide: dict[str, Any], name: str, method: str) -> None:
    options = {**(RELATIONS if name == "minilmv2" else wide), "method": method, "student_init": "fresh"}
    whole = _gradients(_lively(kit.stage(**options)), 0.5)
    parts = _gradients(_lively(kit.stage(**options, accumulation_steps=3)), 0.5)
    assert set(whole) == set(parts)
    for key, gradient in whole.items():
        torch.testing.assert_close(parts[key], gradient, rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.parametrize("name", ["minilmv2", "distilbert"])
def test_every_term_has_the_share_of_what_it_is_a_mean_over(
    kit: Kit, wide: dict[str, Any], name: str
) -> None:
    options = RELATIONS if name == "minilmv2" else {**wide, "student_init": "fresh"}
    stage = _lively(kit.stage(method="general_distillation", **options))
    batch = _batch(stage)
    parts = Shares(masked=0.2, tokens=0.3, pairs=0.4, rows=0.5)
    whole = stage.objective(dataclasses.replace(batch, shares=Shares()), 0.0)
    part = stage.objective(dataclasses.replace(batch, shares=parts), 0.0)
    for term, value in whole.terms.items():
        share = parts.masked if term in ("logit_kl", "distil_mlm") else parts.tokens
        assert part.terms[term].item() == pytest.approx(share * value.item(), rel=1e-5), term


@pytest.mark.parametrize("name", ["minilmv2", "distilbert"])
@pytest.mark.parametrize("method", ["edad", "general_distillation"])
def test_ways_of_execution_give_the_same_gradients(
    kit: Kit, wide: dict[str, Any], name: str, method: str
) -> None:
    options = {**(RELATIONS if name == "minilmv2" else wide), "method": method, "student_init": "fresh"}
    expected = _gradients(_lively(kit.stage(**options)), 0.5)
    for execution in (Execution(recompute=True), Execution(whole_layers=True)):
        stage = _lively(kit.stage(**options))
        stage.objective.execution = execution
        found = _gradients(stage, 0.5)
        assert set(expected) == set(found)
        for key, gradient in expected.items():
            torch.testing.assert_close(found[key], gradient, msg=key)


def test_nothing_above_the_matched_layer_is_run(kit: Kit) -> None:
    """Of the matched layers their attention alone, of the teacher no layer above, in the FLOPs too."""

    def cost(stage: Stage) -> int:
        return step_cost(
            stage, rows=8, seq_len=32, mlm_probability=0.0, accumulation_steps=1, bf16=False
        ).flops

    stages = {
        layer: kit.stage(method="general_distillation", relation_layer=layer, **RELATIONS) for layer in (1, 4)
    }
    width, tokens = 24, 8 * 32
    products = tokens * (2 * 4 * width**2 + 2 * 2 * width * 2 * width)
    attention = tokens * 2 * 2 * 32 * width  # which torch does not count on every device
    assert 3 * products <= cost(stages[4]) - cost(stages[1]) <= 3 * (products + attention)
    stage = kit.stage(method="general_distillation", relation_layer=2, **RELATIONS)
    expected = _gradients(stage, 0.0)
    teacher, student = stage.objective.teacher.bert.encoder, stage.objective.student.bert.encoder
    for layer in teacher.layer[2:]:
        layer.forward = None  # calling it fails
    for layer in (teacher.layer[1], student.layer[1]):
        layer.intermediate.forward = None
    found = _gradients(stage, 0.0)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


@pytest.mark.parametrize("name", ["minilmv2", "distilbert"])
def test_a_frozen_teacher_in_bf16(kit: Kit, wide: dict[str, Any], name: str) -> None:
    options = {**(RELATIONS if name == "minilmv2" else {**wide, "student_init": "fresh"})}
    options["method"] = "general_distillation"
    with torch.autocast("cpu", torch.bfloat16):
        expected = _terms(_lively(kit.stage(**options)), 0.0)
        found = _terms(_lively(kit.stage(**options, frozen_teacher="bf16")), 0.0)
    assert found == pytest.approx(expected, rel=0.1)
    assert found != expected


@pytest.mark.parametrize("extension", [None, (8, 16)], ids=["bert", "exbert"])
@pytest.mark.parametrize("interface", [True, False], ids=["interface", "projections"])
def test_captured_values_are_the_projections(
    monkeypatch: pytest.MonkeyPatch, extension: tuple[int, int] | None, interface: bool
) -> None:
    """Through transformers' attention interface, and through the projections as before transformers 5."""
    if interface and not capture._INTERFACE:
        pytest.skip("BERT does not obey the attention interface before transformers 5")
    monkeypatch.setattr(capture, "_INTERFACE", interface)
    torch.manual_seed(0)
    base = tiny_config(50)
    model = build_pretraining_model(base if extension is None else exbert_config(base, extension, 0.0)).eval()
    ids = torch.randint(5, 50, (2, 9))
    output = encode(model, ids, score_layers=(2, 4), values=True)
    for number in (2, 4):
        layer = model.bert.encoder.layer[number - 1]
        attention = getattr(layer, "original", layer).attention.self
        for name in ("query", "key", "value"):
            expected = getattr(attention, name)(output.hidden_states[number - 1])
            captured = {"query": output.queries, "key": output.keys, "value": output.values}[name]
            torch.testing.assert_close(captured[number - 1].transpose(1, 2).flatten(2), expected, msg=name)
    assert output.values[0].numel() == 0
    assert not output.detach().values[1].requires_grad
    assert encode(model, ids, score_layers=(2,)).values == ()


def test_an_exbert_pair_is_distilled_through_relations(kit: Kit) -> None:
    extensions = {"teacher_extension": [8, 16], "student_extension": [4, 8]}
    stage = kit.stage(teacher_arch="exbert", student_arch="exbert", **extensions, **RELATIONS)
    terms = _terms(stage, 0.5)
    assert all(terms[f"relation_{kind}"] > 0 for kind in "qkv")
    assert any("extension" in name for name in _gradients(stage, 0.0))


@pytest.mark.parametrize(
    ("student", "teacher", "layers"),
    [(6, 12, [1, 3, 5, 8, 10, 12]), (2, 4, [1, 4]), (4, 4, [1, 2, 3, 4]), (1, 4, [1]), (3, 12, [1, 7, 12])],
)
def test_layers_that_a_student_starts_from(student: int, teacher: int, layers: list[int]) -> None:
    assert spread_layers(student, teacher) == layers


@pytest.mark.parametrize("extension", [None, (8, 16)], ids=["bert", "exbert"])
def test_copied_layers_are_the_teachers(extension: tuple[int, int] | None) -> None:
    torch.manual_seed(0)
    base = tiny_config(50)
    teacher = build_pretraining_model(base if extension is None else exbert_config(base, extension, 0.0))
    shape = tiny_config(50, layers=2)
    shape.max_position_embeddings = 96
    student = BertForPreTraining(shape)
    beyond = student.bert.embeddings.position_embeddings.weight[64:].clone()
    copy_layers(student, teacher)
    theirs, mine = teacher.state_dict(), student.state_dict()
    inside = "" if extension is None else "original."
    for name, tensor in mine.items():
        source = name.replace("encoder.layer.1.", "encoder.layer.3.")
        for number in (0, 3):
            source = source.replace(f"encoder.layer.{number}.", f"encoder.layer.{number}.{inside}")
        if "position_embeddings" in name:
            assert torch.equal(tensor[:64], theirs[source])
            assert torch.equal(tensor[64:], beyond)
        elif "position_ids" not in name and "token_type_ids" not in name:
            assert torch.equal(tensor, theirs[source]), name


def test_distilbert_starts_from_the_teacher_where_the_widths_agree(
    kit: Kit, wide: dict[str, Any], tmp_path: Path
) -> None:
    def first_layer(**changes: Any) -> tuple[Tensor, Tensor]:
        parts = kit.parts(**{**wide, "method": "general_distillation", **changes})
        weights = [
            m.bert.encoder.layer[0].attention.self.query.weight for m in (parts.student, parts.teacher)
        ]
        new = [m.bert.embeddings.word_embeddings.weight for m in (parts.student, parts.teacher)]
        assert torch.equal(*weights) == torch.equal(*new)
        return weights[0], weights[1]

    assert torch.equal(*first_layer())
    assert not torch.equal(*first_layer(student_init="fresh"))
    assert not torch.equal(*first_layer(distillation="tinybert"))
    assert torch.equal(*first_layer(distillation="tinybert", student_init="teacher_layers"))
    narrow = str(tiny_student(tmp_path / "narrow.json"))
    parts = kit.parts(
        method="general_distillation", distillation="distilbert", student=narrow, cosine_weight=0.0
    )
    assert parts.student.config.hidden_size == 12


def test_no_masked_position_is_no_error(kit: Kit, wide: dict[str, Any]) -> None:
    stage = kit.stage(method="general_distillation", **wide)
    batch = _batch(stage)
    none = batch.masked_positions[:0]
    loss = stage.objective(dataclasses.replace(batch, masked_positions=none, masked_labels=none), 0.0)
    assert loss.terms["logit_kl"] == loss.terms["distil_mlm"] == 0
    loss.total.backward()
    assert loss.total.item() == loss.terms["cosine"].item()
