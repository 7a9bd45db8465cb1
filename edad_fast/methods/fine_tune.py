"""Fine-tuning of a classifier on labelled texts: the source site of source-free adaptation."""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F
from transformers import BertForSequenceClassification

from ..batches import TextBatch
from ..training import LossTerms, ParameterGroup
from .adapt import trainable
from .forward import forward_classifier


class FineTuning(nn.Module):
    """Objective: cross-entropy with label smoothing. Alpha plays no part.

    Args:
        model: encoder, pooler and head are trained.
        learning_rate: peak of the schedule.
        label_smoothing: weight of the uniform distribution in the target (0.1 in SHOT).
        recompute: gradient checkpointing.
    """

    def __init__(
        self,
        model: BertForSequenceClassification,
        learning_rate: float,
        label_smoothing: float,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.learning_rate = model, learning_rate
        self.label_smoothing, self.recompute = label_smoothing, recompute

    def forward(self, batch: TextBatch, alpha: float) -> LossTerms:
        """The loss of `batch`."""
        assert batch.labels is not None
        logits = forward_classifier(self.model, batch, recompute=self.recompute).logits.float()
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)
        loss = batch.shares.rows * loss
        return LossTerms(loss, {"cross_entropy": loss.detach()})

    def parameter_groups(self) -> list[ParameterGroup]:
        """One group, the model."""
        return [ParameterGroup("teacher", trainable(self.model, "model"), self.learning_rate)]
