"""Where the time of an optimiser step goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

from ..files import atomic_write
from .flops import flop_counter

Result = TypeVar("Result")

WARM_UP = 3  # steps in which libraries choose their algorithms and torch.compile compiles
TIMED = 5
_OPERATORS = 25


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large square matrix product, the best of six; a multiply-add is two."""
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        _wait(device)
        start = time.perf_counter()
        left @ right
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class StepProfiler:
    """Watches the first steps of a stage: times some, counts the operations of one, profiles one.

    The stage must run at least `steps` steps. What it costs is in the device hours of the run.

    Args:
        stage: its name. device: where it runs. dtype: of its matrix products.
        folder: profile-STAGE.md is written there.
        processes: that train together; what is profiled is process 0, its part of the step alone.
    """

    stage: str
    device: torch.device
    dtype: torch.dtype
    folder: Path
    processes: int = 1

    steps = WARM_UP + TIMED + 2

    def __post_init__(self) -> None:
        self._seen = 0
        self._waits: list[float] = []
        self._seconds: list[float] = []
        self._began = 0.0
        self._flops = 0

    @property
    def done(self) -> bool:
        """Whether the report has been written."""
        return self._seen >= self.steps

    def load(self, next_batches: Callable[[], Result]) -> Result:
        """Run `next_batches` and note how long the loader kept the step waiting."""
        self._began = time.perf_counter()
        result = next_batches()
        self._waits.append(time.perf_counter() - self._began)
        return result

    def step(self, run: Callable[[], Result]) -> Result:
        """Run one optimiser step."""
        number = self._seen
        self._seen += 1
        if number < WARM_UP + TIMED:
            result = run()
            _wait(self.device)
            if number >= WARM_UP:
                self._seconds.append(time.perf_counter() - self._began)
            return result
        if number == WARM_UP + TIMED:
            with flop_counter() as counter:
                result = run()
            self._flops = counter.get_total_flops()
            return result
        activities = [ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        with profile(activities=activities) as recorded:
            result = run()
            _wait(self.device)
        kind = "cuda" if self.device.type == "cuda" else "cpu"
        table = recorded.key_averages().table(
            sort_by=f"self_{kind}_time_total", row_limit=_OPERATORS, max_name_column_width=60
        )
        self._write(table)
        return result

    def _write(self, table: str) -> None:
        seconds = median(self._seconds)
        waits = median(self._waits[WARM_UP : WARM_UP + TIMED])
        peak = matrix_peak(self.device, self.dtype)
        reached = self._flops / seconds
        kind = str(self.dtype).removeprefix("torch.")
        whose = f" (process 0 of {self.processes})" if self.processes > 1 else ""
        text = (
            f"# One step of stage {self.stage}{whose}\n\n"
            f"| | |\n|---|---|\n"
            f"| seconds a step, loader included, median of {TIMED} | {seconds:.4f} |\n"
            f"| seconds of it waiting for the loader | {waits:.4f} |\n"
            f"| TFLOP a step: matrix products and attention{whose} | {self._flops / 1e12:.3f} |\n"
            f"| TFLOP/s{whose} | {reached / 1e12:.2f} |\n"
            f"| TFLOP/s of one large {kind} product here | {peak / 1e12:.2f} |\n"
            f"| share of it | {reached / peak:.0%} |\n\n"
            f"```\n{table}\n```\n"
        )
        file = self.folder / f"profile-{self.stage}.md"
        with atomic_write(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
        print(f"{text}\n{file}")
