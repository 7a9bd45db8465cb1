"""Comparisons: suite files, the plan, reuse, failures, chunks; the children are replaced."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy_suite import start, write_suite

from edad_fast.comparison import command
from edad_fast.comparison.children import Ended
from edad_fast.comparison.plan import build_plan, draft_plan
from edad_fast.comparison.suite import load_suite, with_flags
from edad_fast.config import TrainConfig
from edad_fast.errors import InputError
from edad_fast.training import Interrupted

SUITES = Path(__file__).resolve().parents[1] / "benchmarks" / "suites"


@pytest.fixture(autouse=True)
def _without_what_takes_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "task_problems", lambda jobs: {})
    monkeypatch.setattr(command, "write_comparison_plots", lambda *parts: [])


def test_jobs_in_order_seed_by_seed(tmp_path: Path) -> None:
    status, stub = start(write_suite(tmp_path))
    assert status == 0
    assert stub.started == [
        part
        for seed in (0, 1)
        for system in ("edad", "two_stage")
        for part in (f"runs/{system}/seed-{seed}", f"evaluation/{system}/seed-{seed}/genes")
    ]
    config = yaml.safe_load(Path(stub.commands[0][4]).read_text())
    assert TrainConfig(**config).max_steps == 4
    assert stub.commands[0][:4] == [sys.executable, "-m", "edad_fast.train", "--config"]
    assert stub.commands[1][2:] == [
        *("edad_fast.evaluate", "ner", "--model", str(tmp_path / "out/runs/edad/seed-0/student")),
        *("--output_dir", str(tmp_path / "out/evaluation/edad/seed-0/genes")),
        *("--data", str(tmp_path / "ner"), "--seeds", "1"),
    ]
    # The fine-tuning's seed is the training's.
    assert stub.commands[5][-4:] == ["--seeds", "1", "--seed", "1"]


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    file = write_suite(tmp_path)
    start(file)
    assert start(file)[1].started == []
    assert not (tmp_path / "out/runs/edad/seed-0/checkpoints").exists()
    # A further seed costs its own jobs alone, a removed result its own and what builds on it.
    assert len(start(file, "--seeds", "0", "1", "2")[1].started) == 4
    (tmp_path / "out/runs/edad/seed-0/report.json").unlink()
    assert start(file)[1].started == ["runs/edad/seed-0", "evaluation/edad/seed-0/genes"]


@pytest.mark.parametrize("what", ["option", "file", "learning rate"])
def test_other_options_or_files_need_overwrite(tmp_path: Path, what: str) -> None:
    file = write_suite(tmp_path)
    start(file)
    flags, message = ["--train", "max_steps=8"], "max_steps was 4, is 8"
    if what == "file":
        (tmp_path / "corpus.txt").write_text("more\n")
        flags, message = [], "another .*corpus.txt"
    elif what == "learning rate":  # free on resume, but not the same experiment
        flags, message = ["--train", "learning_rate=1e-5"], "learning_rate was None, is 1e-05"
    with pytest.raises(InputError, match=rf"seed-0: was made otherwise: .*{message}.*--overwrite"):
        start(file, *flags)
    assert len(start(file, *flags, "--overwrite")[1].started) == 8
    assert start(file, *flags)[1].started == []


def test_how_to_run_is_no_other_experiment(tmp_path: Path) -> None:
    file = write_suite(tmp_path)
    start(file)
    assert start(file, "--train", "log_every=1", "checkpoint_every=2", "device=cpu")[1].started == []


def test_a_failure_stops_only_what_builds_on_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(number: int, command: Sequence[str]) -> Ended | None:
        return Ended(2) if "edad_fast.train" in command and "/edad/seed-0" in command[4] else None

    file = write_suite(tmp_path)
    status, stub = start(file, before=fail)
    assert status == 1
    assert "evaluation/edad/seed-0/genes" not in stub.started
    assert "evaluation/two_stage/seed-1/genes" in stub.started
    output = capsys.readouterr().out
    assert "6 of 8 done, 1 failed, 1 wait:" in output
    assert "edad, seed 0: train: error: the disk is made of cheese (log: " in output
    assert "jobs that need it and were not started: 1" in output
    assert "Not all seeds are done: edad." in output
    status, stub = start(file)
    assert (status, stub.started) == (0, ["runs/edad/seed-0", "evaluation/edad/seed-0/genes"])


def test_a_killed_child_is_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _ = start(write_suite(tmp_path), before=lambda number, command: Ended(-9))
    assert status == 1
    assert "killed by signal 9; out of memory?" in capsys.readouterr().out


def test_interrupted_work_is_resumed(tmp_path: Path) -> None:
    def die(number: int, command: Sequence[str]) -> Ended | None:
        if number < 3:
            return None
        folder = Path(yaml.safe_load(Path(command[4]).read_text())["output_dir"])
        folder.mkdir(parents=True)
        raise KeyboardInterrupt  # as SIGKILL would, it leaves a record that was begun

    file = write_suite(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        start(file, before=die)
    stub = start(file)[1]
    assert stub.commands[0][-1] == "--resume"
    assert stub.started[0] == "runs/two_stage/seed-0"
    assert "--resume" not in stub.commands[2]


def test_an_evaluation_keeps_its_finished_seeds(tmp_path: Path) -> None:
    def die(number: int, command: Sequence[str]) -> Ended | None:
        if number == 2:
            folder = tmp_path / "out/evaluation/edad/seed-0/genes"
            folder.mkdir(parents=True)
            (folder / "mark").touch()
            raise KeyboardInterrupt
        return None

    file = write_suite(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        start(file, before=die)
    start(file)
    assert (tmp_path / "out/evaluation/edad/seed-0/genes/mark").exists()


def test_chunks_of_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_suite(tmp_path)

    def end_of_time(number: int, command: Sequence[str]) -> Ended | None:
        if number < 3:
            return None
        checkpoint = tmp_path / "out/runs/two_stage/seed-0/checkpoints/stage0-step1"
        checkpoint.mkdir(parents=True)
        (checkpoint / "state.json").touch()
        return Ended(130, stopped=True)

    status, stub = start(file, "--max_minutes", "8", before=end_of_time)
    assert (status, len(stub.started)) == (0, 3)
    assert "2 of 8 done" in (output := capsys.readouterr().out)
    assert output.strip().endswith("run the same command again")
    # An evaluation that takes longer than is left waits for the next chunk.
    record = tmp_path / "out/records/evaluation/edad/seed-0/genes.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"seconds": 10_000.0}))
    status, stub = start(file, "--max_minutes", "8")
    assert (status, stub.started) == (0, ["runs/two_stage/seed-0"])
    status, stub = start(file, "--max_minutes", "300")
    assert stub.started[0] == "evaluation/two_stage/seed-0/genes"


def test_work_that_fits_into_no_chunk_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _ = start(
        write_suite(tmp_path), "--max_minutes", "8", before=lambda number, command: Ended(130, stopped=True)
    )
    assert status == 1
    assert "came no step further" in (output := capsys.readouterr().out)
    assert "raise --max_minutes" in output


def test_ctrl_c_ends_the_comparison(tmp_path: Path) -> None:
    def press(number: int, command: Sequence[str]) -> Ended | None:
        os.kill(os.getpid(), signal.SIGINT)
        return Ended(130, stopped=True)

    file = write_suite(tmp_path)
    with pytest.raises(Interrupted, match=r"0 of 8 done. Run the same command"):
        start(file, before=press)

    def press_at_its_end(number: int, command: Sequence[str]) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match=r"1 of 8 done. Run the same command"):
        start(file, before=press_at_its_end)
    assert len(start(file)[1].started) == 7


CHAIN: dict[str, Any] = {
    "first": {"train": {"method": "edad"}},
    "second": {
        "train": {
            "method": "general_distillation",
            "teacher": "{first}/teacher",
            "student": "{first}/student",
        }
    },
    "third": {"train": {"method": "adapt_then_distill", "teacher": "{second}/teacher"}, "model": "teacher"},
    "teacher": {"model": "{third}/teacher", "stages": ["adapt"]},
    "given": {"model": "{suite_dir}/teacher"},
    "untrained": {
        "model": "{first}/student",
        "once": True,
        "stages": [],
        "evaluate": {"ner": {"untrained": True}},
    },
}


def test_chained_systems(tmp_path: Path) -> None:
    file = write_suite(tmp_path, systems=dict(reversed(CHAIN.items())), seeds=[3, 5])
    plan = build_plan(load_suite(file))
    ids = list(plan.jobs)
    for seed in (3, 5):
        order = [ids.index(f"runs/{name}/seed-{seed}") for name in ("first", "second", "third")]
        assert order == sorted(order)
    assert plan.jobs["runs/third/seed-5"].needs == ("runs/second/seed-5",)
    _, stub = start(file)
    config = yaml.safe_load((tmp_path / "out/configs/runs/second/seed-5.yaml").read_text())
    assert config["teacher"] == str(tmp_path / "out/runs/first/seed-5/teacher")
    assert config["seed"] == 5
    once = next(c for c in stub.commands if "evaluation/untrained/genes" in " ".join(c))
    assert once[-5:] == ["--seeds", "2", "--untrained", "--seed", "3"]
    assert "runs/first/seed-3/student" in " ".join(once)
    assert sum("evaluation/given/" in name for name in stub.started) == 1
    # What is made anew below makes all above it anew.
    (tmp_path / "out/runs/first/seed-3/report.json").unlink()
    again = start(file)[1].started
    assert [name for name in again if name.startswith("runs/")] == [
        f"runs/{name}/seed-3" for name in ("first", "second", "third")
    ]
    assert {name.split("/")[1] for name in again} == {*CHAIN} - {"given"}
    # An option of the first changes the third.
    text = yaml.safe_load(file.read_text())
    text["systems"]["first"]["train"]["schedule"] = "cosine"
    file.write_text(yaml.safe_dump(text, sort_keys=False))
    with pytest.raises(InputError, match="made otherwise"):
        start(file, "--only", "third")


def test_only_some_systems_and_what_they_need(tmp_path: Path) -> None:
    file = write_suite(tmp_path, systems=CHAIN, seeds=1)
    _, stub = start(file, "--only", "second")
    assert stub.started == [
        *("runs/first/seed-0", "runs/second/seed-0"),
        *("evaluation/second/seed-0/genes",),
    ]
    with pytest.raises(InputError, match="--only secnd: no such system; did you mean 'second'"):
        start(file, "--only", "secnd")


def test_domains_and_variables(tmp_path: Path) -> None:
    file = write_suite(
        tmp_path,
        seeds=[0],
        variables={"texts": None},
        domains={"a-b": {"source": "a", "target": "b"}, "b-a": {"source": "b", "target": "a"}},
        systems={
            "teacher": {"train": {"corpus": ["{texts}/{source}.txt"]}, "tasks": []},
            "student": {"train": {"teacher": "{teacher}/teacher", "corpus": ["{texts}/{target}.txt"]}},
        },
        tasks={"genes": {"kind": "ner", "data": "{texts}/{target}", "seeds": 1}},
    )
    suite = load_suite(file)
    with pytest.raises(InputError, match=r"teacher: corpus: \{texts\} has no value; give texts under var"):
        build_plan(suite)
    texts = str(tmp_path / "t")
    for name in ("a", "b"):
        (tmp_path / "t" / name).mkdir(parents=True)
        (tmp_path / "t" / f"{name}.txt").write_text("text\n")
    plan = build_plan(with_flags(suite, variables={"texts": texts}))
    assert list(plan.jobs) == [
        part
        for domain in ("a-b", "b-a")
        for part in (
            f"runs/teacher/{domain}/seed-0",
            f"runs/student/{domain}/seed-0",
            f"evaluation/student/{domain}/seed-0/genes",
        )
    ]
    job = plan.jobs["runs/student/b-a/seed-0"]
    assert job.parts["options"]["corpus"] == [f"{texts}/a.txt"]
    assert "runs/teacher/b-a/seed-0/teacher" in job.parts["options"]["teacher"]
    assert f"{texts}/a" in plan.jobs["evaluation/student/b-a/seed-0/genes"].command


def test_one_vocabulary_for_all_that_say_nothing(tmp_path: Path) -> None:
    systems = {
        "shared": {"train": {}},
        "own": {"train": {"vocab_size": 50}},
        "general": {"train": {"vocab": None}},
    }
    file = write_suite(tmp_path, systems=systems, vocabulary={"size": 40}, seeds=1)
    _, stub = start(file)
    assert stub.started[0] == "vocabulary"
    assert stub.commands[0][2:] == [
        *("edad_fast.vocab", "--base", str(tmp_path / "teacher"), "--corpus", str(tmp_path / "corpus.txt")),
        *("--size", "40", "--output_dir", str(tmp_path / "out/vocabulary")),
    ]
    vocabs = {
        name: yaml.safe_load((tmp_path / f"out/configs/runs/{name}/seed-0.yaml").read_text())["vocab"]
        for name in systems
    }
    assert vocabs == {"shared": str(tmp_path / "out/vocabulary/vocab.txt"), "own": None, "general": None}


def test_dry_run_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_suite(tmp_path)
    assert start(file, "--dry_run")[1].started == []
    assert not (tmp_path / "out").exists()
    assert "0 of 8 done, time left not known yet" in capsys.readouterr().out
    start(file, "--only", "edad")
    for record in (tmp_path / "out/records/runs").rglob("*.json"):
        record.write_text(json.dumps(json.loads(record.read_text()) | {"seconds": 120.0}))
    start(file, "--dry_run")
    output = capsys.readouterr().out
    assert "4 of 8 done, 04:02 left" in output  # two trainings as the others, two evaluations of no time


def test_ner_folders_take_the_place_of_the_suite_s(tmp_path: Path) -> None:
    suite = load_suite(write_suite(tmp_path, tables={"t": {"tasks": ["genes"]}}))
    changed = with_flags(suite, ner=["x/drugs", "y/cells"], train={"max_steps": None, "max_tokens": 99})
    assert {name: task.options["data"] for name, task in changed.tasks.items()} == {
        "drugs": "x/drugs",
        "cells": "y/cells",
    }
    assert changed.tables[0].tasks == ["drugs", "cells"]
    assert draft_plan(changed).jobs["runs/edad/seed-0"].parts["options"]["max_tokens"] == 99
    with pytest.raises(InputError, match="two folders of the same name"):
        with_flags(suite, ner=["x/drugs", "y/drugs"])
