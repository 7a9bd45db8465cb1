"""EDAD: the teacher adapts while the student is distilled from it, in one pass.

Source: J. Korean Inst. Industrial Engineers 49(2):133-141, 2023: L = alpha_t L_DA + (1 - alpha_t) L_DT.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from torch import nn
from transformers import BertForPreTraining

from ..batches import Batch
from ..models import EncoderOutput
from ..training import LossTerms, ParameterGroup
from .adapt import PLAIN, AdaptationLoss, Execution, trainable
from .distillation import NOTHING, Distillation, Reads

Scope = Literal["student", "teacher_student", "per_model"]


def loss_weights(scope: Scope, alpha: float) -> tuple[float, float, float]:
    """Weights of (teacher's L_DA, student's L_DA, student's L_DT) for `alpha` in [0, 1].

    student: 1, alpha, 1 - alpha. teacher_student: alpha, alpha, 1 - alpha (one loss for both models).
    per_model: alpha, 0, 1 - alpha (the formula to the letter: one term a model).
    """
    return {
        "student": (1.0, alpha, 1.0 - alpha),
        "teacher_student": (alpha, alpha, 1.0 - alpha),
        "per_model": (alpha, 0.0, 1.0 - alpha),
    }[scope]


class Edad(nn.Module):
    """Objective: both losses from one teacher and one student forward pass over the same masked batch.

    The student's loss sees the teacher's states as constants. A term of weight 0 is not computed.

    Args:
        teacher, student: pretraining models over the same vocabulary.
        adaptation: L_DA. distillation: L_DT.
        scope: what alpha weighs, see `loss_weights`.
        teacher_learning_rate, student_learning_rate: peaks of the schedules.
        execution: see `Execution`.
    """

    def __init__(
        self,
        teacher: BertForPreTraining,
        student: BertForPreTraining,
        adaptation: AdaptationLoss,
        distillation: Distillation,
        *,
        scope: Scope,
        teacher_learning_rate: float,
        student_learning_rate: float,
        execution: Execution = PLAIN,
    ) -> None:
        super().__init__()
        self.teacher, self.student, self.distillation = teacher, student, distillation
        self.adaptation, self.scope, self.execution = adaptation, scope, execution
        self.learning_rates = {"teacher": teacher_learning_rate, "student": student_learning_rate}

    def forward(self, batch: Batch, alpha: float) -> LossTerms:
        """The loss of `batch`."""
        teacher_da, student_da, student_dt = loss_weights(self.scope, alpha)
        distil = student_dt > 0.0
        # The teacher's own loss needs all its layers.
        reads = dataclasses.replace(self.distillation.of_teacher, depth=None)
        teacher = self._encode(self.teacher, batch, reads if distil else NOTHING)
        loss, found = self.adaptation(self.teacher, teacher, batch)
        total = teacher_da * loss
        terms = {f"teacher_{name}": value for name, value in found.items()}
        student = self._encode(self.student, batch, self.distillation.of_student if distil else NOTHING)
        if student_da > 0.0:
            loss, found = self.adaptation(self.student, student, batch)
            total = total + student_da * loss
            terms |= {f"student_{name}": value for name, value in found.items()}
        if distil:
            loss, found = self.distillation(student, teacher.detach(), batch, (self.student, self.teacher))
            total = total + student_dt * loss
            terms |= found
        return LossTerms(total, terms)

    def _encode(self, model: BertForPreTraining, batch: Batch, reads: Reads) -> EncoderOutput:
        if reads.output or batch.next_sentence_labels is not None:
            return self.execution.encode(model, batch, reads)
        return self.execution.encode_masked(model, batch, reads)

    def parameter_groups(self) -> list[ParameterGroup]:
        """The teacher, and the student with its projection."""
        student = trainable(self.student, "student") | trainable(self.distillation, "distillation")
        return [
            ParameterGroup("teacher", trainable(self.teacher, "teacher"), self.learning_rates["teacher"]),
            ParameterGroup("student", student, self.learning_rates["student"]),
        ]
