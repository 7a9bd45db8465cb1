"""One optimiser step, and the watch for losses and gradients that are not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from . import random_state
from .distributed import Replica, World
from .optimizer import GroupedAdamW
from .stage import Stage


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
        values: float32 [len(labels)]; of this process, but for the gradient norms.
        rng: random generators before the step, of this process.
        bad: float32 scalar, 1 if in any process a value is not finite.
    """

    step: int
    alpha: float
    tokens_before: int
    tokens_after: int
    labels: list[tuple[int | None, str]]
    rows: list[tuple[int, ...]]
    values: Tensor
    rng: dict[str, Tensor]
    bad: Tensor

    def figures(self, world: World | None = None) -> tuple[float, dict[str, float], dict[str, float]]:
        """Loss and terms of the whole step, and gradient norms before clipping by group."""
        values = self.values if world is None else world.mean(self.values)
        total, terms, norms = 0.0, dict[str, float](), dict[str, float]()
        for (batch, name), value in zip(self.labels, values.tolist(), strict=True):
            if batch is None:
                norms[name] = value
            elif name == "":
                total += value
            else:
                terms[name] = terms.get(name, 0.0) + value
        return total, terms, norms

    def fault(self, world: World) -> tuple[str, tuple[int, ...]]:
        """What is not finite, and the rows of that micro-batch (of the whole step if only a gradient is)."""
        pairs = zip(self.labels, self.values.tolist(), strict=True)
        found = [label for label, value in pairs if not math.isfinite(value)]
        # A term says more than the total it spoils, and both more than the gradient.
        found.sort(key=lambda label: (label[0] is None, label[0], label[1] == ""))
        everywhere = world.gather((found[:1], self.rows))
        for labels, rows in everywhere:
            for batch, name in labels:
                if batch is not None:
                    return (f"loss term {name}" if name else "the total loss"), rows[batch]
        names = [name for labels, _ in everywhere for _, name in labels]
        all_rows = (row for _, rows in everywhere for part in rows for row in part)
        return f"the gradient of group {names[0]}", tuple(all_rows)


class StepRunner:
    """Runs optimiser steps without waiting for the device.

    As soon as a loss or gradient norm is not finite, a flag on the device stops this and all later updates;
    weights and optimiser stay as before the bad step until `first_bad` is asked. Only buffers that an
    objective changes in its forward pass move on. All processes stop at the same step.

    Args:
        replica, world: of this process among several; left out: it is alone.
    """

    def __init__(
        self,
        stage: Stage,
        optimizer: GroupedAdamW,
        device: torch.device,
        precision: str,
        replica: Replica | None = None,
        world: World | None = None,
    ) -> None:
        self._stage, self._optimizer, self._device = stage, optimizer, device
        self._world = world or World()
        self._replica = replica or Replica(stage, self._world, "ddp", device)
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
            with self._replica.synchronised(number == len(batches) - 1):
                with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
                    loss = self._replica(batch, alpha)
                loss.total.backward()
            for name, value in {"": loss.total, **loss.terms}.items():
                labels.append((number, name))
                values.append(value.detach().float())
        norms = self._optimizer.clip()
        labels += [(None, name) for name in norms]
        stacked = torch.stack([*values, *norms.values()])
        bad = self._world.largest(1.0 - stacked.isfinite().all().float())
        self._flag = torch.maximum(self._flag, bad)
        self._optimizer.step(skip=self._flag)
        after = tokens + sum(batch.tokens for batch in batches)
        rows = [tuple(batch.rows) for batch in batches]
        record = StepRecord(step, alpha, tokens, after, labels, rows, stacked, rng, bad)
        self._unchecked.append(record)
        return record

    def first_bad(self) -> StepRecord | None:
        """Wait for the device; the first step since the last call that was not finite, if any."""
        unchecked, self._unchecked = self._unchecked, []
        if not self._flag.item():
            return None
        return next(record for record in unchecked if record.bad.item())
