"""Training: loop, optimiser, precision, checkpoints, device-hours ledger, progress. It knows no method."""

from __future__ import annotations

from .checkpoints import Checkpoint, CheckpointStore
from .distributed import (
    LostProcess,
    Replica,
    ToldByMain,
    World,
    is_main_process,
    join,
    local_device,
    told_by_main,
    world_size,
)
from .flops import flop_counter
from .ledger import Ledger, StageCost
from .optimizer import GroupedAdamW, schedule_factor
from .settings import TrainerSettings
from .signals import Interrupted, stop_at_once
from .stage import BatchSource, LossTerms, Objective, ParameterGroup, Stage, StepBatch
from .steps import NonFiniteLoss
from .trainer import Trainer

__all__ = [
    "BatchSource",
    "Checkpoint",
    "CheckpointStore",
    "GroupedAdamW",
    "Interrupted",
    "Ledger",
    "LossTerms",
    "LostProcess",
    "NonFiniteLoss",
    "Objective",
    "ParameterGroup",
    "Replica",
    "Stage",
    "StageCost",
    "StepBatch",
    "ToldByMain",
    "Trainer",
    "TrainerSettings",
    "World",
    "flop_counter",
    "is_main_process",
    "join",
    "local_device",
    "schedule_factor",
    "stop_at_once",
    "told_by_main",
    "world_size",
]
