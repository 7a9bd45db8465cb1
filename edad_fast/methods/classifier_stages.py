"""The methods on text classifiers as lists of stages over the one trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from transformers import BertForSequenceClassification, PreTrainedTokenizerFast

from ..batches import DomainStream, EncodedTexts, TextStream
from ..config import TrainConfig
from ..losses import layer_map
from ..training import Stage, World
from .aad import AdversarialAdaptation
from .classifier_distillation import ClassifierDistillation, FrozenTeacher
from .fine_tune import FineTuning
from .pseudo_labels import PseudoLabels
from .source_free import SourceFree, TargetAdaptation, TargetLoss
from .stages import alpha_schedule, head_match

DEFAULT_EPOCHS = 3.0
# L_IM and the discriminator look at the mean of a batch; the others train as classifiers usually are.
_ROWS = {"fine_tune": 32, "task_distillation": 32}
_ROWS_OF_TWO_DOMAINS = 64


@dataclass(frozen=True)
class ClassifierParts:
    """What the stages are made of; they share and change the models.

    Attributes:
        config: options of the run. world: the processes.
        tokenizer: of both models. labels: the classes, in id order.
        teacher: a classifier. student: another, None where the method has none.
        from_layers: the student starts as layers of the teacher.
        labelled, target: texts, None where the method has none; `target` has no labels.
    """

    config: TrainConfig
    tokenizer: PreTrainedTokenizerFast
    labels: list[str]
    teacher: BertForSequenceClassification
    student: BertForSequenceClassification | None
    from_layers: bool
    labelled: EncodedTexts | None
    target: EncodedTexts | None
    world: World = field(default_factory=World)

    @property
    def trained_on(self) -> EncodedTexts:
        """The texts that decide the number of steps."""
        texts = self.target or self.labelled
        assert texts is not None
        return texts

    @property
    def learner(self) -> BertForSequenceClassification:
        """The student, of a method that has one."""
        assert self.student is not None
        return self.student

    def stream(self, texts: EncodedTexts | None) -> TextStream:
        """Batches of `texts`, this process's part."""
        assert texts is not None
        config = self.config
        return TextStream(
            texts,
            rows_per_step(config),
            seed=config.seed,
            accumulation_steps=config.accumulation_steps,
            rank=self.world.rank,
            world_size=self.world.size,
        )

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The layer map."""
        student, teacher = self.learner.config, self.teacher.config
        return layer_map(self.config.layer_map, student.num_hidden_layers, teacher.num_hidden_layers)

    def distillation(self, *, layers: bool = True, prediction: bool = True) -> ClassifierDistillation:
        """The losses between teacher and student, or some of them."""
        config = self.config
        return ClassifierDistillation(
            self.learner,
            self.teacher,
            self.pairs,
            attention_weight=config.attention_weight if layers else 0.0,
            hidden_weight=config.hidden_weight if layers else 0.0,
            prediction_weight=1.0 if prediction else 0.0,
            temperature=config.temperature,
            same_space=self.from_layers,
            mode=config.attention_mode,
            head_match=head_match(config),
            backend=config.loss_backend,
        )

    def pseudo_labels(self) -> PseudoLabels:
        """Pseudo-labels of the target texts."""
        assert self.target is not None
        return PseudoLabels(self.target, self.config.pseudo_label_weight)


def rows_per_step(config: TrainConfig) -> int:
    """Texts a step: --batch_tokens in rows of --seq_len, or 64 (fine_tune, task_distillation: 32)."""
    if config.batch_tokens is not None:
        return config.batch_tokens // config.seq_len
    return _ROWS.get(config.method, _ROWS_OF_TWO_DOMAINS)


def stage_steps(parts: ClassifierParts) -> int:
    """Optimiser steps of a stage: --max_steps, --max_tokens or --epochs (3 by default)."""
    config = parts.config
    if config.max_steps is not None:
        return config.max_steps
    rows = rows_per_step(config)
    if config.max_tokens is not None:
        return max(1, config.max_tokens // (rows * config.seq_len))
    epochs = DEFAULT_EPOCHS if config.epochs is None else config.epochs
    return max(1, round(epochs * len(parts.trained_on) / rows))


def _fine_tune(parts: ClassifierParts) -> Stage:
    config = parts.config
    objective = FineTuning(
        parts.teacher, config.learning_rate, config.label_smoothing, config.recompute_layers
    )
    return Stage("fine_tune", objective, parts.stream(parts.labelled), stage_steps(parts))


def _frozen(name: str, layers: bool, prediction: bool, pseudo_labels: bool, parts: ClassifierParts) -> Stage:
    config = parts.config
    objective = FrozenTeacher(
        parts.teacher,
        parts.learner,
        parts.distillation(layers=layers, prediction=prediction),
        config.student_learning_rate,
        parts.pseudo_labels() if pseudo_labels else None,
        config.recompute_layers,
    )
    return Stage(name, objective, parts.stream(parts.trained_on), stage_steps(parts))


# TinyBERT, Section 3.2: intermediate layers first, then predictions.
_intermediate = partial(_frozen, "intermediate", True, False, False)
_prediction = partial(_frozen, "prediction", False, True, False)
# The student's loss of source-free adaptation, all terms at once.
_distil = partial(_frozen, "distil", True, True, True)


def _adapt(parts: ClassifierParts) -> Stage:
    config = parts.config
    objective = TargetAdaptation(
        parts.teacher, TargetLoss(parts.pseudo_labels()), config.learning_rate, config.recompute_layers
    )
    return Stage(
        "adapt", objective, parts.stream(parts.target), stage_steps(parts), alpha=lambda progress: 1.0
    )


def _adversarial(parts: ClassifierParts) -> Stage:
    config = parts.config
    objective = AdversarialAdaptation(
        parts.teacher, config.learning_rate, config.aad_temperature, config.recompute_layers
    )
    batches = DomainStream(parts.stream(parts.labelled), parts.stream(parts.target))
    return Stage("adversarial", objective, batches, stage_steps(parts), alpha=lambda progress: 1.0)


def _one_pass(parts: ClassifierParts) -> Stage:
    config = parts.config
    objective = SourceFree(
        parts.teacher,
        parts.learner,
        TargetLoss(parts.pseudo_labels()),
        parts.distillation(),
        scope=config.alpha_scope,
        teacher_learning_rate=config.learning_rate,
        student_learning_rate=config.student_learning_rate,
        recompute=config.recompute_layers,
    )
    return Stage(
        "source_free",
        objective,
        parts.stream(parts.target),
        stage_steps(parts),
        alpha=alpha_schedule(config),
    )


STAGES: dict[str, tuple[Callable[[ClassifierParts], Stage], ...]] = {
    "fine_tune": (_fine_tune,),
    "task_distillation": (_intermediate, _prediction),
    "source_free": (_one_pass,),
    "source_free_two_stage": (_adapt, _distil),
    "aad": (_adversarial, _distil),
}


def build_classifier_stages(parts: ClassifierParts) -> list[Callable[[], Stage]]:
    """Return the stages of `parts.config.method`, each built when its turn comes."""
    return [partial(build, parts) for build in STAGES[parts.config.method]]
