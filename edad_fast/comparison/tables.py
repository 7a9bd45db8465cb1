"""Figures -> tables in the shape of the paper's: text, Markdown and CSV."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from ..files import atomic_write
from ..report.tables import format_table, mean_std, number
from .plan import GENERAL_STAGE, Plan, is_once
from .results import Figures
from .significance import PairedTest, paired_test
from .suite import Table

TITLES = {
    "entity_f1": "entity F1",
    "token_macro_f1": "token macro F1",
    "accuracy": "accuracy",
    "loss": "held-out MLM loss",
    "gain.parameters": "times smaller than the teacher",
    "gain.sentences_per_second": "times the teacher's sentences/s",
}
PAPER = Path(__file__).parent / "paper_figures.yaml"
Column = tuple[str, str]  # task, domain


@dataclass
class Row:
    """A system's line in one table of one metric.

    Attributes:
        ratio: device hours over the baseline's; None if either is not known or devices differ.
        scores: by column, by seed. average: by seed, over all columns; only of seeds that have them all.
        test: of the reference against this system; None for the reference and without pairs.
    """

    system: str
    figures: Figures
    ratio: float | None = None
    scores: dict[Column, dict[int, float]] = field(default_factory=dict)
    average: dict[int, float] = field(default_factory=dict)
    test: PairedTest | None = None


@dataclass
class View:
    """One table for one metric, with its columns."""

    table: Table
    metric: str
    columns: list[Column]
    rows: list[Row]

    @property
    def devices(self) -> set[str]:
        """All devices that its hours were measured on."""
        return set().union(*(row.figures.devices for row in self.rows))


def build_views(plan: Plan, figures: dict[str, Figures]) -> list[View]:
    """Every table of the suite, once for each metric of its tasks; without those that have no score yet."""
    views = []
    for table in plan.suite.tables:
        tasks = [plan.suite.tasks[name] for name in table.tasks]
        for metric in dict.fromkeys(metric for task in tasks for metric in task.metrics):
            columns = [
                (task.name, domain)
                for task in tasks
                if metric in task.metrics
                for domain in plan.suite.domains or ("",)
            ]
            rows = _rows(table, metric, columns, figures)
            missing = any((metric, *column) in row.figures.missing for row in rows for column in columns)
            if missing or any(found for row in rows for found in row.scores.values()):
                views.append(View(table, metric, columns, rows))
    return views


def _rows(table: Table, metric: str, columns: list[Column], figures: dict[str, Figures]) -> list[Row]:
    rows = []
    baseline = figures[table.baseline]
    for name in table.systems:
        row = Row(name, figures[name])
        if row.figures.mean_hours and baseline.mean_hours and row.figures.devices == baseline.devices:
            row.ratio = row.figures.mean_hours / baseline.mean_hours
        row.scores = {column: figures[name].scores.get((metric, *column), {}) for column in columns}
        complete = set.intersection(*(set(found) for found in row.scores.values()))
        row.average = {
            seed: statistics.fmean(found[seed] for found in row.scores.values()) for seed in sorted(complete)
        }
        rows.append(row)
    reference = next(row for row in rows if row.system == table.reference)
    for row in rows:
        pairs = [
            (reference.scores[column][seed], row.scores[column][seed])
            for column in columns
            for seed in sorted(set(reference.scores[column]) & set(row.scores[column]))
        ]
        if row is not reference and pairs:
            row.test = paired_test([a for a, _ in pairs], [b for _, b in pairs])
    return rows


def mean_and_std(values: dict[int, float]) -> dict[str, float | None] | None:
    """Mean and sample standard deviation over seeds (None for one seed); None without values."""
    if not values:
        return None
    std = statistics.stdev(values.values()) if len(values) > 1 else None
    return {"mean": statistics.fmean(values.values()), "std": std}


def column_title(column: Column, columns: Sequence[Column]) -> str:
    """The task's name, the domain's where there is one task only, else both."""
    task, domain = column
    if not domain:
        return task
    return domain if len({name for name, _ in columns}) == 1 else f"{task} {domain}"


def render(
    view: View, plan: Plan, *, style: Literal["plain", "markdown"] = "plain", show_paper: bool = False
) -> str:
    """The table with its notes as text."""
    table, several = view.table, len(view.columns) > 1
    compared = any(row.test for row in view.rows)
    mixed = len(view.devices) > 1
    baseline = plan.suite.systems[table.baseline].label
    headers = ["system", "parameters", "device hours", f"hours / {baseline}"]
    headers += ["device"] if mixed else []
    headers += [column_title(column, view.columns) for column in view.columns]
    headers += ["average"] if several else []
    headers += ["p (t)", "p (sign flip)"] if compared else []
    paper, paper_values = _paper(plan, view, show_paper)
    headers += paper
    lines = []
    for row in view.rows:
        cells: list[Any] = [plan.suite.systems[row.system].label]
        cells += [number(row.figures.parameters), number(row.figures.mean_hours)]
        cells.append("-" if row.ratio is None else f"{row.ratio:.3f}")
        cells += [" + ".join(sorted(row.figures.devices)) or "-"] if mixed else []
        cells += [_cell(row.scores[column]) for column in view.columns]
        cells += [_cell(row.average)] if several else []
        if compared:
            test = row.test
            cells += ["-", "-"] if test is None else [_p(test.p_t), _p(test.p_sign_flip)]
        lines.append([*cells, *paper_values.get(row.system, ["-"] * len(paper))])
    title = f"{table.title}: {TITLES.get(view.metric, view.metric)}"
    head = f"## {title}\n\n" if style == "markdown" else f"{title}\n"
    notes = _notes(view, plan, compared, mixed)
    return f"{head}{format_table(headers, lines, style=style)}\n" + "\n".join(notes) + "\n"


def _cell(values: dict[int, float]) -> str:
    found = mean_and_std(values)
    return "-" if found is None else mean_std(found)


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _notes(view: View, plan: Plan, compared: bool, mixed: bool) -> list[str]:
    suite = plan.suite
    seeds = ", ".join(map(str, suite.seeds))
    notes = [
        f"Mean ± sample standard deviation over seeds {seeds}; device hours: all stages, mean over seeds."
    ]
    once = [suite.systems[r.system].label for r in view.rows if _is_once_row(plan, r)]
    if once:
        notes.append(f"One model each, over fine-tuning seeds: {'; '.join(once)}.")
    if compared:
        tests = [row.test for row in view.rows if row.test]
        least = max((test.p_smallest for test in tests if test.p_smallest is not None), default=None)
        counts = sorted({test.pairs for test in tests})
        notes.append(
            f"p: {suite.systems[view.table.reference].label} against the row, two-sided, pairs of the same "
            f"seed and column ({' or '.join(map(str, counts))} pairs): paired t test, and exact sign-flip "
            f"permutation test, whose least possible p here is {_p(least)}. Pairs of one seed share a model, "
            "so that p is too small if its errors go together over the columns."
        )
    partial = [
        suite.systems[row.system].label
        for row in view.rows
        if any(len(found) < len(suite.seeds) for found in row.scores.values())
    ]
    if partial:
        notes.append(f"Not all seeds are done: {'; '.join(partial)}.")
    missing = {
        (view.metric, *column): file
        for row in view.rows
        for column in view.columns
        if (file := row.figures.missing.get((view.metric, *column)))
    }
    notes += [
        f"{task} {domain}".strip() + f": no {metric} in its results ({file}); give the task other metrics."
        for (metric, task, domain), file in missing.items()
    ]
    if general := _without_general_text(view, plan):
        notes.append(
            "No general_corpus was given: the stage that makes a small general model read the domain's text: "
            f"{'; '.join(general)}."
        )
    if mixed:
        notes.append("Hours were measured on DIFFERENT DEVICES; ratios are given within one device only.")
    elif view.devices:
        notes.append(f"Device: {next(iter(view.devices))}.")
    return notes


def _without_general_text(view: View, plan: Plan) -> list[str]:
    """Labels of the rows whose own training has a general stage and no text for it."""
    runs = {job.system: job.parts["options"] for job in plan.jobs.values() if job.kind == "train"}
    options = {row.system: runs.get(row.system, {}) for row in view.rows}
    return [
        plan.suite.systems[name].label
        for name, given in options.items()
        if given.get("method") in GENERAL_STAGE and not given.get("general_corpus")
    ]


def _is_once_row(plan: Plan, row: Row) -> bool:
    return is_once(plan.suite.systems[row.system], plan.suite)


def _paper(plan: Plan, view: View, show: bool) -> tuple[list[str], dict[str, list[str]]]:
    """Titles of the paper's columns, and their cells by system."""
    if not show or not view.metric.endswith("f1"):
        return [], {}
    known = yaml.safe_load(PAPER.read_text(encoding="utf-8"))
    cells = {}
    for row in view.rows:
        if found := known["systems"].get(plan.suite.systems[row.system].paper, {}):
            cells[row.system] = [number(found.get("hours")), number(found.get("average"))]
    return (["paper: hours of 4 V100", f"paper: average {known['metric']}"], cells) if cells else ([], {})


