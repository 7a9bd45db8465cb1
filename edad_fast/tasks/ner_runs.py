"""Fine-tuning with several seeds: finished runs kept and reused, mean and standard deviation."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..errors import InputError
from .fine_tuning import Progress


class FineTuned(Protocol):
    """A data set encoded for one model, such as `NerTask`."""

    def fine_tune(
        self, seed: int, learning_rates: Sequence[float], *, progress: Progress | None = None
    ) -> dict[str, Any]:
        """One run: `seed`, the `learning_rate` that was best on devel, and scores."""


def earlier_result(file: Path, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the result `file` holds, or None if there is no such file.

    Raises:
        InputError: the file is something else, or its entries under the keys of `inputs` have other values.
    """
    if not file.is_file():
        return None
    try:
        # Results of earlier versions have no seed: they began with 0.
        found: dict[str, Any] = {"seed": 0, **json.loads(file.read_text(encoding="utf-8"))}
        different = [key for key, value in inputs.items() if found[key] != value]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise _foreign(file) from error
    if different:
        raise InputError(
            f"{file}: holds results with other {', '.join(different).replace('_', ' ')}; "
            "name another --output_dir, or give --overwrite to discard them"
        )
    return found


def finished_runs(file: Path, inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The list `runs` of the result `file`, or an empty list if there is no such file; raises as above."""
    found = earlier_result(file, inputs)
    if found is None:
        return []
    if not isinstance(found.get("runs"), list):
        raise _foreign(file)
    return list(found["runs"])


def _foreign(file: Path) -> InputError:
    return InputError(f"{file}: not a result of this program; name another --output_dir or give --overwrite")


def run_seeds(
    task: Callable[[], FineTuned],
    seeds: int,
    learning_rates: Sequence[float],
    finished: Sequence[dict[str, Any]] = (),
    *,
    first: int = 0,
) -> Iterator[dict[str, Any]]:
    """Fine-tune with seeds first ... first + seeds - 1 but those `finished`; yield each run when it is done.

    The first seed tries all `learning_rates` and its choice on devel holds for the others. Progress and the
    remaining time go to stderr. `task` is called only if there is something to do.
    """
    todo = [seed for seed in range(first, first + seeds) if seed not in {run["seed"] for run in finished}]
    if not todo:
        return
    ready = task()
    rates = [finished[0]["learning_rate"]] if finished else list(learning_rates)
    trials, done_before = len(todo) - 1 + len(rates), 0
    begin = time.perf_counter()
    for seed in todo:

        def progress(
            message: str, done: float, before: int = done_before, trials_now: int = len(rates)
        ) -> None:
            elapsed = time.perf_counter() - begin
            left = elapsed * (trials / (before + done * trials_now) - 1)
            print(f"{message} ({elapsed:.0f} s, {left:.0f} s left)", file=sys.stderr, flush=True)

        run = ready.fine_tune(seed, rates, progress=progress)
        done_before += len(rates)
        rates = [run["learning_rate"]]
        yield run


METRICS = ("entity_f1", "precision", "recall", "entity_f1_strict", "token_macro_f1")


def over(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and sample standard deviation, which is None for one value."""
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": std}


def summarise(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation of the test scores over seeds."""
    tests = [run["test"] for run in runs]
    types = sorted({name for test in tests for name in test["per_type"]})
    return {
        # Results of earlier versions have no entity_f1_strict.
        **{key: over([test[key] for test in tests]) for key in METRICS if all(key in test for test in tests)},
        "per_type": {
            name: {
                key: over([t["per_type"].get(name, {}).get(key, 0.0) for t in tests])
                for key in ("f1", "precision", "recall")
            }
            for name in types
        },
    }
