"""Defaults of the options that depend on the method."""

from __future__ import annotations

# Methods on text classifiers; they read --labelled and --target, not --corpus.
CLASSIFIER_METHODS = ("fine_tune", "task_distillation", "source_free", "source_free_two_stage", "aad")

_DEFAULTS = {"learning_rate": 1e-4, "student_learning_rate": 5e-4, "dropout": 0.0, "temperature": 1.0}
_LABELLED = {"learning_rate": 5e-5, "student_learning_rate": 3e-4, "dropout": 0.1}
_SOURCE_FREE = {**_LABELLED, "learning_rate": 2e-5, "temperature": 2.0}
_BY_METHOD = {
    "fine_tune": _LABELLED,
    "task_distillation": _LABELLED,
    "source_free": _SOURCE_FREE,
    "source_free_two_stage": _SOURCE_FREE,
    "aad": {**_SOURCE_FREE, "learning_rate": 1e-5},  # Ryu and Lee 2020
}


def defaults_of(method: str) -> dict[str, float]:
    """Option -> value where the user gives none."""
    return {**_DEFAULTS, **_BY_METHOD.get(method, {})}
