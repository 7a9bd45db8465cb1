"""Command line of a comparison -> suite, runs, tables and plots."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError
from ..files import atomic_write
from ..options import Parser, check_options, suggestion
from ..report import format_table
from .children import run_child
from .inputs import refuse, task_problems
from .plan import Job, Plan, draft_plan
from .plots import write_comparison_plots
from .records import Records
from .results import collect
from .runner import Execute, Outcome, locked, run_jobs, time_left
from .suite import Suite, built_in, built_in_suites, load_suite, seed_list, with_flags
from .tables import build_views, render, write_csv, write_scores


def build_parser() -> argparse.ArgumentParser:
    """The flags of `python -m edad_fast.compare`."""
    parser = Parser(
        prog="python -m edad_fast.compare",
        description="Run several systems on the same text, seeds and tasks, and print them in one table. "
        "What is done is not done again; give the same command to go on after any interruption.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", metavar="FILE", help="suite file (docs/compare.md)")
    add("--paper_table", metavar="|".join(built_in_suites()), help="a built-in suite instead")
    add("--output_dir", metavar="DIR", help="runs, results, tables, plots (default: the suite's)")
    add("--seeds", nargs="+", metavar="N", help="a part of the suite's seeds, or others")
    add("--teacher", metavar="ID|DIR", help="as of edad_fast.train, for all systems; so the next two")
    add("--corpus", nargs="+", metavar="GLOB", help="domain text")
    add("--max_tokens", metavar="N", help="budget of each stage")
    add("--train", nargs="+", default=[], metavar="NAME=VALUE", help="any other option of edad_fast.train")
    add("--ner", nargs="+", default=[], metavar="DIR", help="NER tasks, in place of the suite's")
    add("--sentiment", metavar="DIR", help="folder of the sentiment domains: the suite's {sentiment}")
    add("--data_root", metavar="DIR", help="the suite's {data_root}")
    add("--only", nargs="+", default=[], metavar="SYSTEM", help="these systems, and what they build on")
    add("--max_minutes", type=float, metavar="M", help="save and stop after that; the next call goes on")
    add("--jobs", type=int, default=1, choices=(1,), help="runs at a time: one, as hours are measured")
    add("--overwrite", action="store_true", help="do again what was made from other options or files")
    add("--show_paper", action="store_true", help="the paper's own figures in columns beside")
    add("--dry_run", action="store_true", help="list what there is to do, then stop")
    return parser


def compare(arguments: Sequence[str], execute: Execute = run_child) -> int:
    """Do what the command line says.

    Returns:
        Exit status: 0, also when --max_minutes ended it; 1 if a run failed.

    Raises:
        InputError: bad flags, suite or input. Interrupted: after a signal.
    """
    options = build_parser().parse_args(list(arguments))
    suite = _suite(options)
    seeds = suite.seeds if options.seeds is None else seed_list(_numbers(options.seeds), "--seeds")
    # Some of the suite's seeds are a part of it; others are another comparison.
    if not set(seeds) <= set(suite.seeds):
        suite = with_flags(suite, seeds=seeds)
    plan = draft_plan(suite)
    jobs = _chosen(plan, options.only, seeds)
    refuse(suite.name, {**plan.problems, **task_problems(list(plan.jobs.values()))})
    if options.dry_run:
        print(_listing(plan, jobs))
        return 0
    if options.max_minutes is not None and options.max_minutes <= 0:
        raise InputError("--max_minutes must be positive")
    with locked(plan.suite.output_dir) as lock:
        outcome = run_jobs(
            plan,
            jobs,
            lock=lock,
            overwrite=options.overwrite,
            max_seconds=options.max_minutes and options.max_minutes * 60,
            execute=execute,
        )
        print(write_results(plan, show_paper=options.show_paper))
    print(_ending(plan, jobs, outcome))
    return 1 if outcome.failed else 0


def _suite(options: argparse.Namespace) -> Suite:
    if options.config is not None and options.paper_table is not None:
        raise InputError(
            f"--config {options.config} and --paper_table {options.paper_table} were both given; give one"
        )
    if options.config is None and options.paper_table is None:
        raise InputError(f"give --config FILE, or --paper_table {'|'.join(built_in_suites())}")
    suite = load_suite(options.config or built_in(options.paper_table))
    train: dict[str, Any] = {}
    for item in options.train:
        name, equals, value = item.partition("=")
        if not equals:
            raise InputError(f"--train {item}: give NAME=VALUE")
        train[name] = yaml.safe_load(value)
    named = {name: getattr(options, name) for name in ("teacher", "corpus", "max_tokens")}
    train |= {name: value for name, value in named.items() if value is not None}
    return with_flags(
        suite,
        output_dir=options.output_dir,
        train=check_options(train, "command line"),
        variables={"sentiment": options.sentiment, "data_root": options.data_root},
        ner=options.ner,
    )


def _numbers(seeds: Sequence[str]) -> list[int]:
    if not all(seed.isascii() and seed.isdecimal() for seed in seeds):
        raise InputError(f"--seeds {' '.join(seeds)}: give whole numbers")
    return [int(seed) for seed in seeds]


def _chosen(plan: Plan, only: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    systems = plan.suite.systems
    for name in only:
        if name not in systems:
            raise InputError(f"--only {name}: no such system{suggestion(name, list(systems))}")
    ids = plan.of_systems(only or systems, seeds)
    return [job for job in plan.jobs.values() if job.id in ids]


def _listing(plan: Plan, jobs: Sequence[Job]) -> str:
    records = Records(plan)
    rows = []
    for job in jobs:
        state, estimate = records.state(job), records.estimate(job)
        minutes = "-" if state == "done" or estimate is None else f"{estimate / 60:.1f}"
        rows.append([job.id, state, minutes, shlex.join(job.command)])
    done = sum(row[1] == "done" for row in rows)
    table = format_table(["job", "state", "minutes", "command"], rows)
    note = ""
    if any(job.config and not Path(job.command[-1]).is_file() for job in jobs):
        note = f"\nThe files under {plan.suite.output_dir}/configs are written when a run begins."
    return f"{table}\n{done} of {len(rows)} done, {time_left(records, jobs)}{note}"


def write_results(plan: Plan, *, show_paper: bool = False) -> str:
    """Write tables.md, tables/*.csv, scores.csv and plots/*.png of what is done; the tables as text."""
    folder = plan.suite.output_dir
    figures = collect(plan)
    views = build_views(plan, figures)
    for view in views:
        write_csv(view, plan, folder / "tables" / f"{view.table.name}-{view.metric}.csv")
    write_scores(figures, folder / "scores.csv")
    plots = write_comparison_plots(plan, views, figures, folder / "plots")
    parts = [
        f"# {plan.suite.name}",
        *(render(view, plan, style="markdown", show_paper=show_paper).strip() for view in views),
    ]
    parts += [f"![{plot.stem}](plots/{plot.name})" for plot in plots]
    with atomic_write(folder / "tables.md") as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return "\n".join(render(view, plan, show_paper=show_paper) for view in views)


def _ending(plan: Plan, jobs: Sequence[Job], outcome: Outcome) -> str:
    lines = [f"tables, plots: {plan.suite.output_dir}/tables.md"]
    done = f"{len(outcome.done)} of {outcome.total} done"
    if outcome.out_of_time:
        left = time_left(Records(plan), jobs)
        lines.append(f"{done}, {left}: run the same command again")
    elif outcome.failed:
        waiting = sum(map(len, outcome.waiting.values()))
        lines.append(f"{done}, {len(outcome.failed)} failed" + (f", {waiting} wait:" if waiting else ":"))
    for job, why in outcome.failed.items():
        lines.append(f"  {plan.jobs[job].title}: {why}")
        if job in outcome.waiting:
            lines.append(f"    jobs that need it and were not started: {len(outcome.waiting[job])}")
    return "\n".join(lines)
