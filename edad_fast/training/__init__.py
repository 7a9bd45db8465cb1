"""Training: loop, optimiser, precision, checkpoints, device-hours ledger, progress. It knows no method."""

from __future__ import annotations

from .checkpoints import Checkpoint, CheckpointStore
from .ledger import Ledger, StageCost
from .optimizer import GroupedAdamW, schedule_factor
from .signals import Interrupted
from .stage import BatchSource, LossTerms, Objective, ParameterGroup, Stage, StepBatch
from .steps import NonFiniteLoss
from .trainer import Trainer, TrainerSettings

__all__ = [
    "BatchSource",
    "Checkpoint",
    "CheckpointStore",
    "GroupedAdamW",
    "Interrupted",
    "Ledger",
    "LossTerms",
    "NonFiniteLoss",
    "Objective",
    "ParameterGroup",
    "Stage",
    "StageCost",
    "StepBatch",
    "Trainer",
    "TrainerSettings",
    "schedule_factor",
]
