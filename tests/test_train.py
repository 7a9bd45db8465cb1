"""`python -m edad_fast.train` end to end on tiny models: outputs, resume, bad input."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from tiny import tiny_corpus, tiny_teacher
from toy_runs import arguments_of, metrics_of, write_inputs

from edad_fast import evaluate, train
from edad_fast.demo import demo
from edad_fast.vocabulary import load_tokenizer, vocabulary_of

PLAIN_LOADER = """
import sys
sys.modules["edad_fast"] = None  # importing it fails
from transformers import AutoModelForMaskedLM, AutoTokenizer
model, info = AutoModelForMaskedLM.from_pretrained(sys.argv[1], output_loading_info=True)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
encoded = tokenizer("the kinase acts in the liver", return_tensors="pt")
assert model(**encoded).logits.shape[-1] == len(tokenizer) == model.config.vocab_size
assert not info["missing_keys"] and not info["unexpected_keys"], info
assert max(encoded["input_ids"][0]) >= int(sys.argv[2]), "no new piece is used"
print("loaded")
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def test_automatic_vocabulary_size(inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = {"vocab_size": "auto", "vocab_interval": 5, "vocab_threshold": 0.3, "criterion": "likelihood"}
    assert train.main(arguments_of(inputs, out, **options, max_steps=2)) == 0
    added = json.loads((out / "report.json").read_text())["vocabulary"]["added"]
    assert added > 0
    assert added % 5 == 0
    report = json.loads((out / "vocabulary/report.json").read_text())
    assert (report["pieces"]["new"], report["criterion"]) == (added, "likelihood")
    assert report["automatic"][-1]["size"] == report["pieces"]["all"]
    assert (out / "vocabulary/plots/curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("method", ["edad", "adapt_then_distill", "general_distillation"])
def test_a_run_leaves_what_the_contract_names(inputs: Path, tmp_path: Path, method: str) -> None:
    out = tmp_path / "run"
    assert train.main(arguments_of(inputs, out, method=method)) == 0
    for role in ("student", "teacher"):
        names = {
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.txt",
            "README.md",
        }
        assert names <= {file.name for file in (out / role).iterdir()}
    report = json.loads((out / "report.json").read_text())
    stages = {
        "edad": ["edad"],
        "adapt_then_distill": ["adapt", "distil"],
        "general_distillation": ["distil"],
    }[method]
    assert list(report["device_hours"]) == [*stages, "total"]
    assert report["steps"] == 6 * len(stages)
    assert 0 < report["tokens_seen"] <= report["steps"] * 256
    assert report["parameters"]["teacher"] > report["parameters"]["student"] > 0
    losses = report["mlm_loss"]["teacher"]
    assert (losses["after"] < losses["before"]) == (method != "general_distillation")
    assert [m["stage"] for m in metrics_of(out)] == [s for s in stages for _ in range(6)]
    assert {"losses.png", "alpha.png", "throughput.png"} <= {f.name for f in (out / "plots").iterdir()}
    assert yaml.safe_load((out / "config.yaml").read_text())["method"] == method
    assert "device hours" in (out / "report.md").read_text()


def test_the_student_loads_without_this_package(inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert train.main(arguments_of(inputs, out, max_steps=2)) == 0
    general = vocabulary_of(load_tokenizer(inputs / "teacher"))
    command = [sys.executable, "-c", PLAIN_LOADER, str(out / "student"), str(len(general))]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.stdout.strip() == "loaded", result.stderr
    merged = (out / "student" / "vocab.txt").read_text().splitlines()
    assert merged[: len(general)] == general
    assert len(merged) == 90


def test_options_of_the_contract_run(inputs: Path, tmp_path: Path) -> None:
    """NSP, exBERT on both sides, whole words, accumulation, bf16, a ready vocabulary, student weights."""
    first = tmp_path / "first"
    arguments = arguments_of(
        inputs, first, nsp="true", teacher_arch="exbert", student_arch="exbert", max_steps=2,
        whole_word_masking="true", accumulation_steps=2, precision="bf16", schedule="cosine_reverse",
        alpha_scope="per_model",
    )  # fmt: skip
    assert train.main([*arguments, "--teacher_extension", "8", "16", "--student_extension", "4", "8"]) == 0
    assert json.loads((first / "teacher" / "config.json").read_text())["model_type"] == "edad_exbert"
    assert "load_masked_lm" in (first / "teacher" / "README.md").read_text()
    second = tmp_path / "second"
    arguments = arguments_of(
        inputs, second, vocab=first / "vocabulary" / "vocab.txt", vocab_size=None, max_steps=2,
        student=_student_directory(inputs, tmp_path / "student"),
    )  # fmt: skip
    assert train.main(arguments) == 0
    assert (second / "student" / "vocab.txt").read_text() == (first / "student" / "vocab.txt").read_text()


def _student_directory(inputs: Path, folder: Path) -> Path:
    return tiny_teacher(folder, layers=2)


def test_a_run_is_repeatable(inputs: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert train.main(arguments_of(inputs, tmp_path / name, max_steps=3)) == 0
    first, second = ((tmp_path / n / "student" / "model.safetensors").read_bytes() for n in ("a", "b"))
    assert first == second


def test_kill_and_resume_end_in_the_same_bits(inputs: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments of the whole program, two stages; then the weights of an undisturbed run."""
    options = {"method": "adapt_then_distill", "max_steps": 12, "checkpoint_every": 2}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def command(out: Path, *extra: str) -> list[str]:
        return [sys.executable, "-m", "edad_fast.train", *arguments_of(inputs, out, **options), *extra]

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    begin = time.monotonic()
    subprocess.run(command(whole), env=environment, check=True, capture_output=True, timeout=240)
    duration = time.monotonic() - begin
    kills, rng = 0, random.Random(time.time_ns())
    for _ in range(3):
        process = subprocess.Popen(command(broken, "--resume"), env=environment, stderr=subprocess.PIPE)
        try:
            process.wait(timeout=duration * rng.uniform(0.5, 0.95))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    assert kills
    result = subprocess.run(
        command(broken, "--resume"), env=environment, capture_output=True, text=True, timeout=240
    )
    assert result.returncode == 0, result.stderr
    for role in ("student", "teacher"):
        paths = [folder / role / "model.safetensors" for folder in (whole, broken)]
        assert paths[0].read_bytes() == paths[1].read_bytes(), role
    same = [
        [{k: v for k, v in m.items() if k != "tokens_per_second"} for m in metrics_of(f)]
        for f in (whole, broken)
    ]
    assert same[0] == same[1]


def test_dry_run_trains_nothing(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert train.main([*arguments_of(inputs, out), "--dry_run"]) == 0
    text = capsys.readouterr().out
    for part in ("teacher parameters", "TFLOP a step", "schedule: linear"):
        assert part in text
    assert not (out / "student").exists()
    assert not (out / "checkpoints").exists()
    assert train.main(arguments_of(inputs, out, max_steps=1)) == 0


def test_a_failed_start_costs_nothing(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bad options leave finished work alone, even with --overwrite, and block no corrected command."""
    out = tmp_path / "run"
    for option, value in (("corpus", tmp_path / "*.typo"), ("student", "tinybret4"), ("layer_map", "1,9")):
        assert train.main(arguments_of(inputs, out, **{option: value})) == 2
        assert not out.exists(), "nothing is prepared before the options are checked"
    assert train.main(arguments_of(inputs, out, max_steps=1)) == 0
    (out / "notes.txt").write_text("mine")
    student = (out / "student" / "model.safetensors").read_bytes()
    for option, value in (("corpus", tmp_path / "*.typo"), ("student", "tinybret4"), ("vocab_size", 5000)):
        assert train.main([*arguments_of(inputs, out, **{option: value}), "--overwrite"]) == 2
        assert (out / "student" / "model.safetensors").read_bytes() == student
    assert train.main([*arguments_of(inputs, out, max_steps=1, seed=5), "--overwrite"]) == 0
    assert (out / "student" / "model.safetensors").read_bytes() != student
    assert (out / "notes.txt").read_text() == "mine"


def test_resume_refuses_another_corpus_before_touching_shards(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, out = tiny_corpus(tmp_path / "corpus.txt"), tmp_path / "run"
    assert train.main(arguments_of(inputs, out, corpus=corpus, vocab_size=None, max_steps=2)) == 0
    shards = {f: f.read_bytes() for f in (out / "shards" / "corpus").iterdir()}
    corpus.write_text(corpus.read_text() + "\nthe gene acts .\n")
    assert (
        train.main([*arguments_of(inputs, out, corpus=corpus, vocab_size=None, max_steps=2), "--resume"]) == 2
    )
    assert "corpus.txt" in capsys.readouterr().err
    assert shards == {f: f.read_bytes() for f in (out / "shards" / "corpus").iterdir()}


def test_resuming_a_finished_run_changes_no_figure(inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert train.main(arguments_of(inputs, out, max_steps=2)) == 0
    before = json.loads((out / "report.json").read_text())
    assert train.main([*arguments_of(inputs, out, max_steps=2, learning_rate=3e-5), "--resume"]) == 0
    after = json.loads((out / "report.json").read_text())
    for key in ("device_hours", "parameters", "mlm_loss", "tokens_seen", "losses"):
        assert after[key] == before[key], key


def test_a_dry_run_or_a_failure_leaves_an_old_run_as_it_was(inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert train.main(arguments_of(inputs, out)) == 0

    def state() -> dict[str, bytes]:
        return {str(f.relative_to(out)): f.read_bytes() for f in sorted(out.rglob("*")) if f.is_file()}

    before = state()
    other = [*arguments_of(inputs, out, vocab_size=80), "--overwrite"]
    assert train.main([*other, "--dry_run"]) == 0
    assert state() == before
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    assert train.main([*arguments_of(inputs, out, vocab_size=80, validation=empty), "--overwrite"]) == 2
    assert state() == before
    assert train.main([*arguments_of(inputs, out), "--resume"]) == 0
    assert train.main(other) == 0
    assert len(vocabulary_of(load_tokenizer(out / "student"))) == 80
    assert len(vocabulary_of(load_tokenizer(out / "vocabulary"))) == 80


def test_evaluations_reach_report_and_card(inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert train.main(arguments_of(inputs, out)) == 0
    assert load_tokenizer(out / "student").model_max_length == 32, "the length it was trained on"
    command = ["mlm", "--model", str(out / "student"), "--data", str(inputs / "valid.txt"), "--seq_len", "32"]
    assert evaluate.main(command) == 0
    loss = json.loads((out / "report.json").read_text())["evaluation"]["student"]["mlm valid.txt"]["loss"]
    assert 0 < loss < 10
    assert "mlm valid.txt / loss" in (out / "student" / "README.md").read_text()
    assert "sequences of 32 tokens" in (out / "student" / "README.md").read_text()
    assert train.main([*arguments_of(inputs, out), "--resume"]) == 0
    assert json.loads((out / "report.json").read_text())["evaluation"], "kept when a run is resumed"


def test_reported_parameters_are_those_of_the_files(inputs: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    out = tmp_path / "run"
    assert train.main(arguments_of(inputs, out, max_steps=1)) == 0
    report = json.loads((out / "report.json").read_text())
    for role in ("student", "teacher"):
        with safe_open(out / role / "model.safetensors", framework="np") as tensors:
            names = [n for n in tensors.keys() if not n.startswith("cls.predictions.decoder")]  # noqa: SIM118
            assert report["parameters"][role] == sum(tensors.get_tensor(name).size for name in names)


def test_output_directory_is_not_overwritten(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert train.main(arguments_of(inputs, out, max_steps=1)) == 0
    before = (out / "student" / "model.safetensors").read_bytes()
    assert train.main(arguments_of(inputs, out, max_steps=1)) == 2
    assert "--resume" in capsys.readouterr().err
    assert train.main([*arguments_of(inputs, out, max_steps=1, seed=3), "--resume"]) == 2
    assert "--seed was 0, is 3" in capsys.readouterr().err
    assert (out / "student" / "model.safetensors").read_bytes() == before
    assert train.main([*arguments_of(inputs, out, max_steps=1, seed=3), "--overwrite"]) == 0
    assert (out / "student" / "model.safetensors").read_bytes() != before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    assert train.main([*arguments_of(inputs, tmp_path / "mine"), "--overwrite"]) == 2
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


def test_demo_in_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = demo(tmp_path / "demo", scale=0.03)
    text = capsys.readouterr().out
    for word in (
        "parameters",
        "device hours",
        "held-out MLM loss after",
        "sentences/s",
        "entity F1",
        "run/student",
    ):
        assert word in text
    assert report["evaluation"]["speed"]["gain"]["parameters"] > 1
