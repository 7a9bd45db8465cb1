"""Evaluation of text classifiers: as they are and fine-tuned."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_teacher
from toy_sentiment import domain_rows, write_csv
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from edad_fast.evaluate import main
from edad_fast.models import load_text_classifier, save_classifier
from edad_fast.tasks.labelled_text import load_texts
from edad_fast.tasks.sentiment import SentimentSettings, SentimentTask, score_classes
from edad_fast.vocabulary import load_tokenizer, save_tokenizer

LABELS = ["negative", "positive"]


def test_scores_by_hand() -> None:
    gold, found = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 0])
    scores = score_classes(gold, found, 3)  # class 2 does not occur
    assert scores["accuracy"] == pytest.approx(3 / 5)
    assert scores["macro_f1"] == pytest.approx((2 * 2 / (3 + 3) + 2 * 1 / (2 + 2)) / 2)
    assert score_classes(gold, gold, 2) == {"accuracy": 1.0, "macro_f1": 1.0}
    assert score_classes(np.array([0, 1]), np.array([0, 0]), 2)["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sentiment")
    tiny_teacher(folder / "general", layers=1)
    write_csv(folder / "texts.csv", domain_rows("source", 200))
    torch.manual_seed(0)
    model = load_text_classifier(folder / "general", LABELS)
    (folder / "classifier").mkdir()
    save_classifier(model, folder / "classifier")
    save_tokenizer(load_tokenizer(folder / "general"), folder / "classifier")
    return folder


def _task(folder: Path, **settings: object) -> SentimentTask:
    values = {"epochs": 6, "max_length": 32, **settings}
    return SentimentTask(
        load_text_classifier(folder / "classifier", LABELS),
        load_tokenizer(folder / "classifier"),
        load_texts(folder / "texts.csv"),
        LABELS,
        SentimentSettings(**values),  # type: ignore[arg-type]
        torch.device("cpu"),
    )


def test_scores_are_those_of_transformers(folder: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(folder / "classifier").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "classifier")
    texts = load_texts(folder / "texts.csv").splits["test"]
    inputs = tokenizer([t.text for t in texts], padding=True, return_tensors="pt")
    with torch.no_grad():
        found = model(**inputs).logits.argmax(-1).tolist()
    right = np.mean([LABELS[n] == t.label for n, t in zip(found, texts, strict=True)])
    assert _task(folder).score("test")["accuracy"] == pytest.approx(right)


def test_fine_tuning_learns_and_is_a_function_of_the_seed(folder: Path) -> None:
    task = _task(folder)
    first = task.fine_tune(0, [1e-7, 5e-3])
    again, other = (task.fine_tune(seed, [5e-3]) for seed in (0, 1))
    assert first["learning_rate"] == 5e-3
    assert first["learning_rate_devel_accuracy"]["0.005"] > first["learning_rate_devel_accuracy"]["1e-07"]
    assert first["test"]["accuracy"] > 0.85
    assert first["devel"] == again["devel"] != other["devel"]
    assert max(e["accuracy"] for e in first["devel"]) == first["devel"][first["best_epoch"] - 1]["accuracy"]


def test_untrained_starts_from_random_weights(folder: Path) -> None:
    learned, untrained = (
        _task(folder, untrained=flag, epochs=1).fine_tune(0, [1e-5])["devel"][0]["loss"] for flag in (0, 1)
    )
    assert learned != untrained


def test_command_scores_a_classifier_as_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--model",
        str(folder / "classifier"),
        "--data",
        str(folder / "texts.csv"),
        "--device",
        "cpu",
    ]
    arguments += ["--precision", "fp32", "--max_length", "32"]
    assert main(["sentiment", *arguments, "--split", "devel"]) == 0
    assert "accuracy" in capsys.readouterr().out
    file = folder / "classifier" / "evaluation" / "sentiment-texts" / "sentiment.json"
    result = json.loads(file.read_text())
    assert result["split"] == "devel"
    assert {key: result[key] for key in ("accuracy", "macro_f1")} == _task(folder).score("devel")
    assert "macro F1" in file.with_suffix(".md").read_text()


def test_command_fine_tunes_and_reuses_finished_seeds(folder: Path, tmp_path: Path) -> None:
    arguments = ["sentiment", "--model", str(folder / "general"), "--data", str(folder / "texts.csv")]
    arguments += ["--fine_tune", "--epochs", "2", "--learning_rate", "5e-3", "--max_length", "32"]
    arguments += ["--device", "cpu", "--precision", "fp32", "--output_dir", str(tmp_path)]
    assert main([*arguments, "--seeds", "1"]) == 0
    one = json.loads((tmp_path / "sentiment.json").read_text())
    assert main([*arguments, "--seeds", "2"]) == 0
    two = json.loads((tmp_path / "sentiment.json").read_text())
    assert two["runs"][0] == one["runs"][0]
    assert two["seeds"] == [0, 1]
    scores = [run["test"]["accuracy"] for run in two["runs"]]
    assert two["accuracy"]["mean"] == pytest.approx(np.mean(scores))
    assert two["accuracy"]["std"] == pytest.approx(np.std(scores, ddof=1))
    assert "2 epochs" in (tmp_path / "sentiment.md").read_text()
    assert main([*arguments, "--seeds", "1", "--seed", "1"]) == 2  # other runs than these
    assert main([*arguments, "--seeds", "1", "--seed", "1", "--overwrite"]) == 0
    later = json.loads((tmp_path / "sentiment.json").read_text())
    assert (later["seed"], later["seeds"]) == (1, [1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "general"}, "no text classifier; give --fine_tune"),
        ({"data": "nowhere.csv"}, "nowhere.csv: no .review"),
        ({"label_field": "kind"}, "texts.csv:1: no field 'kind'"),
        ({"seeds": "0"}, "--seeds must be at least 1"),
        ({"epochs": "0"}, "--epochs and --batch_size must be at least 1"),
    ],
)
def test_bad_input_is_explained(
    folder: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str], message: str
) -> None:
    values = {"model": "classifier", "data": "texts.csv", "device": "cpu", **changes}
    arguments = [
        part
        for name, value in values.items()
        for part in (f"--{name}", str(folder / value) if name in ("model", "data") else value)
    ]
    assert main(["sentiment", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_class_that_the_model_lacks_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_csv(folder / "stars.csv", [(text, label[0]) for text, label in domain_rows("target", 50)])
    assert main(["sentiment", "--model", str(folder / "classifier"), "--data", str(file)]) == 2
    assert "stars.csv:" in (error := capsys.readouterr().err)
    assert "is not one of the model's: negative, positive" in error
