"""Comparisons: p-values, tables and pictures against figures worked out by hand."""

from __future__ import annotations

import csv
import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_suite import Stub, write_suite

from edad_fast.comparison import command
from edad_fast.comparison.command import compare
from edad_fast.comparison.plan import build_plan
from edad_fast.comparison.plots import pareto_front
from edad_fast.comparison.results import collect
from edad_fast.comparison.significance import MAX_PAIRS, paired_test, sign_flip_p, student_t_tail
from edad_fast.comparison.suite import built_in, load_suite
from edad_fast.comparison.tables import build_views, render

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_sign_flip_against_all_assignments(n: int) -> None:
    rng = np.random.default_rng(n)
    for values in (rng.normal(0.3, 1.0, n), rng.integers(-2, 3, n) / 10, np.zeros(n)):
        sums = [abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in _signs(n)]
        expected = sum(value >= abs(values.sum()) - 1e-12 for value in sums) / 2**n
        assert sign_flip_p(values) == expected
        # The least p that any assignment of signs would have given.
        test = paired_test(list(values), [0.0] * n)
        assert test.p_smallest == sum(value >= max(sums) - 1e-12 for value in sums) / 2**n
        assert test.p_sign_flip is not None
        assert test.p_sign_flip >= test.p_smallest


def _signs(n: int) -> Any:
    return itertools.product((1.0, -1.0), repeat=n)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 11, 30])
def test_student_t_against_its_density(freedom: int) -> None:
    density = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    density /= math.sqrt(freedom * math.pi)
    for t in (0.0, 0.4, 1.0, 2.7, 9.0):
        xs = np.linspace(0.0, t, 200_001)
        ys = (1 + xs**2 / freedom) ** (-(freedom + 1) / 2)
        inside = 2 * density * float((ys[1:] + ys[:-1]).sum()) / 2 * (t / 200_000)  # trapezoids
        assert student_t_tail(-t, freedom) == pytest.approx(1 - inside, abs=1e-8)


def test_paired_test() -> None:
    test = paired_test([0.5, 0.75, 0.875], [0.25, 0.25, 0.125])
    # t = mean / (std / sqrt(3)) = 0.5 / (0.25 / sqrt(3)) = 2 sqrt(3); two degrees: p = 1 - t / sqrt(2 + t^2)
    assert test.p_t == pytest.approx(1 - math.sqrt(12 / 14))
    assert (test.pairs, test.difference, test.p_sign_flip, test.p_smallest) == (3, 0.5, 0.25, 0.25)
    same = paired_test([0.5, 0.5], [0.25, 0.25])
    assert (same.p_t, same.p_sign_flip) == (None, 0.5)
    assert paired_test([], []).p_sign_flip is None
    assert paired_test([1.0] * (MAX_PAIRS + 1), [0.0] * (MAX_PAIRS + 1)).p_sign_flip is None
    with pytest.raises(ValueError, match="2 and 1 values"):
        paired_test([1.0, 2.0], [1.0])


# Entity F1 by system, seed and task.
SCORES = {
    ("edad", 0, "genes"): 0.50,
    ("edad", 1, "genes"): 0.70,
    ("edad", 0, "drugs"): 0.80,
    ("edad", 1, "drugs"): 0.60,
    ("two_stage", 0, "genes"): 0.40,
    ("two_stage", 1, "genes"): 0.50,
    ("two_stage", 0, "drugs"): 0.50,
    ("two_stage", 1, "drugs"): 0.50,
}


def _score(model: str, task: str) -> float:
    found = re.search(r"runs/(\w+)/seed-(\d)", model)
    return SCORES[found[1], int(found[2]), task] if found and task in ("genes", "drugs") else 0.3


def _suite(folder: Path, **changes: Any) -> Path:
    task = {"kind": "ner", "data": "{suite_dir}/ner", "seeds": 1}
    systems = {
        "edad": {"label": "EDAD", "paper": "EDAD", "train": {"method": "edad"}},
        "two_stage": {"train": {"method": "adapt_then_distill"}},
    }
    changes = {"systems": systems, **changes}
    return write_suite(folder, tasks={"genes": task, "drugs": task}, **changes)


def _rows(file: Path) -> dict[str, dict[str, str]]:
    with file.open(newline="") as stream:
        return {row["system"]: row for row in csv.DictReader(stream)}


