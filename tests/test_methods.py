"""What each objective optimises: weights of the terms, who gets gradients, accumulation."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from tiny import tiny_corpus, tiny_student, tiny_teacher
from transformers import PreTrainedModel

from edad_fast.config import TrainConfig
from edad_fast.methods import adapt
from edad_fast.methods.adapt import Execution
from edad_fast.methods.cost import step_cost
from edad_fast.methods.edad import loss_weights
from edad_fast.methods.prepare import (
    Data,
    build_student,
    build_teacher,
    load_data,
    rows_per_step,
    stage_steps,
    train_stream,
)
from edad_fast.methods.stages import Ingredients, build_stages
from edad_fast.models import encode
from edad_fast.training import Stage


class Kit:
    """Fresh models over one tiny corpus; every `stage` call starts from the same weights."""

    def __init__(self, folder: Path) -> None:
        self.config = TrainConfig(
            teacher=str(tiny_teacher(folder / "teacher")),
            corpus=[str(tiny_corpus(folder / "corpus.txt"))],
            student=str(tiny_student(folder / "student.json")),
            vocab_size="90",
            seq_len=32,
            batch_tokens=256,
        )
        self.data: Data = load_data(self.config, folder)

    def parts(self, **changes: object) -> Ingredients:
        config = TrainConfig(**{**vars(self.config), **changes})  # type: ignore[arg-type]
        teacher = build_teacher(config, self.data)
        student = build_student(config, self.data)
        rows = rows_per_step(config, self.data.shards)
        return Ingredients(
            config, teacher, student, lambda p: train_stream(config, self.data, rows, p, False), steps=4
        )

    def stage(self, number: int = 0, **changes: object) -> Stage:
        return build_stages(self.parts(**changes))[number]()


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return Kit(tmp_path_factory.mktemp("kit"))


def _gradients(stage: Stage, alpha: float) -> dict[str, torch.Tensor]:
    stage.objective.train().zero_grad()
    (batches,) = stage.batches.iterate(0, 1)
    for batch in batches:
        stage.objective(batch, alpha).total.backward()
    return {name: p.grad.clone() for name, p in stage.objective.named_parameters() if p.grad is not None}


def _terms(stage: Stage, alpha: float) -> dict[str, float]:
    (batches,) = stage.batches.iterate(0, 1)
    terms: dict[str, float] = {}
    for batch in batches:
        loss = stage.objective(batch, alpha)
        for name, value in {"total": loss.total, **loss.terms}.items():
            terms[name] = terms.get(name, 0.0) + value.item()
    return terms


def test_loss_weights_of_the_three_readings() -> None:
    assert loss_weights("student", 0.25) == (1.0, 0.25, 0.75)
    assert loss_weights("teacher_student", 0.25) == (0.25, 0.25, 0.75)
    assert loss_weights("per_model", 0.25) == (0.25, 0.0, 0.75)


@pytest.mark.parametrize("scope", ["student", "teacher_student", "per_model"])
def test_total_is_the_weighted_sum(kit: Kit, scope: str) -> None:
    stage = kit.stage(alpha_scope=scope)
    terms = _terms(stage, 0.25)
    teacher_da, student_da, student_dt = loss_weights(scope, 0.25)  # type: ignore[arg-type]
    expected = teacher_da * terms["teacher_mlm"] + student_dt * (terms["attention"] + terms["hidden"])
    if student_da:
        expected += student_da * terms["student_mlm"]
    else:
        assert "student_mlm" not in terms
    assert terms["total"] == pytest.approx(expected, rel=1e-5)


def test_the_teacher_learns_from_its_own_loss_only(kit: Kit) -> None:
    """Its gradient is that of plain adaptation, whatever alpha gives the student."""
    edad = kit.stage()
    adapt = kit.stage(method="adapt_then_distill")
    expected = _gradients(adapt, 1.0)
    for alpha in (0.0, 0.5, 1.0):
        found = _gradients(edad, alpha)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name.replace("model.", "teacher.", 1)], gradient)


def test_the_ends_of_alpha_train_one_side_of_the_student(kit: Kit) -> None:
    stage = kit.stage()
    adaptation, distillation = _gradients(stage, 1.0), _gradients(stage, 0.0)
    assert not any(name.startswith("distillation") for name in adaptation)
    assert any(name.startswith("student.cls") for name in adaptation)
    assert not any(name.startswith("student.cls.predictions.transform") for name in distillation)
    assert any(name.startswith("distillation") for name in distillation)


def test_general_distillation_freezes_the_teacher_and_sees_unmasked_text(kit: Kit) -> None:
    adapt = kit.stage(0, method="adapt_then_distill")
    distil = kit.stage(1, method="adapt_then_distill")
    gradients = _gradients(distil, 0.0)
    assert gradients
    assert not any(name.startswith("teacher") for name in gradients)
    assert not distil.objective.teacher.training
    (masked,), (plain,) = next(adapt.batches.iterate(0, 1)), next(distil.batches.iterate(0, 1))
    assert len(masked.masked_positions)
    assert not len(plain.masked_positions)
    restored = masked.input_ids.flatten().clone()
    restored[masked.masked_positions] = masked.masked_labels
    assert torch.equal(restored, plain.input_ids.flatten())


@pytest.mark.parametrize(
    "changes",
    [{}, {"attention_mode": "valid_pairs"}, {"nsp": True}, {"method": "adapt_then_distill"}],
    ids=["tinybert", "valid_pairs", "nsp", "adapt"],
)
def test_accumulation_equals_one_large_batch(kit: Kit, changes: dict[str, object]) -> None:
    whole = _gradients(kit.stage(**changes), 0.5)
    parts = _gradients(kit.stage(**changes, accumulation_steps=3), 0.5)
    assert set(whole) == set(parts)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    "changes",
    [
        {"teacher_arch": "exbert", "teacher_extension": [8, 16]},
        {"student_arch": "exbert", "student_extension": [4, 8]},
        {"head_match": "mean"},
        {"layer_map": "2,4"},
        {"layer_map": "last"},
    ],
)
def test_variants_give_finite_losses(kit: Kit, changes: dict[str, object]) -> None:
    stage = kit.stage(**changes)
    assert all(torch.isfinite(g).all() for g in _gradients(stage, 0.5).values())


def test_unequal_heads_are_matched(kit: Kit, tmp_path: Path) -> None:
    stage = kit.stage(student=str(tiny_student(tmp_path / "s.json", width=12, heads=6)))
    assert _terms(stage, 0.5)["attention"] > 0
    with pytest.raises(ValueError, match=r"6.*4|4.*6"):
        _terms(kit.stage(student=str(tmp_path / "s.json"), head_match="equal"), 0.5)


def test_models_start_from_the_seed(kit: Kit) -> None:
    def weights(seed: int) -> tuple[PreTrainedModel, PreTrainedModel]:
        parts = kit.parts(seed=seed)
        return parts.teacher, parts.student

    first, again, other = weights(1), weights(1), weights(2)
    for model, same, different in zip(first, again, other, strict=True):
        key = (
            "cls.predictions.transform.dense.weight"
            if model is first[1]
            else "bert.embeddings.word_embeddings.weight"
        )
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), same.parameters(), strict=True))
        if model is first[1]:
            assert not torch.equal(model.state_dict()[key], different.state_dict()[key])


@pytest.mark.parametrize(
    ("changes", "rows", "steps"),
    [
        ({"batch_tokens": None, "max_tokens": 1_000_000, "seq_len": 128}, 32, 244),
        ({"batch_tokens": None, "max_tokens": 10_000_000_000, "seq_len": 128}, 256, 305_175),
        ({"batch_tokens": None, "max_tokens": 10_000, "seq_len": 128}, 16, 4),
        ({"batch_tokens": 1024, "max_steps": 7, "seq_len": 32}, 32, 7),
        ({"batch_tokens": 1024, "epochs": 2.0, "seq_len": 32}, 32, 20),
    ],
)
def test_budgets(kit: Kit, changes: dict[str, object], rows: int, steps: int) -> None:
    config = TrainConfig(**changes)  # type: ignore[arg-type]
    assert rows_per_step(config, kit.data.shards) == rows
    assert stage_steps(config, rows, steps_per_epoch=10) == steps


def test_step_cost_counts_products_and_states(kit: Kit) -> None:
    stage = kit.stage()
    cost = step_cost(stage, rows=8, seq_len=32, mlm_probability=0.15, accumulation_steps=1, bf16=False)
    # Without sentence pairs pooler and NSP head are frozen: no gradient, no optimiser state.
    parameters = [p for p in stage.objective.parameters() if p.requires_grad]
    frozen = [p for p in stage.objective.parameters() if not p.requires_grad]
    assert cost.weight_bytes == sum(16 * p.numel() for p in parameters) + sum(4 * p.numel() for p in frozen)
    assert len(frozen) == 2 * 4
    double = step_cost(stage, rows=16, seq_len=32, mlm_probability=0.15, accumulation_steps=1, bf16=False)
    assert double.flops == pytest.approx(2 * cost.flops, rel=0.01)
    assert double.activation_bytes > 1.8 * cost.activation_bytes
    body = sum(p.numel() for m in (stage.objective.teacher, stage.objective.student)
               for n, p in m.bert.encoder.named_parameters() if p.dim() == 2)  # fmt: skip
    assert cost.flops > 6 * body * 8 * 32


@pytest.mark.parametrize("method", ["edad", "general_distillation"])
def test_recomputed_layers_give_the_same_gradients(kit: Kit, method: str) -> None:
    plain, recomputed = kit.stage(method=method), kit.stage(method=method)
    recomputed.objective.execution = Execution(recompute=True)
    expected, found = _gradients(plain, 0.5), _gradients(recomputed, 0.5)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


def test_recomputed_layers_keep_less(kit: Kit) -> None:
    costs = []
    for recompute in (False, True):
        stage = kit.stage()
        stage.objective.execution = Execution(recompute=recompute)
        costs.append(
            step_cost(stage, rows=8, seq_len=32, mlm_probability=0.15, accumulation_steps=1, bf16=False)
        )
    assert costs[1].activation_bytes < 0.7 * costs[0].activation_bytes
    assert costs[1].flops > costs[0].flops


def test_compiled_encoders_give_the_same_gradients(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced and differentiated as a whole; the code generation behind it is left out, it takes minutes."""
    traced = functools.partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(adapt, "_compiled_encode", functools.cache(lambda: traced(encode, dynamic=False)))
    plain, compiled = kit.stage(), kit.stage()
    compiled.objective.execution = Execution(compiled=True)
    expected, found = _gradients(plain, 0.5), _gradients(compiled, 0.5)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


