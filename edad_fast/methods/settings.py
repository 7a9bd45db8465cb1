"""What the runs of all methods hand to the trainer and take from its ledger."""

from __future__ import annotations

from typing import Any

import torch

from ..config import TrainConfig
from ..training import Ledger, TrainerSettings


def trainer_settings(
    config: TrainConfig, device: torch.device, precision: str, steps: int
) -> TrainerSettings:
    """How the trainer runs stages of `steps` steps."""
    return TrainerSettings(
        warmup_fraction=config.warmup_fraction,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        precision=precision,
        device=device,
        checkpoint_every=max(1, steps // 10) if config.checkpoint_every is None else config.checkpoint_every,
        keep_checkpoints=config.keep_checkpoints,
        log_every=config.log_every,
        seed=config.seed,
        tensorboard=config.tensorboard,
        profile=config.profile,
        distributed=config.distributed,
    )


def costs(ledger: Ledger) -> dict[str, Any]:
    """The ledger's figures as report.json names them."""
    stages = ledger.stages
    return {
        "device_hours": {**{s.name: s.device_seconds / 3600 for s in stages}, "total": ledger.device_hours},
        "tokens_per_second": ledger.tokens_per_second,
        "peak_memory": {stage.name: stage.peak_memory_bytes for stage in stages},
        "ledger": ledger.to_json(),
    }
