"""Tables as aligned text: plain for a terminal, Markdown for a file."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Literal

_NUMERIC = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?( ?(%|x|s|h|ms|MB|GB|±.*))?|-|nan|inf")


def format_table(
    headers: Sequence[str], rows: Sequence[Sequence[Any]], *, style: Literal["plain", "markdown"] = "plain"
) -> str:
    """Align `rows` below `headers`; columns of numbers to the right. Cells are shown with `str`, None as "-".

    Markdown tables stay readable as text: their columns are padded to the same width.

    Raises:
        ValueError: a row has another number of cells than `headers`.
    """
    cells = [[_cell(value, style) for value in row] for row in [headers, *rows]]
    if any(len(row) != len(headers) for row in cells):
        raise ValueError(f"every row needs {len(headers)} cells")
    columns = list(zip(*cells, strict=True))
    widths = [max(3, *map(len, column)) for column in columns]
    right = [len(c) > 1 and all(_NUMERIC.fullmatch(cell) for cell in c[1:]) for c in columns]
    aligned = [
        [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)] for row in cells
    ]
    if style == "markdown":
        rule = ["-" * (w - 1) + ":" if r else "-" * w for w, r in zip(widths, right, strict=True)]
        return "\n".join("| " + " | ".join(row) + " |" for row in [aligned[0], rule, *aligned[1:]]) + "\n"
    rule = ["-" * w for w in widths]
    return "\n".join("  ".join(row).rstrip() for row in [aligned[0], rule, *aligned[1:]]) + "\n"


def _cell(value: Any, style: str) -> str:
    text = "-" if value is None else str(value)
    text = " ".join(text.split())
    return text.replace("|", "\\|") if style == "markdown" else text


def number(value: float | int | None, digits: int = 4) -> str:
    """A number for a table: integers with thousands separators, others with `digits` significant digits."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def mean_std(value: dict[str, float | None], digits: int = 4) -> str:
    """`mean ± std` of a {"mean", "std"} pair; the mean alone where there is no std."""
    text = f"{value['mean']:.{digits}f}"
    return text if value.get("std") is None else f"{text} ± {value['std']:.{digits}f}"
