"""What a run shows while it trains: a bar or lines, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from ..errors import InputError
from ..files import atomic_write, explain_full_disk

LINE_INTERVAL_SECONDS = 10.0


class MetricsLog:
    """metrics.jsonl: one JSON object a log step, with "stage" and "step" (steps done in the stage)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def cut(self, stages: list[str], step: int) -> None:
        """Keep the records of all but the last of `stages`, and of the last up to `step`; [] keeps none."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
                earlier = record["stage"] in stages[:-1]
                if earlier or (record["stage"] in stages[-1:] and record["step"] <= step):
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                # A line torn by a kill; all lines after a checkpoint are written again.
                continue
        with atomic_write(self.path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record.

        Raises:
            InputError: no space left.
        """
        with explain_full_disk(self.path.parent), open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")

    def sync(self) -> None:
        """Have all records on disk, so that no checkpoint is ahead of them."""
        if self.path.exists():
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


class ProgressDisplay:
    """Progress of one stage on `stream`: a bar on a terminal, else a line at most every ten seconds.

    Args:
        stage: its name.
        start, steps: steps done at the start and to do in all.
        stream: default stderr.
    """

    def __init__(self, stage: str, start: int, steps: int, stream: TextIO | None = None) -> None:
        self._stage, self._start, self._steps, self._step = stage, start, steps, start
        self._stream = stream or sys.stderr
        self._began = time.monotonic()
        self._last_line = -LINE_INTERVAL_SECONDS
        self._bar = None
        if self._stream.isatty():
            self._bar = tqdm(
                total=steps, initial=start, desc=stage, unit="step", file=self._stream, dynamic_ncols=True
            )

    def advance(self) -> None:
        """One more step is done."""
        self._step += 1
        if self._bar is not None:
            self._bar.update(1)

    def show(self, record: Mapping[str, Any]) -> None:
        """Show the figures of a record of metrics.jsonl."""
        figures = [f"loss {record['loss']:.4g}"]
        figures += [f"{name} {value:.4g}" for name, value in record["terms"].items()]
        figures += [f"alpha {record['alpha']:.3f}", f"{record['tokens_per_second']:,.0f} tokens/s"]
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(figures))
            return
        now = time.monotonic() - self._began
        if now - self._last_line >= LINE_INTERVAL_SECONDS or self._step == self._steps:
            self._last_line = now
            left = now / max(1, self._step - self._start) * (self._steps - self._step)
            figures.append(f"{tqdm.format_interval(left)} left")
            line = f"{self._stage} {self._step}/{self._steps}: {', '.join(figures)}"
            print(line, file=self._stream, flush=True)

    def close(self) -> None:
        """Leave the terminal on a fresh line."""
        if self._bar is not None:
            self._bar.close()


class TensorBoardLog:
    """The figures of metrics.jsonl as TensorBoard scalars, one TensorBoard run a stage.

    Args:
        folder: of the stage's events.
        step: steps done; what an earlier process logged beyond it is hidden.

    Raises:
        InputError: the tensorboard package is not installed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError(
                "TensorBoard logging needs the package tensorboard: pip install tensorboard, or leave "
                "the option out (metrics.jsonl holds the same figures)."
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def show(self, record: Mapping[str, Any]) -> None:
        """Log the numbers of a record."""
        for key, value in record.items():
            if isinstance(value, dict):
                for name, number in value.items():
                    self._writer.add_scalar(f"{key}/{name}", number, record["step"])
            elif key not in ("stage", "step"):
                self._writer.add_scalar(key, value, record["step"])

    def close(self) -> None:
        """Write what is pending."""
        self._writer.close()
