"""One optimiser step, and the watch for losses and gradients that are not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..errors import InputError
from . import random_state
from .optimizer import GroupedAdamW
from .stage import Objective, Stage


class NonFiniteLoss(InputError):
    """A loss or gradient was NaN or infinite; nothing of that step went into the saved state."""

    def __init__(self, stage: str, step: int, rows: Sequence[int], term: str, checkpoint: Path) -> None:
        shown = ", ".join(map(str, rows[:16])) + (", ..." if len(rows) > 16 else "")
        super().__init__(
            f"stage {stage}, step {step + 1}: {term} is not finite (rows {shown}). The state before this "
            f"step is saved in {checkpoint}. Train with a lower learning rate or precision fp32; if it "
            "happens at once, look at those rows and at the models."
        )
        self.stage, self.step, self.term, self.checkpoint = stage, step, term, checkpoint
        self.rows = tuple(rows)


@dataclass
class StepRecord:
    """What one optimiser step computed; its figures stay on the device until they are asked for.

    Args:
        step: 0-based. tokens_before, tokens_after: of the stage, before and after it.
        labels: for each value its micro-batch (None for a gradient norm) and name.
        rows: of each micro-batch.
        values: float32 [len(labels)].
        rng: random generators before the step.
    """

    step: int
    alpha: float
    tokens_before: int
    tokens_after: int
    labels: list[tuple[int | None, str]]
    rows: list[tuple[int, ...]]
    values: Tensor
    rng: dict[str, Tensor]

    def figures(self) -> tuple[float, dict[str, float], dict[str, float]]:
        """Loss and terms summed over the micro-batches, and gradient norms before clipping by group."""
        total, terms, norms = 0.0, dict[str, float](), dict[str, float]()
        for (batch, name), value in zip(self.labels, self.values.tolist(), strict=True):
            if batch is None:
                norms[name] = value
            elif name == "":
                total += value
            else:
                terms[name] = terms.get(name, 0.0) + value
        return total, terms, norms

    def _fault(self) -> tuple[int | None, str]:
        pairs = zip(self.labels, self.values.tolist(), strict=True)
        found = [label for label, value in pairs if not math.isfinite(value)]
        # A term says more than the total it spoils, and both more than the gradient.
        return min(found, key=lambda label: (label[0] is None, label[0], label[1] == ""))

    def fault(self) -> str:
        """What is not finite."""
        batch, name = self._fault()
        if batch is None:
            return f"the gradient of group {name}"
        return f"loss term {name}" if name else "the total loss"

    def rows_of_fault(self) -> tuple[int, ...]:
        """Rows of the micro-batch at fault; of the whole step if only the gradient is."""
        batch, _ = self._fault()
        return self.rows[batch] if batch is not None else tuple(row for rows in self.rows for row in rows)


class StepRunner:
    """Runs optimiser steps without waiting for the device.

    As soon as a loss or gradient norm is not finite, a flag on the device stops this and all later updates;
    weights and optimiser stay as before the bad step until `first_bad` is asked. Only buffers that an
    objective changes in its forward pass move on.
    """

    def __init__(self, stage: Stage, optimizer: GroupedAdamW, device: torch.device, precision: str) -> None:
        self._stage, self._optimizer, self._device = stage, optimizer, device
        self._objective = cast(Objective, stage.objective)
        self._autocast = precision == "bf16"
        self._flag = torch.zeros((), device=device)
        self._unchecked: list[StepRecord] = []

    def step(self, step: int, batches: Sequence[Any], tokens: int) -> StepRecord:
        """Run step `step` (0-based) on its micro-batches; `tokens`: of the stage so far."""
        rng = random_state.capture(self._device)
        alpha = self._stage.alpha(step / self._stage.steps)
        labels: list[tuple[int | None, str]] = []
        values: list[Tensor] = []
        for number, batch in enumerate(batches):
            batch = batch.to(self._device, non_blocking=True)
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
                loss = self._objective(batch, alpha)
            loss.total.backward()
            for name, value in {"": loss.total, **loss.terms}.items():
                labels.append((number, name))
                values.append(value.detach().float())
        norms = self._optimizer.clip()
        labels += [(None, name) for name in norms]
        stacked = torch.stack([*values, *norms.values()])
        self._flag = torch.maximum(self._flag, 1.0 - stacked.isfinite().all().float())
        self._optimizer.step(skip=self._flag)
        after = tokens + sum(batch.tokens for batch in batches)
        rows = [tuple(batch.rows) for batch in batches]
        record = StepRecord(step, alpha, tokens, after, labels, rows, stacked, rng)
        self._unchecked.append(record)
        return record

    def first_bad(self) -> StepRecord | None:
        """Wait for the device; the first step since the last call that was not finite, if any."""
        unchecked, self._unchecked = self._unchecked, []
        if not self._flag.item():
            return None
        return next(record for record in unchecked if not record.values.isfinite().all().item())
