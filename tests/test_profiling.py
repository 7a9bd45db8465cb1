"""The profile of a step: printed, kept, and without influence on what is learned."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from toy_runs import arguments_of, metrics_of, write_inputs

from edad_fast import train
from edad_fast.config import TrainConfig
from edad_fast.training import flop_counter
from edad_fast.training.profiling import StepProfiler


def test_a_profiled_run_learns_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = write_inputs(tmp_path / "inputs")
    for name, flags in (("plain", []), ("profiled", ["--profile"])):
        arguments = arguments_of(inputs, tmp_path / name, max_steps=StepProfiler.steps, dropout=0.0)
        assert train.main([*arguments, *flags]) == 0
    printed = capsys.readouterr().out
    kept = (tmp_path / "profiled" / "profile-edad.md").read_text(encoding="utf-8")
    assert kept in printed
    assert not (tmp_path / "plain" / "profile-edad.md").exists()
    figures = dict(re.findall(r"^\| ([^|]+) \| ([\d.]+)%? \|$", kept, re.MULTILINE))
    seconds, wait, *_ = map(float, figures.values())
    assert 0 < wait < seconds
    assert len(figures) == 6
    assert "aten::addmm" in kept
    losses = [
        [(x["loss"], x["terms"]) for x in metrics_of(tmp_path / name)] for name in ("plain", "profiled")
    ]
    assert losses[0] == losses[1]


def test_a_stage_too_short_for_a_profile_runs_without_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inputs = write_inputs(tmp_path / "inputs")
    arguments = arguments_of(inputs, tmp_path / "short", max_steps=StepProfiler.steps - 1)
    assert train.main([*arguments, "--profile"]) == 0
    assert not list((tmp_path / "short").glob("profile*"))
    needed = (
        f"stage edad has {StepProfiler.steps - 1} step(s) to go, and a profile needs {StepProfiler.steps}"
    )
    assert needed in caplog.text
    (option,) = [field for field in dataclasses.fields(TrainConfig) if field.name == "profile"]
    assert f"of {StepProfiler.steps} steps or more" in option.metadata["help"]


@pytest.mark.parametrize(("processes", "whose"), [(1, ""), (2, " (process 0 of 2)")])
def test_the_figures_of_several_processes_are_those_of_process_0(
    tmp_path: Path, processes: int, whose: str
) -> None:
    left = torch.ones(64, 64)
    profiler = StepProfiler("edad", torch.device("cpu"), torch.float32, tmp_path, processes)
    for _ in range(StepProfiler.steps):
        profiler.load(lambda: None)
        profiler.step(lambda: left @ left)
    text = (tmp_path / "profile-edad.md").read_text(encoding="utf-8")
    for line in ("# One step of stage edad{}\n", "attention{} |", "| TFLOP/s{} |"):
        assert line.format(whose) in text


@pytest.mark.parametrize("kernels", [[SDPBackend.FLASH_ATTENTION], [SDPBackend.MATH]])
def test_attention_is_counted_whatever_computes_it(kernels: list[SDPBackend]) -> None:
    q, k, v = (torch.randn(2, 3, 8, 4, requires_grad=True) for _ in range(3))
    with sdpa_kernel(kernels), flop_counter() as counter:
        torch.nn.functional.scaled_dot_product_attention(q, k, v).sum().backward()
    product = 2 * 2 * 3 * 8 * 8 * 4
    assert counter.get_total_flops() == (6 if kernels == [SDPBackend.MATH] else 7) * product  # scores again