def test_compiling_is_announced_once(caplog: pytest.LogCaptureFixture) -> None:
    adapt._compiled_encode.cache_clear()
    with caplog.at_level("INFO", "edad_fast"):
        assert adapt._compiled_encode() is adapt._compiled_encode()
    adapt._compiled_encode.cache_clear()
    assert caplog.text.count("compiling the encoders: the first steps are slow") == 1


def test_a_frozen_teacher_in_bf16_is_a_copy(kit: Kit) -> None:
    plain = kit.stage(method="general_distillation")
    rounded = kit.stage(method="general_distillation", frozen_teacher="bf16")
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = _terms(plain, 0.0), _terms(rounded, 0.0)
    assert found == pytest.approx(expected, rel=0.05)
    assert found != expected
    for stage in (plain, rounded):
        assert {p.dtype for p in stage.objective.parameters()} == {torch.float32}
    assert plain.objective.state_dict().keys() == rounded.objective.state_dict().keys()


@pytest.mark.parametrize("changes", [{}, {"teacher_arch": "exbert"}, {"nsp": True}], ids=str)
def test_the_last_feed_forward_network_runs_where_it_is_needed(kit: Kit, changes: dict[str, object]) -> None:
    """With the same gradients; and the rest of the layer is left out where the model can."""
    gradients, flops = [], []
    for whole in (True, False):
        stage = kit.stage(0, method="adapt_then_distill", **changes)
        stage.objective.execution = Execution(whole_layers=whole)
        gradients.append(_gradients(stage, 1.0))
        cost = step_cost(stage, rows=8, seq_len=32, mlm_probability=0.15, accumulation_steps=1, bf16=False)
        flops.append(cost.flops)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)
    assert (flops[1] < flops[0]) == ("teacher_arch" not in changes)


def test_teacher_layers_above_the_last_matched_one_are_not_run(kit: Kit) -> None:
    stage = kit.stage(method="general_distillation", layer_map="1,2")
    teacher = stage.objective.teacher
    assert teacher.config.num_hidden_layers > 2
    expected = _gradients(stage, 0.0)
    for layer in teacher.bert.encoder.layer[2:]:
        layer.forward = None  # calling it fails
    found = _gradients(stage, 0.0)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)
