"""From finished jobs to figures: parameters, device hours, and scores by seed."""

from __future__ import annotations

import json
import math
import statistics
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from .plan import Cell, Plan, is_once
from .records import Records
from .suite import Task


@dataclass
class Figures:
    """What is known of a system.

    Attributes:
        parameters: of the judged model.
        hours: device hours by (domain, seed), of all trainings it comes from.
        devices: their names.
        scores: by (metric, task, domain), by seed.
        missing: (metric, task, domain) that finished results do not hold -> the file.
        curves: metrics.jsonl of the first finished training of its own.
    """

    parameters: int | None = None
    hours: dict[tuple[str, int], float] = field(default_factory=dict)
    devices: set[str] = field(default_factory=set)
    scores: dict[tuple[str, str, str], dict[int, float]] = field(default_factory=dict)
    missing: dict[tuple[str, str, str], Path] = field(default_factory=dict)
    curves: Path | None = None

    @property
    def mean_hours(self) -> float | None:
        """Over seeds and domains; None where nothing was trained."""
        return statistics.fmean(self.hours.values()) if self.hours else None


def collect(plan: Plan) -> dict[str, Figures]:
    """Read the results of all finished jobs of `plan`, by system; those not done are left out.

    Raises:
        InputError: a result cannot be read.
    """
    records = Records(plan)
    done = {job.id for job in plan.jobs.values() if records.state(job) == "done"}
    found = {name: Figures() for name in plan.suite.systems}
    for cell in plan.cells:
        figures = found[cell.system]
        if set(cell.runs) <= done:
            _add_costs(plan, cell, figures)
            if figures.parameters is None:
                figures.parameters = saved_parameters(cell.model)
        for name, job in cell.tasks.items():
            if job in done:
                _add_scores(plan, cell, plan.suite.tasks[name], plan.jobs[job].result, figures)
    return found


def _add_costs(plan: Plan, cell: Cell, figures: Figures) -> None:
    system = plan.suite.systems[cell.system]
    hours: list[float] = []
    for run in cell.runs:
        report = _read(plan.jobs[run].result)
        stages = {name: value for name, value in report["device_hours"].items() if name != "total"}
        if system.stages is not None:
            stages = {name: value for name, value in stages.items() if name in system.stages}
        hours += stages.values()
        if stages:
            devices = report.get("devices", 1)
            figures.devices.add(report["device_name"] + (f", {devices} processes" if devices > 1 else ""))
        if system.train is not None and figures.curves is None and plan.jobs[run].system == cell.system:
            figures.curves = plan.jobs[run].folder / "metrics.jsonl"
    if hours:
        figures.hours[cell.domain, cell.seed] = math.fsum(hours)


def _add_scores(plan: Plan, cell: Cell, task: Task, file: Path, figures: Figures) -> None:
    result = _read(file)
    for metric in task.metrics:
        key = (metric, task.name, cell.domain)
        values = figures.scores.setdefault(key, {})
        found: dict[int, float | None] = {}
        if is_once(plan.suite.systems[cell.system], plan.suite) and isinstance(result.get("runs"), list):
            for seed, run in zip(plan.suite.seeds, result["runs"], strict=False):
                found[seed] = _score(run["test"], metric)
        else:
            found[cell.seed] = _score(result, metric)
        values.update({seed: value for seed, value in found.items() if value is not None})
        if None in found.values():
            figures.missing[key] = file


def _score(result: Any, metric: str) -> float | None:
    value = result
    for key in metric.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, dict):
        value = value.get("mean")
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return float(value)


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({error}); remove its folder and run again") from error


def saved_parameters(model: Path) -> int | None:
    """Numbers in the weight files of a model's folder, from their headers; None without one.

    Format: 8 bytes length, then JSON, https://huggingface.co/docs/safetensors (whole numbers do not count:
    they are position ids).
    """
    total = 0
    for file in sorted(model.glob("*.safetensors")):
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
        total += sum(
            math.prod(tensor["shape"])
            for name, tensor in header.items()
            if name != "__metadata__" and tensor["dtype"].startswith(("F", "BF"))
        )
    return total or None
