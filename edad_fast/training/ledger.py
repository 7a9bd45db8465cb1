"""Device-hours ledger: what each stage cost."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch


@dataclass
class StageCost:
    """Cost of one stage.

    Args:
        name: of the stage.
        device_seconds: the sum over all starts and resumes of their seconds times their devices; equal to
            `seconds` times `devices` only where all of them had as many devices.
        seconds: wall-clock seconds inside the training loop: waiting for batches,
            forward, backward, optimiser, logging and checkpoint writing (the device is held all the while),
            but for the writing of the stage's last checkpoint.
            Building the stage is outside. Work after the last checkpoint of a killed run is lost, and its
            time with it: only the repetition counts.
        steps: optimiser steps done.
        tokens: non-padding tokens seen.
        peak_memory_bytes: the highest seen in any of the processes that ran the stage.
        peak_memory_kind: "cuda allocated" (`torch.cuda.max_memory_allocated` within the stage) or "process
            resident" (ru_maxrss: the whole process, models of earlier stages and libraries included).
        devices: processes training together, one device each; at the end, if a resume changed it.
    """

    name: str
    device_seconds: float = 0.0
    seconds: float = 0.0
    steps: int = 0
    tokens: int = 0
    peak_memory_bytes: int = 0
    peak_memory_kind: str = "process resident"
    devices: int = 1

    @property
    def tokens_per_second(self) -> float:
        """Non-padding tokens a second of all devices together; 0 before the first step."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


@dataclass
class Ledger:
    """Costs of the stages of a run, in order; the checkpoints carry it, so it adds up across resumes."""

    stages: list[StageCost] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        """Non-padding tokens a second of all devices together, over all stages."""
        seconds = sum(cost.seconds for cost in self.stages)
        return self.tokens / seconds if seconds > 0 else 0.0

    @property
    def device_hours(self) -> float:
        """Sum over all stages."""
        return sum(cost.device_seconds for cost in self.stages) / 3600.0

    @property
    def steps(self) -> int:
        """Optimiser steps of all stages."""
        return sum(cost.steps for cost in self.stages)

    @property
    def tokens(self) -> int:
        """Non-padding tokens of all stages."""
        return sum(cost.tokens for cost in self.stages)

    def stage(self, name: str) -> StageCost:
        """The entry of stage `name`, made when absent."""
        for cost in self.stages:
            if cost.name == name:
                return cost
        self.stages.append(StageCost(name))
        return self.stages[-1]

    def to_json(self) -> dict[str, Any]:
        """As written in checkpoints and reports: the fields, and the figures derived from them."""
        return {
            "device_hours": self.device_hours,
            "tokens": self.tokens,
            "steps": self.steps,
            "stages": [asdict(cost) | {"tokens_per_second": cost.tokens_per_second} for cost in self.stages],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Ledger:
        """Inverse of `to_json`."""
        known = {f.name for f in fields(StageCost)}
        return cls([StageCost(**{k: v for k, v in entry.items() if k in known}) for entry in value["stages"]])


def peak_memory(device: torch.device) -> tuple[int, str]:
    """Peak memory in bytes and what was measured (see `StageCost.peak_memory_kind`)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), "cuda allocated"
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return resident * (1 if sys.platform == "darwin" else 1024), "process resident"
