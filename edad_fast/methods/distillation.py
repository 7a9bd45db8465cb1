"""What every L_DT is: a module that says what it reads of two forward passes, and turns them into a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import BertForPreTraining

from ..batches import Batch
from ..models import EncoderOutput


@dataclass(frozen=True)
class Reads:
    """What a loss reads of a model's forward pass.

    Args:
        score_layers: layers, from 1, whose queries and keys are read. values: the value vectors of these too.
        hidden_states: every layer's output.
        last_hidden: the last layer's output, at every position.
        depth: layers that must be run; None: all.
    """

    score_layers: frozenset[int] = frozenset()
    values: bool = False
    hidden_states: bool = False
    last_hidden: bool = False
    depth: int | None = None

    @property
    def output(self) -> bool:
        """Whether it reads the last layer's output at every position."""
        return self.hidden_states or self.last_hidden


NOTHING = Reads()


class Distillation(nn.Module, ABC):
    """L_DT between two encoder outputs, scaled to a micro-batch's share of its optimiser step.

    Attributes:
        of_student, of_teacher: what it reads.
        masked: whether it reads predictions, and so asks for masked batches.
        through_layers: whether all its gradients reach the student's layers through what they return.
    """

    of_student: Reads
    of_teacher: Reads
    masked = False
    through_layers = True

    @abstractmethod
    def forward(
        self,
        student: EncoderOutput,
        teacher: EncoderOutput,
        batch: Batch,
        models: tuple[BertForPreTraining, BertForPreTraining] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and the unweighted terms by name.

        Args:
            student, teacher: what `of_student` and `of_teacher` ask for; the teacher's is cut from the graph.
            models: student and teacher as they compute, for a loss that reads their MLM heads.
        """
