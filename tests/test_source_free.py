"""Whole runs on labelled texts: what a run may look at, what it leaves, that it resumes, and its errors."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toy_sentiment import domain_rows, train, write_csv, write_domains
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from edad_fast.errors import InputError
from edad_fast.models import (
    add_extension,
    classifier_labels,
    load_pretraining_model,
    load_text_classifier,
    save_model,
)
from edad_fast.options import parse_config
from edad_fast.vocabulary import load_tokenizer, save_tokenizer

STUDENT_METHODS = ("task_distillation", "source_free", "source_free_two_stage", "aad")
_OPENED: list[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _OPENED is not None and event == "open":
        _OPENED.append(str(arguments[0]))


sys.addaudithook(_watch)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains, and in site/teacher a classifier that was trained on the source."""
    folder = write_domains(tmp_path_factory.mktemp("domains"))
    train(
        folder / "site",
        method="fine_tune",
        teacher=folder / "general",
        labelled=folder / "source",
        epochs=8,
        learning_rate=3e-3,
    )
    return folder


@pytest.fixture(autouse=True, scope="module")
def _no_plots() -> Iterator[None]:
    """Plots take longer than the training; they have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edad_fast.report.summary.write_plots", lambda *_: [])
        yield


def options(folder: Path, method: str, **changes: Any) -> dict[str, Any]:
    texts = {"labelled": folder / "source"} if method in ("task_distillation", "aad") else {}
    if method != "task_distillation":
        texts["target"] = folder / "target"
    return {
        "method": method,
        "teacher": folder / "site" / "teacher",
        "student": folder / "student.json",
        "student_init": "fresh",
        "max_steps": 4,
        **texts,
        **changes,
    }


@pytest.fixture(scope="module")
def done(folder: Path) -> dict[str, Path]:
    """A run of each method."""
    for method in STUDENT_METHODS:
        train(folder / method, **options(folder, method))
    return {method: folder / method for method in STUDENT_METHODS}


def test_the_source_site_ships_a_plain_classifier(folder: Path) -> None:
    teacher = folder / "site" / "teacher"
    model = AutoModelForSequenceClassification.from_pretrained(teacher).eval()
    assert model.config.id2label == {0: "negative", 1: "positive"}
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    rows = domain_rows("source", 40, seed=9)
    inputs = tokenizer([text for text, _ in rows], padding=True, return_tensors="pt")
    found = model(**inputs).logits.argmax(-1).tolist()
    right = sum(model.config.id2label[n] == label for n, (_, label) in zip(found, rows, strict=True))
    assert right >= 34
    assert not (folder / "site" / "student").exists()
    assert "AutoModelForSequenceClassification" in (teacher / "README.md").read_text()


@pytest.mark.parametrize("method", STUDENT_METHODS)
def test_a_run_leaves_its_models_and_a_report(done: dict[str, Path], method: str) -> None:
    report = json.loads((done[method] / "report.json").read_text())
    stages = {
        "task_distillation": ["intermediate", "prediction"],
        "source_free": ["source_free"],
        "source_free_two_stage": ["adapt", "distil"],
        "aad": ["adversarial", "distil"],
    }[method]
    assert set(report["device_hours"]) == {*stages, "total"}
    assert set(report["losses"]) == set(stages)
    assert report["steps"] == 4 * len(stages)
    assert ("teacher" in report["parameters"]) == (method != "task_distillation")
    assert report["evaluation"] == {}
    for role in report["parameters"]:
        loaded = AutoModelForSequenceClassification.from_pretrained(done[method] / role)
        assert sum(p.numel() for p in loaded.parameters()) == report["parameters"][role]


@pytest.mark.parametrize("method", ["source_free", "source_free_two_stage"])
def test_source_free_opens_no_source_file(
    folder: Path, done: dict[str, Path], tmp_path: Path, method: str
) -> None:
    global _OPENED
    _OPENED = []
    try:
        train(tmp_path / "run", **options(folder, method))
        opened = {str(Path(name).resolve()) for name in _OPENED if not name.isdigit()}
    finally:
        _OPENED = None
    assert str(folder / "target" / "texts.csv") in opened, "the hook sees nothing"
    assert not [name for name in opened if name.startswith(str(folder / "source"))]
    assert_same_weights(tmp_path / "run" / "student", done[method] / "student")


@pytest.mark.parametrize(
    ("method", "labels"),
    [
        ("source_free", "shuffled"),
        ("source_free", "absent"),
        ("source_free_two_stage", "bad"),
        ("aad", "bad"),
    ],
)
def test_no_target_label_is_read(
    folder: Path, done: dict[str, Path], tmp_path: Path, method: str, labels: str
) -> None:
    texts, classes = zip(*domain_rows("target", 90), strict=True)
    found = {
        "shuffled": [*classes[7:], *classes[:7]],
        "absent": [],
        "bad": [str(n) if n % 2 else "" for n in range(90)],  # reading these would fail
    }[labels]
    rows = list(zip(texts, found, strict=True)) if found else [(text,) for text in texts]
    write_csv(tmp_path / "target" / "texts.csv", rows, header="text,label" if found else "text")
    train(tmp_path / "run", **options(folder, method, target=tmp_path / "target"))
    for role in ("teacher", "student"):
        assert_same_weights(tmp_path / "run" / role, done[method] / role)


@pytest.mark.parametrize("method", ["source_free", "aad"])
def test_a_run_cut_short_resumes_to_the_same_bits(
    folder: Path, done: dict[str, Path], tmp_path: Path, method: str
) -> None:
    run = tmp_path / "run"
    changes = {"checkpoint_every": 3, "keep_checkpoints": 9}
    train(run, **options(folder, method, **changes))
    shutil.rmtree(run / f"checkpoints/stage{int(method == 'aad')}-step00000004")
    for name in ("student", "teacher"):
        shutil.rmtree(run / name)
    (run / "report.json").unlink()
    train(run, **options(folder, method, **changes), resume=True)
    for role in ("teacher", "student"):
        assert_same_weights(run / role, done[method] / role)


def test_other_texts_or_options_do_not_resume(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    target = write_csv(tmp_path / "target.csv", domain_rows("target", 90))
    train(run, **options(folder, "source_free", target=target))
    write_csv(target, domain_rows("target", 80))
    with pytest.raises(InputError, match=r"other settings .*target was"):
        train(run, **options(folder, "source_free", target=target), resume=True)
    with pytest.raises(InputError, match="--pseudo_label_weight was"):
        train(run, **options(folder, "source_free", target=target, pseudo_label_weight=0.1), resume=True)


def test_a_dry_run_writes_nothing(folder: Path, tmp_path: Path) -> None:
    table = train(tmp_path / "run", **options(folder, "source_free_two_stage"), dry_run=True)["dry_run"]
    assert "adapt: steps" in table
    assert "distil: steps" in table
    assert not (tmp_path / "run").exists()


def test_the_student_starts_as_the_teachers_layers(folder: Path, tmp_path: Path) -> None:
    changes = {"student_init": "teacher_layers", "max_steps": 1, "student_learning_rate": 1e-12}
    train(tmp_path / "run", **options(folder, "task_distillation", **changes))
    student, teacher = weights(tmp_path / "run" / "student"), weights(folder / "site" / "teacher")
    for mine, theirs in (
        ("encoder.layer.0", "encoder.layer.1"),
        ("encoder.layer.1", "encoder.layer.3"),
        ("pooler", "pooler"),
    ):
        name = f"bert.{mine}{'.output' if 'layer' in mine else ''}.dense.weight"
        torch.testing.assert_close(student[name], teacher[name.replace(mine, theirs)], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("source_free", {"labelled": "x"}, r"--labelled has no part in --method source_free, which never"),
        ("source_free", {"target": ""}, r"--method source_free needs --target"),
        ("source_free", {"target": "nowhere"}, r"nowhere: no .review"),
        ("aad", {"labelled": ""}, r"--method aad needs --labelled"),
        ("task_distillation", {"target": "x"}, r"give --labelled or --target"),
        ("source_free", {"corpus": "x.txt"}, r"--corpus has no part in"),
        ("source_free", {"vocab_size": "90"}, r"--vocab_size has no part in"),
        ("source_free", {"distributed": "fsdp"}, r"--distributed fsdp has no part in"),
        ("source_free", {"seq_len": 65, "batch_tokens": 650}, r"--seq_len 65 is above the 64 positions"),
        ("source_free", {"batch_tokens": 32, "accumulation_steps": 1, "seq_len": 40}, r"--batch_tokens 32"),
        ("source_free", {"student": "tinybert5"}, r"--student tinybert5: neither a known shape"),
        (
            "source_free",
            {"student_init": "teacher_layers", "student": "tinybert4"},
            r"is 312, the teacher's 24",
        ),
        ("fine_tune", {"target": "x"}, r"--target has no part in --method fine_tune"),
        ("source_free", {"temperature": 0}, r"--temperature is 0.0"),
    ],
)
def test_bad_options_are_explained(
    folder: Path, tmp_path: Path, method: str, changes: dict[str, Any], message: str
) -> None:
    base = options(folder, method if method != "fine_tune" else "source_free") | {"method": method}
    with pytest.raises(InputError, match=message):
        train(tmp_path / "run", **base | changes)
    assert not (tmp_path / "run" / "report.json").exists()


def test_an_exbert_can_be_the_teacher(folder: Path, tmp_path: Path) -> None:
    model = add_extension(load_pretraining_model(folder / "general"), (8, 16), 0.0)
    (tmp_path / "exbert").mkdir()
    save_model(model, tmp_path / "exbert", keep_sentence_head=True)
    save_tokenizer(load_tokenizer(folder / "general"), tmp_path / "exbert")
    texts = {"labelled": folder / "source", "max_steps": 2}
    train(tmp_path / "site", method="fine_tune", teacher=tmp_path / "exbert", **texts)
    teacher = tmp_path / "site" / "teacher"
    assert "load_text_classifier" in (teacher / "README.md").read_text()
    loaded = load_text_classifier(teacher, ["negative", "positive"]).state_dict()
    saved = weights(teacher)
    assert any("extension" in name for name in saved)
    assert all(torch.equal(loaded[name], value) for name, value in saved.items())
    train(tmp_path / "run", **options(folder, "source_free", teacher=teacher, max_steps=2))
    assert classifier_labels(tmp_path / "run" / "student") == ["negative", "positive"]


def test_a_teacher_without_head_is_explained(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no text classifier; --method fine_tune makes one"):
        train(tmp_path / "run", **options(folder, "source_free", teacher=folder / "general"))


def test_fine_tuning_needs_classes(folder: Path, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "a.csv", [("the cell", "x"), ("the gene", "")])
    with pytest.raises(InputError, match=r"a\.csv:3: no class"):
        train(tmp_path / "run", method="fine_tune", teacher=folder / "general", labelled=file)


@pytest.mark.parametrize("method", ["fine_tune", "task_distillation", "source_free", "aad"])
def test_the_commands_of_the_documentation_have_known_options(method: str) -> None:
    page = Path(__file__).resolve().parents[1] / "docs" / "methods" / f"{method}.md"
    block = re.search(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    lines = [line.split() for line in block[1].replace("\\\n", " ").splitlines()]
    (command,) = [line[3:] for line in lines if "edad_fast.train" in line]
    assert parse_config(command).method == method
