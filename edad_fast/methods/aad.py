"""Adversarial adaptation with distillation (Ryu and Lee 2020, arXiv 2010.11478); it needs the source data."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertForSequenceClassification

from ..batches import DomainBatch
from ..losses import LogitKL
from ..training import LossTerms, ParameterGroup
from .adapt import trainable
from .forward import forward_classifier
from .source_free import freeze_head

_SOURCE, _TARGET = 1, 0


def discriminator(width: int, inner: int) -> nn.Sequential:
    """Features [B, width] -> logits [B, 2] of (target, source); two hidden layers of `inner`, leaky ReLU."""
    return nn.Sequential(
        nn.Linear(width, inner),
        nn.LeakyReLU(),
        nn.Linear(inner, inner),
        nn.LeakyReLU(),
        nn.Linear(inner, 2),
    )


class AdversarialAdaptation(nn.Module):
    """Objective: the encoder learns target features that a discriminator takes for source features.

    ::

        discriminator: CE(D(f(x_s)), source) + CE(D(f(x_t)), target), a mean over both
        encoder:       CE(D(f(x_t)), source) + T^2 KL(p_source(x_s) / T || p(x_s) / T)

    f is the adapting encoder, started from the source-trained one, which stays as it is to give p_source; the
    head is frozen. Both are updated in the same step, where the published code updates the discriminator
    first. Alpha plays no part.

    Args:
        teacher: the source-trained classifier; it becomes the adapted one.
        learning_rate: of encoder and discriminator. temperature: T.
        recompute: gradient checkpointing.
    """

    def __init__(
        self,
        teacher: BertForSequenceClassification,
        learning_rate: float,
        temperature: float,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.source = copy.deepcopy(teacher).requires_grad_(False)
        self.teacher = freeze_head(teacher)
        self.discriminator = discriminator(teacher.config.hidden_size, teacher.config.intermediate_size)
        self.predictions = LogitKL(temperature)
        self.learning_rate, self.recompute = learning_rate, recompute

    def train(self, mode: bool = True) -> AdversarialAdaptation:
        """The source-trained model stays in evaluation mode."""
        super().train(mode)
        self.source.eval()
        return self

    def forward(self, batch: DomainBatch, alpha: float) -> LossTerms:
        """The losses of both players, each of which reaches its own weights only."""
        with torch.no_grad():
            told = forward_classifier(self.source, batch.source)
        source = forward_classifier(self.teacher, batch.source, recompute=self.recompute)
        target = forward_classifier(self.teacher, batch.target, recompute=self.recompute)
        both = torch.cat([source.features, target.features]).detach()
        sides = torch.full((len(both),), _TARGET, device=both.device)
        sides[: len(source.features)] = _SOURCE
        found = F.cross_entropy(self.discriminator(both).float(), sides)
        fixed = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        judged: Tensor = torch.func.functional_call(self.discriminator, fixed, (target.features,))
        fooled = F.cross_entropy(judged.float(), torch.full((len(judged),), _SOURCE, device=both.device))
        kept = self.predictions(source.logits, told.logits)
        terms = {
            "discriminator": batch.target.shares.rows * found,
            "adversarial": batch.target.shares.rows * fooled,
            "prediction": batch.source.shares.rows * kept,
        }
        return LossTerms(
            terms["discriminator"] + terms["adversarial"] + terms["prediction"],
            {name: term.detach() for name, term in terms.items()},
        )

    def parameter_groups(self) -> list[ParameterGroup]:
        """The adapting encoder, and the discriminator."""
        return [
            ParameterGroup("teacher", trainable(self.teacher, "teacher"), self.learning_rate),
            ParameterGroup(
                "discriminator", trainable(self.discriminator, "discriminator"), self.learning_rate
            ),
        ]
