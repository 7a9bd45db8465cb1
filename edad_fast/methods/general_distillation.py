"""General distillation: L_DT from a frozen teacher, on text that is masked only where L_DT predicts.

TinyBERT, Section 3.2 (no masks); X_GD in EDAD's tables.
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
from .distillation import Distillation, Reads


class LayerDistillation(Distillation):
    """TinyBERT's L_DT: hidden states and attention scores over a layer map; see `DistillationLoss`.

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
        mine, theirs = (frozenset(layers) for layers in zip(*self.loss.pairs, strict=True))
        scores, hidden = attention_weight > 0.0, hidden_weight > 0.0
        self.of_student = Reads(mine if scores else frozenset(), hidden_states=hidden)
        self.of_teacher = Reads(theirs if scores else frozenset(), hidden_states=hidden, depth=max(theirs))
        self.through_layers = hidden  # else through queries and keys alone, it may be

    def forward(
        self,
        student: EncoderOutput,
        teacher: EncoderOutput,
        batch: Batch,
        models: tuple[BertForPreTraining, BertForPreTraining] | None = None,
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
        distillation: Distillation,
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
        frozen = self._frozen()
        with torch.no_grad():
            teacher = self.execution.encode_read(frozen, batch, self.distillation.of_teacher)
        student = self.execution.encode_read(self.student, batch, self.distillation.of_student)
        total, terms = self.distillation(student, teacher, batch, (self.student, frozen))
        return LossTerms(total, terms)

    def parameter_groups(self) -> list[ParameterGroup]:
        """One group: the student with its projection."""
        parameters = trainable(self.student, "student") | trainable(self.distillation, "distillation")
        return [ParameterGroup("student", parameters, self.learning_rate)]