def test_tables_against_figures_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = _suite(tmp_path, tables={"all": {"title": "Both", "baseline": "two_stage"}})
    assert compare(["--config", str(file)], Stub(_score)) == 0
    output = capsys.readouterr().out
    rows = _rows(tmp_path / "out/tables/all-entity_f1.csv")
    edad, other = rows["edad"], rows["two_stage"]
    # 2 h and 4 h against (1.5 + 1.0) h and twice that; 10 x 2 floats, whole numbers do not count.
    assert (float(edad["device_hours"]), float(other["device_hours"])) == (3.0, 3.75)
    assert (edad["parameters"], edad["device"], float(edad["hours_ratio"])) == ("20", "toy", 0.8)
    assert float(edad["genes mean"]) == pytest.approx(0.6)
    assert float(edad["genes std"]) == pytest.approx(math.sqrt(0.02))
    assert float(edad["average mean"]) == pytest.approx(0.65)
    assert float(edad["average std"]) == pytest.approx(0.0)  # both seeds have 0.65 on average
    # Differences 0.1, 0.2, 0.3, 0.1: all of one sign, 2 of 16 assignments.
    assert (other["reference"], other["pairs"]) == ("edad", "4")
    assert float(other["difference"]) == pytest.approx(0.175)
    assert (float(other["p_sign_flip"]), float(other["p_smallest"])) == (0.125, 0.125)
    t = 0.175 / math.sqrt((0.075**2 * 2 + 0.025**2 + 0.125**2) / 3 / 4)
    assert float(other["p_t"]) == pytest.approx(student_t_tail(t, 3))
    assert edad["p_t"] == ""
    macro = _rows(tmp_path / "out/tables/all-token_macro_f1.csv")
    assert float(macro["edad"]["genes mean"]) == pytest.approx(0.7)
    # What is printed says the same.
    line = next(line for line in output.splitlines() if line.startswith("EDAD"))
    assert re.sub(" +", " ", line) == ("EDAD 20 3 0.800 0.6000 ± 0.1414 0.7000 ± 0.1414 0.6500 ± 0.0000 - -")
    assert "Both: entity F1" in output
    assert "Both: token macro F1" in output
    assert "EDAD against the row" in output
    assert "(4 pairs)" in output
    assert "least possible p here is 0.125" in output
    assert "paper" not in output
    text = (tmp_path / "out/tables.md").read_text()
    for plot in ("all-entity_f1", "all-token_macro_f1", "alpha", "learning_curves"):
        assert f"](plots/{plot}.png)" in text
        assert (tmp_path / f"out/plots/{plot}.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "out/scores.csv").open() as stream:
        scores = [row for row in csv.DictReader(stream) if row["metric"] == "entity_f1"]
    assert {(r["system"], int(r["seed"]), r["task"]): float(r["value"]) for r in scores} == SCORES


@pytest.fixture
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "write_comparison_plots", lambda *parts: [])


@pytest.mark.usefixtures("without_plots")
def test_hours_add_up_over_a_chain(tmp_path: Path) -> None:
    systems = {
        "edad": {"train": {"method": "edad"}},
        "two_stage": {"train": {"method": "adapt_then_distill", "teacher": "{edad}/teacher"}},
        "adapted": {"model": "{two_stage}/teacher", "stages": ["adapt"]},
        "raw": {"model": "{suite_dir}/teacher"},
        "untrained": {
            "model": "{edad}/student",
            "once": True,
            "stages": [],
            "evaluate": {"ner": {"untrained": True}},
        },
    }
    file = _suite(tmp_path, systems=systems)
    compare(["--config", str(file)], Stub(_score))
    rows = _rows(tmp_path / "out/tables/table-entity_f1.csv")
    # Seeds 0 and 1 cost 1 and 2 times: EDAD 2 h, adaptation 1.5 h, distillation 1 h.
    assert float(rows["two_stage"]["device_hours"]) == pytest.approx(1.5 * (2.0 + 1.5 + 1.0))
    assert float(rows["adapted"]["device_hours"]) == pytest.approx(1.5 * 1.5)
    assert rows["adapted"]["parameters"] == "60"
    assert rows["raw"]["device_hours"] == rows["untrained"]["device_hours"] == ""
    assert rows["untrained"]["parameters"] == "20"
    # One model, two fine-tuning seeds: 0.3 and 0.31 for the first, 0.5 and 0.51 for the second.
    assert float(rows["raw"]["genes std"]) == pytest.approx(0.01 / math.sqrt(2))
    assert float(rows["untrained"]["genes mean"]) == pytest.approx(0.505)
    assert rows["raw"]["pairs"] == "4"


@pytest.mark.usefixtures("without_plots")
def test_devices_are_never_mixed_in_silence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = _suite(tmp_path)
    compare(["--config", str(file), "--only", "edad"], Stub(_score))
    capsys.readouterr()
    compare(["--config", str(file)], Stub(_score, device="another"))
    output = capsys.readouterr().out
    assert "DIFFERENT DEVICES" in output
    rows = _rows(tmp_path / "out/tables/table-entity_f1.csv")
    assert (rows["two_stage"]["device"], rows["two_stage"]["hours_ratio"]) == ("another", "")
    assert rows["edad"]["hours_ratio"] == "1.0"


@pytest.mark.usefixtures("without_plots")
def test_the_paper_s_figures_stand_beside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare(["--config", str(_suite(tmp_path)), "--show_paper"], Stub(_score))
    output = capsys.readouterr().out
    assert "paper: hours of 4 V100" in output
    assert "paper: average F1 in % (probably token level" in output
    (edad, _) = [line.split() for line in output.splitlines() if line.startswith("EDAD  ")]
    (other, _) = [line.split() for line in output.splitlines() if line.startswith("two_stage  ")]
    assert (edad[-2:], other[-2:]) == (["17.4", "88.36"], ["-", "-"])
    assert "88.36" not in (tmp_path / "out/tables/table-entity_f1.csv").read_text()


