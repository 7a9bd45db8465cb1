"""Plots of a run from its metrics.jsonl."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..files import atomic_write

Record = dict[str, Any]


def read_metrics(path: Path) -> list[Record]:
    """The records of metrics.jsonl in order, without a last line cut off by a kill. No file: no records."""
    if not path.is_file():
        return []
    records: list[Record] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def write_plots(metrics: Path, folder: Path) -> list[Path]:
    """Draw losses.png, alpha.png and throughput.png from `metrics` into `folder`; without records, nothing.

    The horizontal axis is tokens seen, added up over the stages; a dotted line marks where a stage begins.
    """
    records = read_metrics(metrics)
    if not records:
        return []
    # Imported here, as it takes a second; Figure is drawn without pyplot, so no display is asked for.
    from matplotlib.figure import Figure

    positions, borders = token_axis(records)

    def draw(name: str, label: str, series: dict[str, Callable[[Record], float | None]], log: bool) -> Path:
        figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
        axes = figure.subplots()
        for number, (title, value) in enumerate(series.items()):
            label_once: str | None = title
            for stage in dict.fromkeys(record.get("stage") for record in records):  # no line across a border
                points = [
                    (x, y)
                    for x, r in zip(positions, records, strict=True)
                    if r.get("stage") == stage and (y := value(r)) is not None
                ]
                if points:
                    xs, ys = zip(*points, strict=True)
                    marker = "." if len(points) < 3 else None
                    axes.plot(xs, ys, label=label_once, color=f"C{number}", linewidth=1.2, marker=marker)
                    label_once = None
        for border in borders:
            axes.axvline(border, color="grey", linestyle=":", linewidth=0.8)
        if log:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set_xlabel("tokens seen")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        if len(series) > 1:
            axes.legend(fontsize="small")
        with atomic_write(folder / name) as temporary:
            figure.savefig(temporary, format="png")
        return folder / name

    terms = sorted({name for record in records for name in record.get("terms", {})})
    losses: dict[str, Callable[[Record], float | None]] = {"total": _get("loss")}
    losses |= {term: _get("terms", term) for term in terms}
    values = [value for record in records for get in losses.values() if (value := get(record)) is not None]
    return [
        draw("losses.png", "loss", losses, log=bool(values) and min(values) > 0),
        draw("alpha.png", "alpha", {"alpha": _get("alpha")}, log=False),
        draw("throughput.png", "tokens/s", {"tokens/s": _get("tokens_per_second")}, log=False),
    ]


def _get(*keys: str) -> Callable[[Record], float | None]:
    def read(record: Record) -> float | None:
        value: Any = record
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return float(value) if isinstance(value, (int, float)) else None

    return read


def token_axis(records: list[Record]) -> tuple[list[float], list[float]]:
    """Tokens seen at each record over all stages, and the positions where a further stage begins."""
    positions: list[float] = []
    borders: list[float] = []
    base = last = 0.0
    stage = records[0].get("stage")
    for record in records:
        if record.get("stage") != stage:
            stage, base = record.get("stage"), last
            borders.append(base)
        last = base + float(record.get("tokens", 0))
        positions.append(last)
    return positions, borders