def write_csv(view: View, plan: Plan, file: Path) -> None:
    """The table with all figures unrounded, one line a system."""
    columns = [column_title(column, view.columns) for column in view.columns]
    headers = ["system", "metric", "parameters", "device", "device_hours", "hours_ratio", "hours_baseline"]
    headers += [f"{name} {what}" for name in [*columns, "average"] for what in ("mean", "std", "seeds")]
    headers += ["reference", "pairs", "difference", "p_t", "p_sign_flip", "p_smallest"]
    with atomic_write(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(headers)
        for row in view.rows:
            line: list[Any] = [row.system, view.metric, row.figures.parameters]
            line += ["+".join(sorted(row.figures.devices)), row.figures.mean_hours, row.ratio]
            line.append(view.table.baseline)
            for values in [*(row.scores[column] for column in view.columns), row.average]:
                found = mean_and_std(values) or {"mean": None, "std": None}
                line += [found["mean"], found["std"], len(values)]
            test = row.test
            line += [view.table.reference]
            line += (
                [test.pairs, test.difference, test.p_t, test.p_sign_flip, test.p_smallest]
                if test
                else [None] * 5
            )
            writer.writerow(line)


def write_scores(figures: dict[str, Figures], file: Path) -> None:
    """Every score by itself: system, metric, task, domain, seed, value."""
    with atomic_write(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["system", "metric", "task", "domain", "seed", "value"])
        for system, found in figures.items():
            for (metric, task, domain), values in found.scores.items():
                for seed, value in sorted(values.items()):
                    writer.writerow([system, metric, task, domain, seed, value])