@pytest.mark.usefixtures("without_plots")
def test_tables_choose_rows_and_columns(tmp_path: Path) -> None:
    tables = {"one": {"systems": ["two_stage", "edad"], "tasks": ["drugs"]}, "rest": {"systems": ["edad"]}}
    file = _suite(tmp_path, tables=tables)
    compare(["--config", str(file)], Stub(_score))
    plan = build_plan(load_suite(file))
    views = build_views(plan, collect(plan))
    assert [(v.table.name, v.metric, len(v.columns)) for v in views] == [
        ("one", "entity_f1", 1),
        ("one", "token_macro_f1", 1),
        ("rest", "entity_f1", 2),
        ("rest", "token_macro_f1", 2),
    ]
    assert [row.system for row in views[0].rows] == ["two_stage", "edad"]
    assert views[0].table.reference == "two_stage"
    assert views[0].rows[1].test is not None
    assert views[0].rows[1].test.difference == pytest.approx(-0.2)
    text = render(views[0], plan, style="markdown")
    assert text.startswith("## one: entity F1\n\n| system ")
    assert "average" not in text.splitlines()[2]  # of one column


@pytest.mark.usefixtures("without_plots")
def test_domains_are_columns(tmp_path: Path) -> None:
    domains = {"a-b": {"x": "1"}, "b-a": {"x": "2"}}
    file = write_suite(tmp_path, domains=domains)
    compare(["--config", str(file)], Stub(lambda model, task: 0.5 if "/a-b/" in model else 0.75))
    rows = _rows(tmp_path / "out/tables/table-entity_f1.csv")
    assert (rows["edad"]["a-b mean"], rows["edad"]["b-a mean"]) == ("0.5", "0.75")
    assert rows["edad"]["average mean"] == "0.625"
    assert float(rows["edad"]["device_hours"]) == 3.0  # a domain's, not their sum


@pytest.mark.usefixtures("without_plots")
def test_a_score_that_is_not_there_costs_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = ["entity_f1", "entity_f1_strict"]
    tasks = {"genes": {"kind": "ner", "data": "{suite_dir}/ner", "seeds": 1, "metrics": metrics}}
    assert compare(["--config", str(write_suite(tmp_path, tasks=tasks)), "--only", "edad"], Stub()) == 0
    output = capsys.readouterr().out
    assert re.search(r"genes: no entity_f1_strict in its results \(\S+/genes/ner.json\)", output)
    assert _rows(tmp_path / "out/tables/table-entity_f1.csv")["edad"]["genes mean"] == "0.5"
    assert _rows(tmp_path / "out/tables/table-entity_f1_strict.csv")["edad"]["genes mean"] == ""


@pytest.mark.usefixtures("without_plots")
def test_a_frozen_teacher_is_one_model(tmp_path: Path) -> None:
    """The BERT row of table 1: its deviation is that of the fine-tuning, with the suite's seeds."""
    systems = {
        "gd": {"train": {"method": "general_distillation"}},
        "bert": {"model": "{gd}/teacher", "once": True, "stages": []},
    }
    stub = Stub()
    compare(["--config", str(_suite(tmp_path, systems=systems, seeds=[4, 5, 6])), "--only", "bert"], stub)
    (command,) = [c for c in stub.commands if "evaluation/bert/genes" in " ".join(c)]
    assert command[-4:] == ["--seeds", "3", "--seed", "4"]
    row = _rows(tmp_path / "out/tables/table-entity_f1.csv")["bert"]
    assert (row["genes seeds"], float(row["genes std"])) == ("3", pytest.approx(0.01))
    for suite in ("table_1", "paper"):
        file = built_in("1") if suite == "table_1" else ROOT / "benchmarks/suites/paper.yaml"
        assert load_suite(file).systems["BERT"].once


@pytest.mark.usefixtures("without_plots")
def test_general_text_that_was_not_given_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    systems = {"edad": {"train": {}}, "small": {"train": {"method": "adapt_and_distill"}}}
    tasks = {"genes": {"kind": "ner", "data": "{suite_dir}/ner", "seeds": 1}}
    file = write_suite(tmp_path, systems=systems, tasks=tasks)
    (tmp_path / "general.txt").write_text("text\n")
    note = "the stage that makes a small general model read the domain's text: small."
    for flags, noted in (
        ([], True),
        (["--train", f"general_corpus={tmp_path}/general.txt", "--overwrite"], False),
    ):
        compare(["--config", str(file), *flags], Stub())
        assert (note in capsys.readouterr().out) == noted


def test_pareto_front() -> None:
    points = [(2.0, 0.5), (1.0, 0.4), (3.0, 0.5), (2.0, 0.6), (4.0, 0.7), (1.0, 0.3)]
    assert pareto_front(points) == [1, 3, 4]
