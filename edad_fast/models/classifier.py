"""Text classifiers: their head on captured states."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from transformers import BertForSequenceClassification

from .capture import EncoderOutput


def classify(model: BertForSequenceClassification, output: EncoderOutput) -> tuple[Tensor, Tensor]:
    """Features f = g(x), the pooler's output [B, d], and logits h(f) [B, classes], as BERT's own forward."""
    features = cast(nn.Module, model.bert.pooler)(output.last_hidden)
    return features, model.classifier(model.dropout(features))
