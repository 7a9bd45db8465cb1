"""Comparisons: what is found before anything runs, and what is said; the children are replaced."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from toy_suite import Stub, start, write_suite

from edad_fast.comparison import command
from edad_fast.comparison.children import Ended, last_line
from edad_fast.comparison.command import compare
from edad_fast.comparison.inputs import missing_inputs, task_problems
from edad_fast.comparison.plan import build_plan
from edad_fast.comparison.suite import load_suite, with_flags
from edad_fast.errors import InputError


@pytest.fixture(autouse=True)
def _without_what_takes_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "task_problems", lambda jobs: {})
    monkeypatch.setattr(command, "write_comparison_plots", lambda *parts: [])


def test_a_wrong_flag_of_a_task_costs_no_training(tmp_path: Path) -> None:
    tasks = {
        "genes": {"kind": "ner", "data": "{suite_dir}/ner", "epochs": 3, "learning_rate": [1e-4, 2e-4]},
        "cells": {"kind": "ner", "data": "{suite_dir}/ner", "epoch": 3},
        "trees": {"kind": "parsing", "metrics": ["las"]},
    }
    plan = build_plan(load_suite(write_suite(tmp_path, seeds=[0], tasks=tasks, vocabulary={"size": 9})))
    assert task_problems(list(plan.jobs.values())) == {
        "unknown option 'epoch'; did you mean '--epochs'?": "edad, seed 0: cells",
        "edad_fast.evaluate has no task 'parsing'": "edad, seed 0: trees",
    }


@pytest.mark.parametrize("flags", [[], ["--dry_run"]])
def test_all_that_is_missing_is_said_at_once(
    tmp_path: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "task_problems", lambda jobs: {"unknown option 'epoch'": "edad: genes"})
    train = {"teacher": "{suite_dir}/no/teacher", "corpus": ["{suite_dir}/none.txt"], "alpha": 0.3}
    tasks = {"genes": {"kind": "ner", "data": "{suite_dir}/no-ner"}, "cells": {"kind": "ner", "data": ""}}
    file = write_suite(tmp_path, train=train, tasks=tasks)
    execute = Stub()
    with pytest.raises(InputError) as caught:
        compare(["--config", str(file), *flags], execute)
    text = str(caught.value)
    assert "6 inputs or options are missing or wrong; nothing was started" in text
    for part in (
        "no/teacher: no such folder (--teacher)",
        "none.txt: no file matches",
        "no-ner: no such file or folder (--data)",
        "edad: cells: no data; give --ner DIR",
        "--alpha 0.3 goes with",
        "edad: genes: unknown option 'epoch'",
    ):
        assert text.count(part) == 1
    assert not execute.started


def test_a_suite_without_data_names_all_options() -> None:
    with pytest.raises(InputError) as caught:
        compare(["--paper_table", "1", "--dry_run"])
    for part in ("--teacher is missing", "--corpus is missing", "no data; give --ner DIR"):
        assert str(caught.value).count(part) == 1


def test_hub_ids_are_no_missing_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    for teacher, known in (("bert-base-uncased", True), ("google/bert", True), ("models/bert", False)):
        assert (missing_inputs({"teacher": teacher}, tmp_path / "out") == []) == known
    assert missing_inputs({"data": "hf:ncbi", "teacher": f"{tmp_path}/out/runs/x"}, tmp_path / "out") == []


def test_a_failed_vocabulary_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_suite(tmp_path, vocabulary={"size": 40})
    status, stub = start(file, before=lambda number, command: Ended(2))
    assert (status, stub.started) == (1, ["vocabulary"])
    output = capsys.readouterr().out
    assert "0 of 9 done, 1 failed, 8 wait:" in output
    assert output.count("cheese") == 1


def test_an_evaluation_longer_than_a_chunk_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deadlines: list[float | None] = []

    class Noting(Stub):
        def __call__(self, command: Sequence[str], log: Path, **rest: Any) -> Ended:
            deadlines.append(rest["deadline"])
            return super().__call__(command, log, **rest)

    file = write_suite(tmp_path)
    start(file, "--only", "edad")
    for record in (tmp_path / "out/records/evaluation").rglob("*.json"):
        record.write_text(json.dumps(json.loads(record.read_text()) | {"seconds": 7200.0}))
    # The training comes first, and the evaluation waits for a call of its own.
    execute = Noting()
    assert compare(["--config", str(file), "--max_minutes", "8"], execute) == 0
    assert execute.started == ["runs/two_stage/seed-0"]
    assert deadlines.pop() is not None
    capsys.readouterr()
    execute = Noting()
    assert compare(["--config", str(file), "--max_minutes", "8"], execute) == 0
    assert execute.started[0] == "evaluation/two_stage/seed-0/genes"
    assert deadlines[0] is None
    assert "runs to its end whatever --max_minutes, about 2:00:00" in capsys.readouterr().err


def test_general_text_goes_to_those_that_read_it(tmp_path: Path) -> None:
    methods = ("edad", "distill_then_adapt", "adapt_and_distill")
    file = write_suite(tmp_path, systems={name: {"train": {"method": name}} for name in methods}, seeds=1)
    (tmp_path / "general.txt").write_text("text\n")
    suite = with_flags(load_suite(file), train={"general_corpus": [str(tmp_path / "general.txt")]})
    plan = build_plan(suite)
    found = {name: "general_corpus" in plan.jobs[f"runs/{name}/seed-0"].parts["options"] for name in methods}
    assert found == {"edad": False, "distill_then_adapt": True, "adapt_and_distill": True}


def test_a_part_of_the_seeds_leaves_the_tables_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_suite(tmp_path)
    start(file)
    tables, scores = ((tmp_path / "out" / name).read_text() for name in ("tables.md", "scores.csv"))
    start(file, "--seeds", "1", "--only", "edad")
    assert (tmp_path / "out/tables.md").read_text() == tables
    assert (tmp_path / "out/scores.csv").read_text() == scores
    (tmp_path / "more").mkdir()
    assert start(write_suite(tmp_path / "more"), "--seeds", "1")[1].started == [
        f"{part}/{system}/seed-1{task}"
        for system in ("edad", "two_stage")
        for part, task in (("runs", ""), ("evaluation", "/genes"))
    ]


def test_the_commands_of_a_dry_run_can_be_pasted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_suite(tmp_path)
    start(file, "--dry_run")
    output = capsys.readouterr().out
    assert f"{sys.executable} -m edad_fast.evaluate ner --model {tmp_path}" in output
    assert f"{tmp_path}/out/configs are written when a run begins" in output
    start(file)
    capsys.readouterr()
    start(file, "--dry_run")
    assert "are written" not in capsys.readouterr().out


def test_a_changed_suite_says_what_and_how_many(tmp_path: Path) -> None:
    file = write_suite(tmp_path)
    start(file)
    with pytest.raises(InputError) as caught:
        start(file, "--train", "max_steps=8")
    text = str(caught.value)
    assert "seed-0: was made otherwise: max_steps was 4, is 8. That is 8 of 8 jobs to do again" in text


def test_a_long_message_ends_with_a_word(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("error: " + "directory " * 200)
    assert last_line(log).endswith("directory ...")
    log.write_text("error: short")
    assert last_line(log) == "error: short"


def test_one_model_goes_on_with_further_seeds(tmp_path: Path) -> None:
    systems = {"edad": {"train": {}}, "raw": {"model": "{suite_dir}/teacher"}}
    file = write_suite(tmp_path, systems=systems)
    start(file)
    mark = tmp_path / "out/evaluation/raw/genes/mark"
    mark.touch()
    _, stub = start(file, "--seeds", "0", "1", "2")
    assert set(stub.started) == {
        *("runs/edad/seed-2", "evaluation/edad/seed-2/genes", "evaluation/raw/genes"),
    }
    assert mark.exists()
    # Fewer again: what is there will do, and the table takes the suite's.
    assert start(file)[1].started == []
    assert "raw,entity_f1,genes,,2," not in (tmp_path / "out/scores.csv").read_text()
