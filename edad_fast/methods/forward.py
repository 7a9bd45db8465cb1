"""One forward pass of a text classifier, with what the losses read."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor
from transformers import BertForSequenceClassification

from ..batches import TextBatch
from ..models import EncoderOutput, classify, encode


@dataclass(frozen=True)
class Forward:
    """What one forward pass leaves: the encoder's states, features f = g(x) [B, d], logits [B, classes]."""

    output: EncoderOutput
    features: Tensor
    logits: Tensor

    def detach(self) -> Forward:
        """The same values, cut from the graph."""
        return Forward(self.output.detach(), self.features.detach(), self.logits.detach())


def forward_classifier(
    model: BertForSequenceClassification,
    batch: TextBatch,
    *,
    score_layers: Collection[int] = (),
    hidden_states: bool = False,
    recompute: bool = False,
) -> Forward:
    """Run `model` on `batch`; the other arguments are those of `edad_fast.models.encode`."""
    output = encode(
        model,
        batch.input_ids,
        position_ids=batch.position_ids,
        token_type_ids=batch.token_type_ids,
        attention_mask=batch.attention_mask(),
        hidden_states=hidden_states,
        score_layers=score_layers,
        recompute=recompute,
    )
    return Forward(output, *classify(model, output))
