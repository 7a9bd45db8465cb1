"""What the trainer is given: stages, each with an objective and batches; all it knows of a method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

SelfBatch = TypeVar("SelfBatch", bound="StepBatch")


@dataclass
class LossTerms:
    """The loss of one micro-batch of one process.

    Both members are already this micro-batch's share of the optimiser step (weighted by its part of the
    step's masked positions, tokens, ...), so that the sum over the micro-batches of a step, averaged over the
    processes, is its value.

    Args:
        total: scalar, any float dtype; `backward` is called on it.
        terms: detached scalars by name, for logging and for naming what was not finite.
    """

    total: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class ParameterGroup:
    """Parameters trained together: one learning rate, one gradient norm to clip.

    Args:
        name: as logged, such as "teacher" or "student"; unique within the objective.
        parameters: trainable parameters of the objective by name, all float32.
        learning_rate: the peak of the schedule.
    """

    name: str
    parameters: dict[str, nn.Parameter]
    learning_rate: float


class StepBatch(Protocol):
    """One micro-batch."""

    @property
    def tokens(self) -> int:
        """Tokens in it, padding not counted."""

    @property
    def rows(self) -> Sequence[int]:
        """Numbers of its rows, to name a bad batch."""

    def to(self: SelfBatch, device: torch.device, non_blocking: bool = False) -> SelfBatch:
        """The same batch on `device`."""


class BatchSource(Protocol):
    """Batches as a pure function of the step: data position and step number are the same thing."""

    def iterate(self, start: int, stop: int) -> Iterator[Sequence[Any]]:
        """The micro-batches (`StepBatch`) of each optimiser step from `start` to before `stop` (0-based)."""


class Objective(Protocol):
    """A module that holds every model of its stage and turns a micro-batch into a loss.

    All its parameters and persistent buffers go into the checkpoints, frozen ones included. The trainer calls
    `train()` on it once; an objective overrides `train` for models that must stay in evaluation mode.
    """

    def __call__(self, batch: Any, alpha: float) -> LossTerms:
        """The loss of `batch`; alpha is the value of the stage's schedule for this step."""

    def parameter_groups(self) -> list[ParameterGroup]:
        """What is trained. A parameter is in at most one group; those in none are frozen."""


@dataclass
class Stage:
    """One stage of training.

    Args:
        name: unique within the run.
        objective: an `nn.Module` that satisfies `Objective`.
        batches: a `BatchSource`.
        steps: optimiser steps of the stage, T.
        alpha: progress t/T in [0, 1) (t steps done) -> alpha, handed to the objective and logged.
        layers: modules of the objective that FSDP shards one by one: their weights are used only while they
            are called, and all gradients reach them through what they return.
    """

    name: str
    objective: nn.Module
    batches: BatchSource
    steps: int
    alpha: Callable[[float], float] = lambda progress: 0.0
    layers: Sequence[nn.Module] = ()

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"stage {self.name}: steps must be at least 1, not {self.steps}")
