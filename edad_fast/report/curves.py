"""A single curve as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..files import atomic_write


def write_curve(
    path: Path,
    x: Sequence[float],
    y: Sequence[float],
    *,
    x_label: str,
    y_label: str,
    marks: Sequence[tuple[float, float]] = (),
) -> Path:
    """Draw a curve, and `marks` (x, y) on it, as PNG; returns `path`.

    Raises:
        InputError: the disk is full.
    """
    # Imported here, as it takes a second; Figure is drawn without pyplot, so no display is asked for.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot(x, y, linewidth=1.2, marker="." if len(x) < 3 else None)
    if marks:
        axes.plot(*zip(*marks, strict=True), "o", markersize=4)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")
    return path
