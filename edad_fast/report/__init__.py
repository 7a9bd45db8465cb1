"""Tables, plots, model cards and the run's summary."""

from __future__ import annotations

from .curves import write_curve
from .model_card import model_card, record_evaluation
from .plots import read_metrics, write_plots
from .summary import earlier_evaluation, summary_table, write_report
from .tables import format_table

__all__ = [
    "earlier_evaluation",
    "format_table",
    "model_card",
    "read_metrics",
    "record_evaluation",
    "summary_table",
    "write_curve",
    "write_plots",
    "write_report",
]
