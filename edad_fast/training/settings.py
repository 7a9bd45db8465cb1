"""How to train, whatever is trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..errors import InputError
from .distributed import Strategy


@dataclass(frozen=True)
class TrainerSettings:
    """How to train, whatever is trained.

    Args:
        warmup_fraction: part of a stage's steps in which the learning rate rises; it then falls to 0.
        weight_decay: on matrices only. betas, eps: of AdamW.
        max_grad_norm: largest gradient norm of each parameter group; 0 never clips.
        precision: "bf16" (autocast, float32 master weights) or "fp32".
        device: where to train.
        checkpoint_every: steps between checkpoints; 0: only at the end of a stage or on a signal.
        keep_checkpoints: how many of the newest stay, besides those at the ends of stages.
        log_every: steps between records of metrics.jsonl; the only steps at which the losses are read back.
        seed: of dropout and of whatever the stages initialise at random.
        tensorboard: also log to output_dir/tensorboard.
        check_finite_every: steps between looks at the device's non-finite flag. Updates stop on the device at
            the first bad step, so a larger value delays the message but spoils no weights.
        profile: write profile-STAGE.md for each stage trained, see `StepProfiler`.
        distributed: with several processes, "ddp" (each holds all weights) or "fsdp" (each a part).
    """

    warmup_fraction: float = 0.1
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    max_grad_norm: float = 1.0
    precision: str = "fp32"
    device: torch.device | str = "cpu"
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    log_every: int = 10
    seed: int = 0
    tensorboard: bool = False
    check_finite_every: int = 10
    profile: bool = False
    distributed: Strategy = "ddp"

    def __post_init__(self) -> None:
        if self.precision not in ("bf16", "fp32"):
            raise InputError(f"precision is {self.precision!r}; it must be 'bf16' or 'fp32'")
        for name in ("log_every", "check_finite_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0.0 <= self.warmup_fraction <= 1.0:
            raise InputError(f"warmup_fraction is {self.warmup_fraction}; it must be between 0 and 1")
