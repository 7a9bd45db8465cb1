"""Each system as a list of stages over the one trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import BertForPreTraining

from ..batches import Batch, BatchStream
from ..config import TrainConfig
from ..errors import InputError
from ..losses import AlphaSchedule, layer_map
from ..models.varlen_attention import available
from ..training import Stage
from .adapt import PLAIN, Adaptation, AdaptationLoss, Execution
from .edad import Edad
from .general_distillation import GeneralDistillation, LayerDistillation


@dataclass(frozen=True)
class LoadedStream:
    """A `BatchStream` read by `workers` threads, ahead of the device."""

    stream: BatchStream
    workers: int
    pin_memory: bool

    def iterate(self, start: int, stop: int) -> Iterator[list[Batch]]:
        """Micro-batches of the steps start ... stop - 1."""
        return self.stream.iterate(start, stop, workers=self.workers, pin_memory=self.pin_memory)


@dataclass(frozen=True)
class Ingredients:
    """What the stages of any method are made of.

    Attributes:
        config: options of the run.
        teacher, student: pretraining models; the stages share and change them.
        stream: mlm_probability -> batches.
        steps: optimiser steps of each stage.
        execution: how the encoders are run.
    """

    config: TrainConfig
    teacher: BertForPreTraining
    student: BertForPreTraining
    stream: Callable[[float], LoadedStream]
    steps: int
    execution: Execution = PLAIN


def execution_of(config: TrainConfig, device: torch.device, *, sharded: bool = False) -> Execution:
    """--compile, --recompute_layers and --attention for `device`.

    sharded: FSDP puts layers together when they are called.

    Raises:
        InputError: --attention varlen where it cannot run.
    """
    wanted = {"on": True, "off": False, "auto": device.type == "cuda" and not sharded}
    compiled = wanted[config.compile]
    if config.attention == "varlen" and not available(device):
        raise InputError(
            f"--attention varlen needs a CUDA device and PyTorch 2.10 or later, not {device} and "
            f"{torch.__version__}; leave it at sdpa"
        )
    return Execution(compiled, config.recompute_layers, sharded, config.attention == "varlen")


def _adaptation_loss(config: TrainConfig) -> AdaptationLoss:
    return AdaptationLoss(config.mlm_weight, config.nsp_weight, config.loss_backend)


def head_match(config: TrainConfig) -> str | list[int]:
    """--head_match as the losses take it."""
    option = config.head_match
    return [int(head) for head in option.split(",")] if option.replace(",", "").isdigit() else option


def alpha_schedule(config: TrainConfig) -> AlphaSchedule:
    """--schedule with its ends or its constant."""
    constant = 0.5 if config.alpha is None else config.alpha
    return AlphaSchedule(config.schedule, config.alpha_start, config.alpha_end, constant)


def distillation_of(parts: Ingredients) -> LayerDistillation:
    """L_DT with the layer map, head matching and weights of the configuration."""
    config, student, teacher = parts.config, parts.student, parts.teacher
    pairs = layer_map(config.layer_map, student.config.num_hidden_layers, teacher.config.num_hidden_layers)
    return LayerDistillation(
        student,
        teacher,
        pairs,
        attention_weight=config.attention_weight,
        hidden_weight=config.hidden_weight,
        mode=config.attention_mode,
        head_match=head_match(config),
        backend=config.loss_backend,
    )


def _layers(parts: Ingredients) -> list[nn.Module]:
    """The encoder layers whose gradients all come through their outputs, as `Stage.layers` asks.

    Without the hidden-state loss, those of a student may come through queries and keys alone.
    """
    models = [parts.teacher, parts.student] if parts.config.hidden_weight > 0.0 else [parts.teacher]
    return [layer for model in models for layer in cast(Any, model).bert.encoder.layer]


def _adapt_teacher(parts: Ingredients) -> Stage:
    config = parts.config
    objective = Adaptation(
        parts.teacher, "teacher", config.learning_rate, _adaptation_loss(config), parts.execution
    )
    return Stage(
        "adapt",
        objective,
        parts.stream(config.mlm_probability),
        parts.steps,
        alpha=lambda progress: 1.0,
        layers=list(cast(Any, parts.teacher).bert.encoder.layer),
    )


def _distil(parts: Ingredients) -> Stage:
    objective = GeneralDistillation(
        parts.teacher,
        parts.student,
        distillation_of(parts),
        parts.config.student_learning_rate,
        parts.execution,
        torch.bfloat16 if parts.config.frozen_teacher == "bf16" else torch.float32,
    )
    return Stage(
        "distil",
        objective,
        parts.stream(0.0),
        parts.steps,
        alpha=lambda progress: 0.0,
        layers=_layers(parts),
    )


def _one_pass(parts: Ingredients) -> Stage:
    config = parts.config
    objective = Edad(
        parts.teacher,
        parts.student,
        _adaptation_loss(config),
        distillation_of(parts),
        scope=config.alpha_scope,
        teacher_learning_rate=config.learning_rate,
        student_learning_rate=config.student_learning_rate,
        execution=parts.execution,
    )
    return Stage(
        "edad",
        objective,
        parts.stream(config.mlm_probability),
        parts.steps,
        alpha=alpha_schedule(config),
        layers=_layers(parts),
    )


METHODS: dict[str, tuple[Callable[[Ingredients], Stage], ...]] = {
    "edad": (_one_pass,),
    "general_distillation": (_distil,),
    "adapt_then_distill": (_adapt_teacher, _distil),
}


def build_stages(parts: Ingredients) -> list[Callable[[], Stage]]:
    """Return the stages of `parts.config.method`, each built when its turn comes."""

    def later(build: Callable[[Ingredients], Stage]) -> Callable[[], Stage]:
        return lambda: build(parts)

    return [later(build) for build in METHODS[parts.config.method]]
