"""Distillation of one text classifier into another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import BertForSequenceClassification

from ..batches import Shares, TextBatch
from ..losses import DistillationLoss, LogitKL
from ..training import LossTerms, ParameterGroup
from .adapt import trainable
from .forward import Forward, forward_classifier
from .pseudo_labels import PseudoLabels


class ClassifierDistillation(nn.Module):
    """Intermediate layers and predictions of one classifier into another (TinyBERT, Section 3.2).

    ::

        attention_weight L_attn + hidden_weight L_hidn + prediction_weight T^2 KL(p_T / T || p_S / T)

    The last is TinyBERT's soft cross-entropy, scaled by T^2, less the teacher's entropy, a constant. A term
    of weight 0 is not computed.

    Args:
        student, teacher: the models; only their shapes are read.
        pairs: layer map, (student layer, teacher layer) from 1.
        attention_weight, hidden_weight, prediction_weight: of the terms. temperature: T.
        same_space: the projection of hidden states starts as the identity: the student starts as some of the
            teacher's layers.
        mode, head_match, backend: see `DistillationLoss`.
    """

    def __init__(
        self,
        student: BertForSequenceClassification,
        teacher: BertForSequenceClassification,
        pairs: Sequence[tuple[int, int]],
        *,
        attention_weight: float,
        hidden_weight: float,
        prediction_weight: float,
        temperature: float = 1.0,
        same_space: bool = False,
        mode: str = "tinybert",
        head_match: str | Sequence[int] = "auto",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.pairs, self.prediction_weight = tuple(pairs), prediction_weight
        self.attention_weight, self.valid_only = attention_weight, mode == "valid_pairs"
        self.predictions = LogitKL(temperature)
        self.layers: DistillationLoss | None = None
        if attention_weight or hidden_weight:
            self.layers = DistillationLoss(
                student.config.hidden_size,
                teacher.config.hidden_size,
                pairs,
                attention_weight=attention_weight,
                hidden_weight=hidden_weight,
                mode=mode,
                head_match=head_match,
                backend=backend,
            )
            if same_space and isinstance(self.layers.fit_dense, nn.Linear):
                nn.init.eye_(self.layers.fit_dense.weight)

    def run(
        self, model: BertForSequenceClassification, batch: TextBatch, role: str, recompute: bool = False
    ) -> Forward:
        """Run the "student" or the "teacher" so that the loss finds what it reads."""
        index = 0 if role == "student" else 1
        layers = {pair[index] for pair in self.pairs} if self.layers and self.attention_weight else set()
        return forward_classifier(
            model, batch, score_layers=layers, hidden_states=self.layers is not None, recompute=recompute
        )

    def forward(
        self, student: Forward, teacher: Forward, batch: TextBatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum and the unweighted terms `attention`, `hidden`, `prediction`."""
        shares: Shares = batch.shares
        total, terms = student.logits.new_zeros((), dtype=torch.float32), dict[str, Tensor]()
        if self.layers is not None:
            parts = {
                "attention": shares.pairs if self.valid_only else shares.rows,
                "hidden": shares.tokens if self.valid_only else shares.rows,
            }
            result = self.layers(student.output, teacher.output, batch.segment_ids, scale=parts)
            total, terms = total + result.total, dict(result.terms)
        if self.prediction_weight:
            prediction = shares.rows * self.predictions(student.logits, teacher.logits)
            total = total + self.prediction_weight * prediction
            terms["prediction"] = prediction.detach()
        return total, terms


class FrozenTeacher(nn.Module):
    """Objective: a student learns from a classifier that stays as it is. Alpha plays no part.

    Args:
        teacher, student: classifiers over one vocabulary.
        distillation: the losses.
        learning_rate: of the student.
        pseudo_labels: for 0.3 CE(y_hat) (or another weight) on the student; None: without.
        recompute: gradient checkpointing.
    """

    def __init__(
        self,
        teacher: BertForSequenceClassification,
        student: BertForSequenceClassification,
        distillation: ClassifierDistillation,
        learning_rate: float,
        pseudo_labels: PseudoLabels | None = None,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.teacher = teacher.requires_grad_(False)
        self.student, self.distillation, self.pseudo_labels = student, distillation, pseudo_labels
        self.learning_rate, self.recompute = learning_rate, recompute

    def train(self, mode: bool = True) -> FrozenTeacher:
        """The frozen teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: TextBatch, alpha: float) -> LossTerms:
        """The loss of `batch`."""
        with torch.no_grad():
            teacher = self.distillation.run(self.teacher, batch, "teacher")
        student = self.distillation.run(self.student, batch, "student", self.recompute)
        total, terms = self.distillation(student, teacher, batch)
        if self.pseudo_labels is not None:
            self.pseudo_labels.refresh(self.teacher, 0)  # it does not change
            loss = self.pseudo_labels(student.logits, batch)
            total, terms = total + loss, {**terms, "student_pseudo_labels": loss.detach()}
        return LossTerms(total, terms)

    def parameter_groups(self) -> list[ParameterGroup]:
        """One group: the student with its projection."""
        parameters = trainable(self.student, "student") | trainable(self.distillation, "distillation")
        return [ParameterGroup("student", parameters, self.learning_rate)]
