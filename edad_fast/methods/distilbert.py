"""DistilBERT's loss as L_DT (Sanh et al. 2019): predictions, MLM, direction of the hidden states."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import BertForPreTraining

from ..batches import Batch
from ..losses import LogitKL
from ..models import EncoderOutput
from .distillation import Distillation, Reads


@dataclass(frozen=True)
class DistilBertWeights:
    """Weights of the three terms, and the temperature of the first; defaults: the published script's."""

    kl: float = 5.0
    mlm: float = 2.0
    cosine: float = 1.0
    temperature: float = 2.0


class DistilBertDistillation(Distillation):
    """L_DT = 5 T^2 KL(p_T || p_S) + 2 MLM + 1 (1 - cos(H^S, H^T)), T = 2.

    KL and MLM are means over the masked positions (the published script takes the KL over all tokens, which
    costs the vocabulary's logits at each of them), the cosine is one over the tokens of the last layer.

    Args:
        weights: see `DistilBertWeights`; a term of weight 0 is not computed. backend: as in `LogitKL`.
    """

    masked = True

    def __init__(self, weights: DistilBertWeights, *, backend: str) -> None:
        super().__init__()
        self.weights = weights
        self.of_student = self.of_teacher = Reads(last_hidden=True)
        self.kl = LogitKL(weights.temperature, backend)

    def forward(
        self,
        student: EncoderOutput,
        teacher: EncoderOutput,
        batch: Batch,
        models: tuple[BertForPreTraining, BertForPreTraining] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and the terms `logit_kl`, `distil_mlm` and `cosine`; `models` is needed."""
        assert models is not None
        weights, shares, terms = self.weights, batch.shares, dict[str, Tensor]()
        total = student.last_hidden.new_zeros((), dtype=torch.float32)
        if weights.kl > 0.0 or weights.mlm > 0.0:
            logits = _masked_logits(models[0], student, batch)
            if weights.kl > 0.0:
                with torch.no_grad():
                    target = _masked_logits(models[1], teacher, batch)
                terms["logit_kl"] = shares.masked * self.kl(logits, target)
                total = total + weights.kl * terms["logit_kl"]
            if weights.mlm > 0.0:
                loss = functional.cross_entropy(logits.float(), batch.masked_labels, reduction="sum")
                terms["distil_mlm"] = shares.masked * loss / max(1, len(batch.masked_labels))
                total = total + weights.mlm * terms["distil_mlm"]
        if weights.cosine > 0.0:
            mine, theirs = student.last_hidden.float(), teacher.last_hidden.detach().float()
            distance = (1.0 - functional.cosine_similarity(mine, theirs, dim=-1)) * batch.mask
            terms["cosine"] = shares.tokens * distance.sum() / batch.mask.sum().clamp(min=1)
            total = total + weights.cosine * terms["cosine"]
        return total, {name: term.detach() for name, term in terms.items()}


def _masked_logits(model: BertForPreTraining, output: EncoderOutput, batch: Batch) -> Tensor:
    """The MLM head's logits at the masked positions, [M, V]."""
    rows = output.last_hidden.flatten(0, 1).index_select(0, batch.masked_positions)
    logits: Tensor = model.cls.predictions(rows)
    return logits
