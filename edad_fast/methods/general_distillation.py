"""General distillation: L_DT from a frozen teacher, on unmasked text.

TinyBERT, Section 3.2; X_GD in EDAD's tables.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import BertForPreTraining

from ..batches import Batch
from ..losses import DistillationLoss
from ..models import EncoderOutput
from ..training import LossTerms, ParameterGroup
from .adapt import PLAIN, Execution, trainable


class LayerDistillation(nn.Module):
    """L_DT between two encoder outputs, scaled to a micro-batch's share of its optimiser step.

    Args:
        student, teacher: the models; only their widths are read.
        pairs: layer map, (student layer, teacher layer) from 1.
        attention_weight, hidden_weight, mode, head_match, backend: see `DistillationLoss`.
    """

    def __init__(
        self,
        student: BertForPreTraining,
        teacher: BertForPreTraining,
        pairs: Sequence[tuple[int, int]],
        *,
        attention_weight: float,
        hidden_weight: float,
        mode: str,
        head_match: str | Sequence[int],
        backend: str,
    ) -> None:
        super().__init__()
        self.weights = {"attention": attention_weight, "hidden": hidden_weight}
        self.valid_only = mode == "valid_pairs"
        self.loss = DistillationLoss(
            student.config.hidden_size,
            teacher.config.hidden_size,
            pairs,
            attention_weight=attention_weight,
            hidden_weight=hidden_weight,
            mode=mode,
            head_match=head_match,
            backend=backend,
        )

    @property
    def student_layers(self) -> set[int]:
        """Student layers whose queries and keys are needed."""
        return {student for student, _ in self.loss.pairs} if self.weights["attention"] else set()

    @property
    def teacher_layers(self) -> set[int]:
        """Teacher layers whose queries and keys are needed."""
        return {teacher for _, teacher in self.loss.pairs} if self.weights["attention"] else set()

    @property
    def teacher_depth(self) -> int:
        """The highest teacher layer that is matched."""
        return max(teacher for _, teacher in self.loss.pairs)

    def forward(
        self, student: EncoderOutput, teacher: EncoderOutput, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum and the unweighted terms `attention` and `hidden`."""
        shares = batch.shares
        parts = {
            "attention": shares.pairs if self.valid_only else shares.rows,
            "hidden": shares.tokens if self.valid_only else shares.rows,
        }
        result = self.loss(student, teacher, batch.segment_ids, scale=parts)
        return result.total, result.terms


class GeneralDistillation(nn.Module):
    """Objective: L_DT alone; the teacher is frozen. Alpha plays no part.

    Args:
        teacher, student: pretraining models over the same vocabulary.
        distillation: L_DT. learning_rate: peak of the schedule. execution: see `Execution`.
        teacher_dtype: of the weights that the teacher computes with; those that are saved stay as they are.
    """

    def __init__(
        self,
        teacher: BertForPreTraining,
        student: BertForPreTraining,
        distillation: LayerDistillation,
        learning_rate: float,
        execution: Execution = PLAIN,
        teacher_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.teacher, self.student, self.distillation = teacher.requires_grad_(False), student, distillation
        self.learning_rate, self.execution, self.teacher_dtype = learning_rate, execution, teacher_dtype
        self._computing: list[BertForPreTraining] = []  # no submodule: it is not in the checkpoints

    def train(self, mode: bool = True) -> GeneralDistillation:
        """The frozen teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def _frozen(self) -> BertForPreTraining:
        """The teacher as it computes; a copy is made once its weights and device are final."""
        if self.teacher_dtype == torch.float32:
            return self.teacher
        if not self._computing:
            self._computing.append(copy.deepcopy(self.teacher))
            nn.Module.to(self._computing[0], self.teacher_dtype)
        return self._computing[0]

    def forward(self, batch: Batch, alpha: float) -> LossTerms:
        """The loss of `batch`."""
        with torch.no_grad():
            teacher = self.execution.encode(
                self._frozen(),
                batch,
                hidden_states=True,
                score_layers=self.distillation.teacher_layers,
                depth=self.distillation.teacher_depth,
            )
        student = self.execution.encode(
            self.student, batch, hidden_states=True, score_layers=self.distillation.student_layers
        )
        total, terms = self.distillation(student, teacher, batch)
        return LossTerms(total, terms)

    def parameter_groups(self) -> list[ParameterGroup]:
        """One group: the student with its projection."""
        parameters = trainable(self.student, "student") | trainable(self.distillation, "distillation")
        return [ParameterGroup("student", parameters, self.learning_rate)]
