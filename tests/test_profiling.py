"""The profile of a step: printed, kept, and without influence on what is learned."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from toy_runs import arguments_of, metrics_of, write_inputs

from edad_fast import train
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


def test_a_stage_too_short_for_a_profile_runs_without(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path / "inputs")
    arguments = arguments_of(inputs, tmp_path / "short", max_steps=StepProfiler.steps - 1)
    assert train.main([*arguments, "--profile"]) == 0
    assert not list((tmp_path / "short").glob("profile*"))
