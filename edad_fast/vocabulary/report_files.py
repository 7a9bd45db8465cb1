"""The files of a vocabulary's report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..files import atomic_write, write_json
from ..report import format_table, write_curve
from .summary import summary_lines


def write_vocabulary_report(folder: Path, report: dict[str, Any]) -> None:
    """Write report.json, report.md and the curve of P(D) into `folder`."""
    write_json(folder / "report.json", report)
    lines = ["# Vocabulary", "", format_table(["", "value"], summary_lines(report), style="markdown")]
    if report["most_valuable"]:
        rows = [[m["piece"], f"{m['count']:,}", f"{m['tokens_saved']:,}"] for m in report["most_valuable"]]
        lines += ["## Most valuable new pieces", ""]
        lines.append(format_table(["piece", "count", "tokens saved"], rows, style="markdown"))
    if "automatic" in report:
        rows = [
            [f"{a['size']:,}", f"{a['tokens']:,}", f"{a['log_likelihood']:.6g}", percent(a["gain"])]
            for a in report["automatic"]
        ]
        lines += ["## Automatic size", ""]
        lines.append(format_table(["pieces", "tokens", "sum c ln(c/C)", "gain"], rows, style="markdown"))
    words = max(1, report["corpus"]["words"])
    curve = report["curve"]
    write_curve(
        folder / "plots" / "curve.png",
        curve["size"],
        [value / words for value in curve["log_likelihood"]],
        x_label="pieces",
        y_label="P(D): sum c ln(c/C) per word",
        marks=[(a["size"], a["log_likelihood"] / words) for a in report.get("automatic", [])],
    )
    lines += ["## P(D)", "", "![curve](plots/curve.png)"]
    with atomic_write(folder / "report.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def percent(gain: float | None) -> str:
    """A gain as text."""
    return "-" if gain is None else f"{100 * gain:.3f}%"
