"""Comparisons: what a suite may say, the command line, the committed suites; the children are replaced."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from toy_suite import start, write_suite

from edad_fast.comparison import command, runner
from edad_fast.comparison.children import Ended, last_line, run_child
from edad_fast.comparison.command import compare
from edad_fast.comparison.plan import Plan, build_plan
from edad_fast.comparison.runner import locked
from edad_fast.comparison.suite import built_in, built_in_suites, load_suite, with_flags
from edad_fast.config import TrainConfig
from edad_fast.errors import InputError
from edad_fast.training.signals import StopRequest

SUITES = Path(__file__).resolve().parents[1] / "benchmarks" / "suites"


@pytest.fixture(autouse=True)
def _without_what_takes_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "task_problems", lambda jobs: {})
    monkeypatch.setattr(command, "write_comparison_plots", lambda *parts: [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sedes": 3}, "unknown key 'sedes'; did you mean 'seeds'"),
        ({"seeds": []}, r"seeds is \[\]; give a number of seeds"),
        ({"seeds": [1, 1]}, "without doubles"),
        ({"train": {"techer": "x"}}, "train: unknown option 'techer'; did you mean 'teacher'"),
        ({"train": {"seq_len": "x"}}, "train: seq_len is 'x', which is not of type int"),
        ({"systems": {}}, "no systems"),
        ({"systems": {"a": {"tain": {}}}}, "a: unknown key 'tain'; did you mean 'train'"),
        ({"systems": {"a": {}}}, "a: give train"),
        ({"systems": {"a/b": {"train": {}}}}, "'a/b' is no name"),
        ({"systems": {"a": {"train": {}, "model": "x"}}}, "model is 'x'; of a trained system, student or"),
        ({"systems": {"a": {"train": {"seed": 1}}}}, "seed is set by the comparison"),
        ({"systems": {"a": {"train": {}, "tasks": ["gene"]}}}, "task 'gene' is not defined; did you mean"),
        ({"systems": {"suite_dir": {"train": {}}}}, "'suite_dir' names a system and a variable"),
        ({"tasks": {"genes": {"data": "x"}}}, "genes: give kind"),
        ({"tasks": {"genes": {"kind": "parsing"}}}, "genes: give metrics"),
        ({"tasks": {"genes": {"kind": "nerr"}}}, "genes: kind: unknown task 'nerr'; did you mean 'ner'"),
        (
            {"tasks": {"genes": {"kind": "ner", "metrics": ["entity_f2"]}}},
            "genes: unknown metric 'entity_f2' of ner; known: entity_f1, .*mean 'entity_f1'",
        ),
        ({"tasks": {"genes": {"kind": "ner", "model": "x"}}}, "model is set by the comparison"),
        ({"tables": {"t": {"systems": ["eda"]}}}, "system 'eda' is not defined; did you mean 'edad'"),
        ({"tables": {"t": {"systems": ["edad"], "reference": "two_stage"}}}, "is not among its systems"),
        ({"tables": {"t": {"refrence": "edad"}}}, "t: unknown key 'refrence'; did you mean 'reference'"),
        ({"systems": ["a"]}, "systems: expected lines of 'name: value'"),
    ],
)
def test_bad_suites_are_explained(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_suite(write_suite(tmp_path, **changes))


@pytest.mark.parametrize(
    ("systems", "message"),
    [
        ({"a": {"train": {"teacher": "{b}/teacher"}}}, r"a: teacher: \{b\} is not defined"),
        ({"a": {"model": "nowhere"}}, "a: nowhere: no such folder"),
        (
            {"a": {"train": {"teacher": "{b}/teacher"}}, "b": {"train": {"teacher": "{a}/teacher"}}},
            "systems need each other",
        ),
        ({"a": {"train": {"alpha": 0.3}}}, "a: --alpha 0.3 goes with --schedule constant"),
        ({"a": {"train": {"corpus": ["{suite_dir}/none-*.txt"]}}}, "none-"),
        ({"a": {"train": {"teacher": ""}}}, "a: --teacher is missing"),
    ],
)
def test_bad_systems_are_found_before_anything_runs(
    tmp_path: Path, systems: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build_plan(load_suite(write_suite(tmp_path, systems=systems)))


def test_command_line(tmp_path: Path) -> None:
    file = write_suite(tmp_path)
    with pytest.raises(InputError, match="give --config FILE, or --paper_table"):
        compare([])
    with pytest.raises(InputError, match=r"suite.yaml and --paper_table 1 were both given"):
        start(file, "--paper_table", "1")
    with pytest.raises(InputError, match="unknown option '--confg'; did you mean '--config'"):
        compare(["--confg", "x"])
    with pytest.raises(InputError, match="--train max_steps: give NAME=VALUE"):
        start(file, "--train", "max_steps")
    with pytest.raises(InputError, match="--max_minutes must be positive"):
        start(file, "--max_minutes", "0")
    with pytest.raises(InputError, match="--paper_table 3: not one of"):
        compare(["--paper_table", "3"])
    with pytest.raises(InputError, match=r"none.yaml: cannot be read"):
        compare(["--config", "none.yaml"])


def test_a_folder_has_one_comparison_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_LOCK_SECONDS", 0.0)
    with (
        locked(tmp_path),
        pytest.raises(InputError, match="another comparison is at work"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        pass


def test_a_child_is_asked_to_stop_and_then_logged(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = (
        "import time\nprint('ready', flush=True)\n"
        "try:\n time.sleep(60)\nexcept KeyboardInterrupt:\n print('saved'); raise SystemExit(130)"
    )
    begin = time.monotonic()
    ended = run_child([sys.executable, "-c", script], log, request=StopRequest(), deadline=begin + 0.7)
    assert (ended, last_line(log)) == (Ended(130, stopped=True), "saved")
    failed = run_child([sys.executable, "-c", "raise SystemExit('error: no')"], log, request=StopRequest())
    assert (failed, last_line(log)) == (Ended(1), "error: no")


def _filled(file: Path, tmp_path: Path) -> Plan:
    """The plan of a suite file over toy data."""
    suite = load_suite(file)
    inputs = write_suite(tmp_path).parent
    for domain in ("books", "dvd", "electronics", "kitchen"):
        (inputs / domain).mkdir(exist_ok=True)
    (inputs / "sentiment" / "imdb").mkdir(parents=True, exist_ok=True)
    (inputs / "sentiment" / "imdb" / "part.csv").write_text("reviews,labels\ngood,1\n")
    train: dict[str, Any] = {"teacher": str(inputs / "teacher")}
    if "sentiment" not in suite.variables:
        train |= {"corpus": [str(inputs / "corpus.txt")], "validation": []}
    ner = [str(inputs / "ner")] if any(task.kind == "ner" for task in suite.tasks.values()) else []
    variables = {"data_root": str(inputs), "sentiment": str(inputs)}
    suite = with_flags(suite, train=train, ner=ner, variables=variables, output_dir=str(tmp_path / "out"))
    return build_plan(suite)


@pytest.mark.parametrize("name", [*built_in_suites(), *sorted(file.name for file in SUITES.glob("*.yaml"))])
def test_committed_suites_are_whole(name: str, tmp_path: Path) -> None:
    plan = _filled(SUITES / name if name.endswith(".yaml") else built_in(name), tmp_path)
    trained = [job for job in plan.jobs.values() if job.kind == "train"]
    assert len(trained) >= 3 * len(plan.suite.seeds)
    labels = [system.label for system in plan.suite.systems.values()]
    assert len(set(labels)) == len(labels)
    assert {job.kind for job in plan.jobs.values()} >= {"train"} | {t.kind for t in plan.suite.tasks.values()}
    digests = [job.digest for job in trained]
    assert len(set(digests)) == len(digests), "two systems are the same"
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    assert all(set(job.parts["options"]) <= known for job in trained)


def test_the_suite_of_the_manual_is_whole(tmp_path: Path) -> None:
    manual = (SUITES.parents[1] / "docs" / "compare.md").read_text(encoding="utf-8")
    (tmp_path / "suite.yaml").write_text(manual.split("```yaml\n")[1].split("```")[0])
    write_suite(tmp_path / "data")  # its corpus.txt
    (tmp_path / "data" / "genes").mkdir()
    plan = build_plan(load_suite(tmp_path / "suite.yaml"))
    later = plan.jobs["runs/later/seed-2"]
    assert later.needs == ("runs/edad/seed-2",)
    assert plan.jobs["runs/edad/seed-0"].needs == ("vocabulary",)
    assert plan.suite.tables[0].baseline == "later"
    flags = {word for word in manual.split() if word.startswith(("`--", "--"))}
    known = command.build_parser().format_help()
    assert all(flag.strip("`,;|") in known for flag in flags)
