"""AdaLM's methods: their stages in order, from which models each goes on, general text, resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_methods import Kit
from tiny import tiny_corpus, tiny_student, tiny_teacher
from torch import Tensor
from toy_runs import arguments_of, metrics_of, write_inputs
from transformers import BertModel

from edad_fast import train
from edad_fast.methods import adapt, run
from edad_fast.methods.cost import StepCost, step_cost
from edad_fast.methods.general_distillation import GeneralDistillation
from edad_fast.methods.prepare import build_student, build_teacher, load_data
from edad_fast.options import parse_config
from edad_fast.training import Stage, World
from edad_fast.vocabulary import decompose, load_tokenizer, vocabulary_of

STAGES = {
    "from_scratch": ["adapt_student"],
    "distill_then_adapt": ["general_distil", "adapt_student"],
    "adapt_and_distill": ["general_distil", "adapt", "adapt_student", "distil"],
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_inputs(tmp_path_factory.mktemp("inputs"))
    (folder / "general.txt").write_text("\n\n".join(["the cell and the kinase raises often ."] * 60))
    return folder


def _end(out: Path, stage: int) -> dict[str, Tensor]:
    """The models of a stage at its end."""
    (folder,) = sorted((out / "checkpoints").glob(f"stage{stage}-*"))[-1:]
    return load_file(folder / "model.safetensors")


def _of(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(f"{prefix}."): t for n, t in state.items() if n.startswith(f"{prefix}.")}


def _equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


OPTIONS = {
    "method": "adapt_and_distill",
    "distillation": "minilmv2",
    "relation_heads": 4,
    "max_steps": 4,
    "checkpoint_every": 2,
}


@pytest.fixture(scope="module")
def whole(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of four stages."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert train.main(arguments_of(inputs, out, general_corpus=inputs / "general.txt", **OPTIONS)) == 0
    return out


@pytest.mark.parametrize("method", list(STAGES))
def test_a_run_has_the_stages_of_its_method(inputs: Path, whole: Path, tmp_path: Path, method: str) -> None:
    out = whole if method == "adapt_and_distill" else tmp_path / "run"
    if out != whole:
        assert train.main(arguments_of(inputs, out, method=method, max_steps=4)) == 0
    report = json.loads((out / "report.json").read_text())
    assert list(report["device_hours"]) == [*STAGES[method], "total"]
    hours = [report["device_hours"][name] for name in STAGES[method]]
    assert min(hours) > 0
    assert report["device_hours"]["total"] == pytest.approx(sum(hours))
    assert report["steps"] == 4 * len(STAGES[method])
    assert [m["stage"] for m in metrics_of(out)] == [s for s in STAGES[method] for _ in range(4)]
    stages = {f.name.split("-")[0] for f in (out / "checkpoints").glob("stage*")}
    assert stages == {f"stage{number}" for number in range(len(STAGES[method]))}
    losses = report["mlm_loss"]["student"]
    if method == "from_scratch":
        assert losses["after"] < losses["before"]
        assert not (out / "teacher").exists(), "no stage trains or runs it"
        assert list(report["parameters"]) == list(report["mlm_loss"]) == ["student"]
        assert "The general vocabulary is that of" in (out / "student" / "README.md").read_text()
    if method == "distill_then_adapt":
        teacher = report["mlm_loss"]["teacher"]
        assert teacher["after"] == teacher["before"], "frozen throughout"


def test_adapt_and_distill_goes_from_model_to_model(inputs: Path, whole: Path, tmp_path: Path) -> None:
    """The general stage has the unadapted teacher; the last one the adapted pair."""
    config = parse_config(arguments_of(inputs, tmp_path, **OPTIONS))
    data = load_data(config, tmp_path)
    general = dict(build_teacher(config, data).named_parameters())
    fresh = dict(build_student(config, data).named_parameters())
    ends = [_end(whole, number) for number in range(4)]
    assert _equal(_of(ends[0], "teacher"), general)
    assert not _equal(_of(ends[0], "student"), fresh)
    adapted = _of(ends[1], "model")
    assert not _equal(adapted, general)
    assert _equal(_of(ends[3], "teacher"), adapted)
    saved = load_file(whole / "teacher" / "model.safetensors")
    assert saved.keys() & adapted.keys()
    assert all(torch.equal(saved[name], adapted[name]) for name in saved.keys() & adapted.keys())
    # Pooler and NSP head aside, which are in no loss, every part of the student was adapted.
    untouched = {n for n, t in _of(ends[2], "model").items() if torch.equal(t, _of(ends[0], "student")[n])}
    assert all("pooler" in name or "seq_relationship" in name for name in untouched)


class _Stop(Exception):
    pass


@pytest.mark.parametrize(("stage", "call"), [("adapt_student", 3), ("adapt", 2)])
def test_a_resume_in_a_later_stage_ends_in_the_same_bits(
    inputs: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, call: int
) -> None:
    options = {**OPTIONS, "general_corpus": inputs / "general.txt"}
    broken = tmp_path / "broken"
    forward, seen = adapt.Adaptation.forward, []
    role = "student" if stage == "adapt_student" else "teacher"

    def stopping(self: adapt.Adaptation, batch: Any, alpha: float) -> Any:
        if self.name == role:
            seen.append(stage)
            if len(seen) == call:
                raise _Stop
        return forward(self, batch, alpha)

    monkeypatch.setattr(adapt.Adaptation, "forward", stopping)
    with pytest.raises(_Stop):
        train.main(arguments_of(inputs, broken, **options))
    monkeypatch.undo()
    assert {m["stage"] for m in metrics_of(broken)} >= {"general_distil"}
    assert not (broken / "report.json").exists()
    assert train.main([*arguments_of(inputs, broken, **options), "--resume"]) == 0
    for model in ("student", "teacher"):
        files = [folder / model / "model.safetensors" for folder in (whole, broken)]
        assert files[0].read_bytes() == files[1].read_bytes(), model
    report = json.loads((broken / "report.json").read_text())
    assert report["steps"] == 16
    assert all(report["device_hours"][name] > 0 for name in STAGES["adapt_and_distill"])


def test_general_text_is_read_with_the_general_vocabulary(inputs: Path, tmp_path: Path) -> None:
    arguments = arguments_of(
        inputs,
        tmp_path / "run",
        method="distill_then_adapt",
        general_corpus=inputs / "general.txt",
        dropout=0,
    )
    config = parse_config(arguments)
    data = load_data(config, tmp_path / "run")
    parts = run._ingredients(config, data, World(), torch.device("cpu"))
    stages = run.build_stages(parts)
    (batches,) = stages[0]().batches.iterate(0, 1)
    pieces = vocabulary_of(load_tokenizer(inputs / "teacher"))
    assert "kinase" in data.added or "##ase" in data.added
    said = {pieces[i] for batch in batches for i in batch.input_ids.flatten().tolist()}
    spelled = {"k", "##i", "##n", "##a", "##s", "##e"}
    words = {"the", "cell", "and", "raises", "often", ".", *spelled}
    assert said == {*words, "[CLS]", "[SEP]"} or said == {*words, "[CLS]", "[SEP]", "[PAD]"}
    with torch.no_grad():  # as if it had been trained
        for parameter in parts.student.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    before = parts.student.get_input_embeddings().weight.clone()
    domain = stages[1]()
    after = parts.student.get_input_embeddings().weight
    assert torch.equal(after[: len(pieces)], before[: len(pieces)])
    for row, split in enumerate(decompose(data.added, pieces), start=len(pieces)):
        expected = torch.stack([before[i] for i in split]).double().mean(0).float()
        torch.testing.assert_close(after[row], expected, rtol=0, atol=0)
    (batches,) = domain.batches.iterate(0, 1)
    assert max(int(batch.input_ids.max()) for batch in batches) >= len(pieces), "the domain's pieces"
    assert domain.objective.model is parts.student


def test_general_text_is_part_of_a_run(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    text = tmp_path / "general.txt"
    text.write_text((inputs / "general.txt").read_text())
    options = {"method": "distill_then_adapt", "general_corpus": text, "max_steps": 2}
    with caplog.at_level("WARNING", "edad_fast"):
        assert train.main(arguments_of(inputs, tmp_path / "run", **options)) == 0
    assert "no --general_corpus" not in caplog.text
    text.write_text("the gene binds the drug .\n\n" * 50)
    assert train.main([*arguments_of(inputs, tmp_path / "run", **options), "--resume"]) == 2
    assert "general" in capsys.readouterr().err
    with caplog.at_level("WARNING", "edad_fast"):
        load_data(
            parse_config(arguments_of(inputs, tmp_path, method="distill_then_adapt")), tmp_path / "other"
        )
    assert "no --general_corpus: the stage that makes a small general model reads the domain's" in caplog.text


@pytest.mark.parametrize(
    ("method", "stages"),
    [("distill_then_adapt", ["adapt_student"]), ("adapt_and_distill", ["adapt", "adapt_student", "distil"])],
)
def test_a_student_with_weights_is_the_small_general_model(
    tmp_path: Path, method: str, stages: list[str]
) -> None:
    kit = Kit(tmp_path)
    assert len(run.build_stages(kit.parts(method=method))) == len(stages) + 1
    student = str(tiny_teacher(tmp_path / "student", layers=2))
    parts = kit.parts(method=method, student=student)
    assert [build().name for build in run.build_stages(parts)] == stages
    assert parts.student.config.hidden_size == 24


def test_an_earlier_stage_leaves_nothing_frozen(tmp_path: Path) -> None:
    kit = Kit(tmp_path)
    parts = kit.parts(method="adapt_and_distill")
    stages = [build() for build in run.build_stages(parts)]
    objectives = [stage.objective for stage in stages]
    assert isinstance(objectives[0], GeneralDistillation)
    assert objectives[0].teacher is objectives[1].model is objectives[3].teacher is parts.teacher
    assert objectives[0].student is objectives[2].model is objectives[3].student is parts.student
    parts = kit.parts(method="adapt_and_distill")
    builds = run.build_stages(parts)
    frozen = builds[0]()
    assert frozen.objective.parameter_groups()[0].name == "student"
    assert not any(p.requires_grad for p in parts.teacher.parameters())
    (group,) = builds[1]().objective.parameter_groups()
    alone = kit.stage(method="adapt_then_distill").objective.parameter_groups()[0]
    assert group.parameters.keys() == alone.parameters.keys()
    assert group.learning_rate == parts.config.learning_rate
    (group,) = builds[2]().objective.parameter_groups()
    assert group.name == "student"
    assert group.learning_rate == parts.config.student_learning_rate


@pytest.mark.parametrize("distillation", ["minilmv2", "distilbert"])
def test_a_dry_run_counts_every_stage(
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    distillation: str,
) -> None:
    costs: dict[str, tuple[float, StepCost]] = {}

    def counted(stage: Stage, *, mlm_probability: float, **options: Any) -> StepCost:
        cost = step_cost(stage, mlm_probability=mlm_probability, **options)
        costs[stage.name] = mlm_probability, cost
        return cost

    monkeypatch.setattr(run, "step_cost", counted)
    student = tiny_student(tmp_path / "wide.json", width=24)
    options = {"method": "adapt_and_distill", "distillation": distillation, "relation_heads": 4}
    arguments = arguments_of(inputs, tmp_path / "run", student=student, max_steps=1000, **options)
    assert train.main([*arguments, "--dry_run"]) == 0
    text = capsys.readouterr().out
    assert all(f"{name}: TFLOP a step" in text for name in STAGES["adapt_and_distill"])
    assert list(costs) == STAGES["adapt_and_distill"]
    masks = {name: probability for name, (probability, _) in costs.items()}
    distilled = 0.15 if distillation == "distilbert" else 0.0
    assert masks == {"general_distil": distilled, "adapt": 0.15, "adapt_student": 0.15, "distil": distilled}
    flops = {name: cost.flops for name, (_, cost) in costs.items()}
    assert flops["general_distil"] == flops["distil"] > flops["adapt_student"] > 0
    assert flops["adapt"] > flops["adapt_student"]
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"distillation": "minilmv2"},
            "--relation_heads 48 does not divide the width of the teacher 24, student 12; the nearest that "
            "divides 24 and 12 is --relation_heads 12",
        ),
        ({"distillation": "minilmv2", "relation_heads": 8}, "divides 24 and 12 is --relation_heads 6"),
        ({"distillation": "minilmv2", "relation_heads": 4, "relation_layer": 5}, "has 4 layers; give 1 to 4"),
        ({"relation_layer": 2}, "--relation_layer 2 is for --distillation minilmv2"),
        ({"relation_heads": 0}, "--relation_heads is 0"),
        ({"distillation": "distilbert"}, "the student's hidden_size is 12, the teacher's 24"),
        (
            {"distillation": "distilbert", "kl_weight": 0, "student_mlm_weight": 0, "cosine_weight": 0},
            "are all 0",
        ),
        ({"distillation": "distilbert", "kl_temperature": 0}, "--kl_temperature is 0"),
        ({"distillation": "minilm"}, "did you mean 'minilmv2'"),
        (
            {"student_init": "teacher_layers"},
            "--student_init teacher_layers: the student's hidden_size is 12",
        ),
        (
            {"method": "from_scratch", "student_init": "teacher_layers"},
            "from_scratch draws the student's weights",
        ),
        ({"method": "from_scratch", "frozen_teacher": "bf16"}, "--method from_scratch has none"),
        ({"general_corpus": "x.txt"}, "--method edad has no stage on general text"),
        ({"method": "distill_then_adapt", "general_corpus": "absent.txt"}, "absent.txt"),
        ({"vocab_scope": "domain", "vocab_size": None}, "--vocab_scope domain needs --vocab_size"),
        (
            {"method": "general_distillation", "distillation": "distilbert", "mlm_probability": 0},
            "leaves nothing to learn",
        ),
        (
            {
                "method": "adapt_and_distill",
                "distillation": "distilbert",
                "cosine_weight": 0,
                "teacher": "HEADLESS",
            },
            "MLM head; adapt it first",
        ),
        ({"method": "from_scratch", "student": "WEIGHTS"}, "has weights, and --method from_scratch"),
        (
            {"method": "adapt_and_distill", "student": "WEIGHTS", "general_corpus": "TEXT"},
            "leave --general_corpus out",
        ),
    ],
)
def test_bad_options_are_explained(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, Any], message: str
) -> None:
    def headless() -> Path:
        folder = tiny_teacher(tmp_path / "headless")
        BertModel.from_pretrained(folder).save_pretrained(folder)
        return folder

    made = {"WEIGHTS": lambda: tiny_teacher(tmp_path / "student", layers=2),
            "TEXT": lambda: tiny_corpus(tmp_path / "text.txt"), "HEADLESS": headless}  # fmt: skip
    options = {name: made[value]() if value in made else value for name, value in options.items()}
    assert train.main(arguments_of(inputs, tmp_path / "run", **options)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()
