"""Pictures of a comparison: scores against device hours, alpha schedules, learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import atomic_write
from ..report.plots import read_metrics, token_axis
from .plan import Plan
from .results import Figures
from .tables import TITLES, View, mean_and_std


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Positions of the points (cost, score) that no other beats in one and equals in the other, by cost."""
    front: list[int] = []
    best = float("-inf")
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[index][1] > best:
            best = points[index][1]
            front.append(index)
    return front


def write_comparison_plots(
    plan: Plan, views: Sequence[View], figures: dict[str, Figures], folder: Path
) -> list[Path]:
    """Draw what there are figures for; returns the files."""
    drawn = [path for view in views if (path := _hours(plan, view, folder))]
    curves = {
        plan.suite.systems[name].label: records
        for name, found in figures.items()
        if found.curves and (records := read_metrics(found.curves))
    }
    if curves:
        drawn += [_alphas(curves, folder / "alpha.png"), _terms(curves, folder / "learning_curves.png")]
    return drawn


def _hours(plan: Plan, view: View, folder: Path) -> Path | None:
    """Average score against device hours, with std, and the Pareto front as a line; one device only."""
    points = [
        (row.figures.mean_hours, found["mean"], found["std"] or 0.0, plan.suite.systems[row.system].label)
        for row in view.rows
        if row.figures.mean_hours and (found := mean_and_std(row.average)) and found["mean"] is not None
    ]
    if len(points) < 2 or len(view.devices) > 1 or view.metric == "loss":
        return None
    figure = _figure(7, 4.5)
    axes = figure.subplots()
    for number, (hours, mean, std, label) in enumerate(points):
        axes.errorbar(hours, mean, yerr=std, fmt="o", capsize=3, color=f"C{number % 10}")
        axes.annotate(label, (hours, mean), xytext=(5, 5), textcoords="offset points", fontsize="small")
    front = pareto_front([(hours, mean) for hours, mean, _, _ in points])
    axes.plot(
        [points[i][0] for i in front], [points[i][1] for i in front], "--", color="grey", label="Pareto front"
    )
    axes.margins(x=0.15)
    axes.set_xlabel(f"device hours ({next(iter(view.devices))})")
    axes.set_ylabel(TITLES.get(view.metric, view.metric))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return _save(figure, folder / f"{view.table.name}-{view.metric}.png")


def _alphas(curves: dict[str, list[dict[str, Any]]], path: Path) -> Path:
    figure = _figure(7, 4)
    axes = figure.subplots()
    for label, records in curves.items():
        axes.plot(token_axis(records)[0], [record["alpha"] for record in records], label=label)
    axes.set_xlabel("tokens seen")
    axes.set_ylabel("alpha")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return _save(figure, path)


def _terms(curves: dict[str, list[dict[str, Any]]], path: Path) -> Path:
    """One panel for each term of the losses; totals of different methods cannot be compared."""
    terms = sorted({term for records in curves.values() for record in records for term in record["terms"]})
    figure = _figure(7, 2.4 * max(1, len(terms)))
    panels = figure.subplots(max(1, len(terms)), squeeze=False)[:, 0]
    for axes, term in zip(panels, terms, strict=False):
        for number, (label, records) in enumerate(curves.items()):
            points = [
                (tokens, record["terms"][term])
                for tokens, record in zip(token_axis(records)[0], records, strict=True)
                if term in record["terms"]
            ]
            if points:
                marker = "." if len(points) < 3 else None
                axes.plot(*zip(*points, strict=True), label=label, color=f"C{number % 10}", marker=marker)
        axes.set_ylabel(term.replace("_", " "))
        axes.grid(alpha=0.3)
        axes.legend(fontsize="x-small")
    panels[-1].set_xlabel("tokens seen")
    return _save(figure, path)


def _figure(width: float, height: float) -> Any:
    # Imported here, as it takes a second; Figure is drawn without pyplot, so no display is asked for.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def _save(figure: Any, path: Path) -> Path:
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")
    return path
