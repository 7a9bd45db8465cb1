"""Size and speed of encoders."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch
from toy_models import PIECES, save_tiny

from edad_fast import evaluate
from edad_fast.errors import InputError
from edad_fast.models import load_masked_lm
from edad_fast.tasks import speed
from edad_fast.tasks.speed import Timed, encoder_of, interleaved, measure_speed, weight_bytes
from edad_fast.tasks.speed_grid import measure_grid, quantised, weights_in_bytes

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "plain")


@pytest.fixture(scope="module")
def exbert(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "exbert", extension=True)


@pytest.fixture(autouse=True)
def _short_timings(monkeypatch) -> None:
    monkeypatch.setattr(speed, "_SECONDS_PER_TIMING", 0.002)


def test_speed_command_compares_with_the_teacher(plain, exbert, tmp_path, capsys):
    arguments = [
        "speed",
        "--model",
        str(plain),
        "--teacher",
        str(exbert),
        "--seq_len",
        "16",
        "--batch_size",
        "4",
    ]
    assert (
        evaluate.main([*arguments, "--repeats", "5", "--output_dir", str(tmp_path), "--device", "cpu"]) == 0
    )
    result = json.loads((tmp_path / "speed.json").read_text())
    student, teacher = result["student"], result["teacher"]
    assert student["parameters"] == sum(p.numel() for p in load_masked_lm(plain).parameters())
    assert student["embedding_parameters"] == len(PIECES) * 24
    assert student["weight_bytes"] == (plain / "model.safetensors").stat().st_size
    assert result["gain"]["parameters"] == pytest.approx(teacher["parameters"] / student["parameters"])
    assert result["gain"]["latency_ms"] == pytest.approx(teacher["latency_ms"] / student["latency_ms"])
    low, high = student["sentences_per_second_range"]
    assert 0 < low <= student["sentences_per_second"] <= high
    assert "gain" in capsys.readouterr().out
    assert evaluate.main([*arguments, "--repeats", "2", "--output_dir", str(tmp_path)]) == 2


def test_a_deeper_encoder_is_slower(tmp_path):
    models = {name: load_masked_lm(save_tiny(tmp_path / name, layers=n)) for name, n in (("a", 1), ("b", 12))}
    scores = measure_speed(models, device=CPU, batch_size=8, length=48, repeats=5)
    assert scores["a"]["sentences_per_second"] > scores["b"]["sentences_per_second"]
    assert scores["a"]["latency_ms"] < scores["b"]["latency_ms"]
    assert weight_bytes(tmp_path / "a") < weight_bytes(tmp_path / "b")


# --- formats and threads


def test_int8_keeps_the_outputs_nearly_and_shrinks_the_layers(plain):
    encoder = encoder_of(load_masked_lm(plain)).eval()
    small = quantised(encoder)
    linear = [m for m in encoder.modules() if isinstance(m, torch.nn.Linear)]
    saved = sum(3 * layer.weight.numel() for layer in linear)
    assert weights_in_bytes(encoder) - weights_in_bytes(small) == saved
    ids = torch.randint(0, len(PIECES), (3, 9))
    with torch.inference_mode():
        whole, rounded = encoder(input_ids=ids)[0], small(input_ids=ids)[0]
    assert 1e-6 < float((whole - rounded).abs().max()) < 0.05


def test_each_is_timed_with_its_threads_in_turn(monkeypatch):
    monkeypatch.setattr(speed, "_SECONDS_PER_TIMING", 0.0)  # one call each
    before = torch.get_num_threads()
    seen: list[tuple[str, int]] = []

    def timed(name: str, threads: int | None) -> Timed:
        return Timed(lambda: seen.append((name, torch.get_num_threads())), CPU, threads)

    seconds = interleaved({"a": timed("a", 1), "b": timed("b", 2), "c": timed("c", 1)}, 3)
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    assert seen[-9:] == 3 * [("a", 1), ("b", 2), ("c", 1)]
    assert torch.get_num_threads() == before


def test_grid_measures_every_model_in_every_format(plain, exbert):
    encoders = {name: encoder_of(load_masked_lm(path)) for name, path in (("a", plain), ("b", exbert))}

    def engine(name, encoder, threads):
        return lambda ids, mask: encoder(input_ids=ids)[0], 7

    options = {"batch_size": 2, "repeats": 5, "threads": (1,), "engines": {"mine": engine}}
    rows = measure_grid(encoders, length=8, **options)
    cpu = [row for row in rows if row["device"] == "cpu"]
    formats = ("bf16", "fp32", "int8", "mine")
    assert sorted((row["format"], row["model"]) for row in cpu) == [(f, m) for f in formats for m in "ab"]
    for row in cpu:
        assert row["threads"] == 1
        assert row["cosine_to_fp32"] > (0.99999 if row["format"] in ("fp32", "mine") else 0.9)
        low, high = row["latency_ms_range"]
        assert 0 < low <= row["latency_ms"] <= high
        low, high = row["sentences_per_second_range"]
        assert 0 < low <= row["sentences_per_second"] <= high
    sizes = {row["format"]: row["weight_bytes"] for row in cpu if row["model"] == "a"}
    assert sizes["fp32"] == 2 * sizes["bf16"]
    assert sizes["mine"] == 7
    with pytest.raises(InputError, match="48 positions of the a"):
        measure_grid(encoders, length=49, **options)


def test_grid_command_stands_beside_the_teacher(plain, exbert, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # two busy threads take seconds where others work
    command = ["speed", "--model", str(plain), "--teacher", str(exbert), "--seq_len", "8"]
    command += ["--batch_size", "2", "--repeats", "5", "--device", "cpu"]
    assert evaluate.main([*command, "--output_dir", str(tmp_path), "--grid"]) == 0
    result = json.loads((tmp_path / "speed.json").read_text())
    assert result["gain"]["parameters"] > 1
    printed = capsys.readouterr().out
    formats = ["bf16", "fp32", "int8"]
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx"):
        formats.append("int8, onnxruntime")
    student = [row for row in result["grid"] if (row["model"], row["device"]) == ("student", "cpu")]
    assert [(row["format"], row["threads"]) for row in student] == [(name, 1) for name in formats]
    lines = [line for line in printed.splitlines() if line.startswith("cpu, 1")]
    assert len(lines) == len(formats)
    found = {row["model"]: row for row in result["grid"] if row["format"] == "int8"}
    ratio = found["teacher"]["weight_bytes"] / found["student"]["weight_bytes"]
    assert f" {ratio:.2f}x " in lines[formats.index("int8")]
