"""The run's summary: report.json, report.md and plots."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..files import atomic_write, write_json
from .plots import write_plots
from .tables import format_table, number

_TITLES = {
    "parameters": "parameters",
    "tokens_seen": "tokens seen",
    "steps": "optimiser steps",
    "device_hours": "device hours",
    "tokens_per_second": "tokens/s",
    "peak_memory": "peak memory",
    "losses": "last loss",
    "mlm_loss": "held-out MLM loss",
    "evaluation": "evaluation",
    "method": "method",
    "seed": "seed",
    "config_hash": "configuration",
    "device_name": "device",
}


def finite(value: Any) -> Any:
    """`value` with NaN and infinities replaced by None, as JSON has no such numbers."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, (*path, str(key)))
    elif not isinstance(value, (list, tuple)):
        yield path, value


def summary_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, value) for each single value of the report's known keys, in a fixed order, without lists."""
    rows = []
    if report.get("devices", 1) > 1 and "device_name" in report:
        report = {**report, "device_name": f"{report['device_name']}, {report['devices']} processes"}
    for key, title in _TITLES.items():
        for path, value in _leaves(report.get(key, {}), (title,)):
            rows.append((" / ".join(path).replace("_", " "), _show(key, path[-1], value)))
    return rows


def _show(key: str, name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "-" if value is None else str(value)
    if key in ("seed", "config_hash"):
        return str(value)
    if key == "peak_memory" or name.endswith("bytes"):
        return f"{value / 1e6:,.0f} MB"
    return number(value)


def summary_table(report: Mapping[str, Any]) -> str:
    """The summary as an aligned table for the terminal."""
    return format_table(["", "value"], summary_rows(report))


def earlier_evaluation(output_dir: str | Path, config_hash: str) -> dict[str, Any]:
    """The evaluation results in the report.json of `output_dir`, if it is of the same configuration."""
    try:
        report = json.loads((Path(output_dir) / "report.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}
    same = isinstance(report, dict) and report.get("config_hash") == config_hash
    return dict(report.get("evaluation", {})) if same else {}


def write_report(output_dir: str | Path, report: Mapping[str, Any]) -> Path:
    """Write report.json, report.md and plots/*.png (from metrics.jsonl, if there) into `output_dir`.

    Known keys, each optional: method, seed, config_hash, parameters {teacher, student}, tokens_seen, steps,
    device_name, devices (processes), device_hours {stage: hours, total}, tokens_per_second, peak_memory
    (bytes, a number or one per stage), losses, mlm_loss {model: {before, after}}, evaluation. Others go into
    report.json unchanged.

    Returns:
        The path of report.md.

    Raises:
        InputError: the disk is full.
    """
    folder = Path(output_dir)
    write_json(folder / "report.json", finite(report))
    plots = write_plots(folder / "metrics.jsonl", folder / "plots")
    lines = [f"# Run report: {report.get('method', 'run')}", ""]
    lines.append(format_table(["", "value"], summary_rows(report), style="markdown"))
    if plots:
        lines += ["## Course of the run", ""]
        lines += [f"![{plot.stem}](plots/{plot.name})" for plot in plots] + [""]
    lines.append("Held-out MLM losses are per WordPiece: comparable only between models of one vocabulary.")
    with atomic_write(folder / "report.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "report.md"
