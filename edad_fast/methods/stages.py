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
from ..models import has_weights
from ..models.varlen_attention import available
from ..training import Stage
from .adapt import PLAIN, Adaptation, AdaptationLoss, Execution, make_trainable
from .distilbert import DistilBertDistillation, DistilBertWeights
from .distillation import Distillation
from .edad import Edad
from .general_distillation import GeneralDistillation, LayerDistillation
from .minilmv2 import RelationDistillation


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
class GeneralText:
    """What the general stage of AdaLM's methods reads, where that is not the domain's text.

    Attributes:
        stream: mlm_probability -> batches of --general_corpus.
        steps: optimiser steps of the stage.
        new_rows: starts the student's rows of new pieces from those of the general stage, where its text has
            none of them.
    """

    stream: Callable[[float], LoadedStream]
    steps: int
    new_rows: Callable[[BertForPreTraining], None] = lambda student: None


@dataclass(frozen=True)
class Ingredients:
    """What the stages of any method are made of.

    Attributes:
        config: options of the run.
        teacher, student: pretraining models; the stages share and change them.
        stream: mlm_probability -> batches.
        steps: optimiser steps of each stage.
        execution: how the encoders are run.
        general: text of the general stage; None: that of the other stages.
    """

    config: TrainConfig
    teacher: BertForPreTraining
    student: BertForPreTraining
    stream: Callable[[float], LoadedStream]
    steps: int
    execution: Execution = PLAIN
    general: GeneralText | None = None


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


def distillation_of(parts: Ingredients) -> Distillation:
    """L_DT as --distillation and its options say."""
    config, student, teacher = parts.config, parts.student, parts.teacher
    if config.distillation == "minilmv2":
        return RelationDistillation(
            student,
            teacher,
            layer=config.relation_layer,
            heads=config.relation_heads,
            backend=config.loss_backend,
        )
    if config.distillation == "distilbert":
        weights = DistilBertWeights(
            config.kl_weight, config.student_mlm_weight, config.cosine_weight, config.kl_temperature
        )
        return DistilBertDistillation(weights, backend=config.loss_backend)
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


def _layers(parts: Ingredients, distillation: Distillation) -> list[nn.Module]:
    """The encoder layers whose gradients all come through their outputs, as `Stage.layers` asks."""
    models = [parts.teacher, parts.student] if distillation.through_layers else [parts.teacher]
    return [layer for model in models for layer in cast(Any, model).bert.encoder.layer]


def _adapt(
    parts: Ingredients, name: str, model: BertForPreTraining, role: str, learning_rate: float
) -> Stage:
    config = parts.config
    make_trainable(model, sentence_head=config.nsp)  # an earlier stage may have frozen it
    objective = Adaptation(model, role, learning_rate, _adaptation_loss(config), parts.execution)
    return Stage(
        name,
        objective,
        parts.stream(config.mlm_probability),
        parts.steps,
        alpha=lambda progress: 1.0,
        layers=list(cast(Any, model).bert.encoder.layer),
    )


def _adapt_teacher(parts: Ingredients) -> Stage:
    return _adapt(parts, "adapt", parts.teacher, "teacher", parts.config.learning_rate)


def _adapt_student(parts: Ingredients) -> Stage:
    if parts.general is not None:
        parts.general.new_rows(parts.student)
    return _adapt(parts, "adapt_student", parts.student, "student", parts.config.student_learning_rate)


def _distil_from(parts: Ingredients, name: str, text: GeneralText) -> Stage:
    config, distillation = parts.config, distillation_of(parts)
    objective = GeneralDistillation(
        parts.teacher,
        parts.student,
        distillation,
        config.student_learning_rate,
        parts.execution,
        torch.bfloat16 if config.frozen_teacher == "bf16" else torch.float32,
    )
    return Stage(
        name,
        objective,
        text.stream(config.mlm_probability if distillation.masked else 0.0),
        text.steps,
        alpha=lambda progress: 0.0,
        layers=_layers(parts, distillation),
    )


def _distil(parts: Ingredients) -> Stage:
    return _distil_from(parts, "distil", GeneralText(parts.stream, parts.steps))


def _general_distil(parts: Ingredients) -> Stage:
    """A small general model from the teacher before it is adapted."""
    text = parts.general or GeneralText(parts.stream, parts.steps)
    return _distil_from(parts, "general_distil", text)


def _one_pass(parts: Ingredients) -> Stage:
    config, distillation = parts.config, distillation_of(parts)
    objective = Edad(
        parts.teacher,
        parts.student,
        _adaptation_loss(config),
        distillation,
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
        layers=_layers(parts, distillation),
    )


# AdaLM (Yao et al., Findings of ACL 2021) names from_scratch to adapt_and_distill.
METHODS: dict[str, tuple[Callable[[Ingredients], Stage], ...]] = {
    "edad": (_one_pass,),
    "general_distillation": (_distil,),
    "adapt_then_distill": (_adapt_teacher, _distil),
    "from_scratch": (_adapt_student,),
    "distill_then_adapt": (_general_distil, _adapt_student),
    "adapt_and_distill": (_general_distil, _adapt_teacher, _adapt_student, _distil),
}


def _builders(config: TrainConfig) -> list[Callable[[Ingredients], Stage]]:
    """Of the method's stages; a student with weights is the small general model already."""
    skipped = {_general_distil} if has_weights(config.student) else set()
    return [build for build in METHODS[config.method] if build not in skipped]


def has_general_stage(config: TrainConfig) -> bool:
    """Whether a stage makes a small general model."""
    return _general_distil in _builders(config)


def uses_teacher(config: TrainConfig) -> bool:
    """Whether some stage runs the teacher; else its vocabulary alone is used."""
    return _builders(config) != [_adapt_student]


def distils(config: TrainConfig) -> bool:
    """Whether some stage distils."""
    return bool({_one_pass, _distil, _general_distil} & set(_builders(config)))


def build_stages(parts: Ingredients) -> list[Callable[[], Stage]]:
    """Return the stages of `parts.config.method`, each built when its turn comes."""

    def later(build: Callable[[Ingredients], Stage]) -> Callable[[], Stage]:
        return lambda: build(parts)

    return [later(build) for build in _builders(parts.config)]
