"""Pseudo-labels by the nearest centroid (SHOT: Liang, Hu and Feng, ICML 2020, Section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertForSequenceClassification

from ..batches import EncodedTexts, TextBatch
from .forward import forward_classifier

_ROWS = 128  # texts a forward pass of the full pass


def centroid_labels(features: Tensor, probabilities: Tensor) -> Tensor:
    """Labels of the nearest class centroid by cosine.

    ::

        c_k = sum_x p_k(x) f(x) / sum_x p_k(x);   y(x) = argmax_k cos(f(x), c_k)

    and once more with the hard labels y in place of p. A class without any hard label has no centroid then.

    Args:
        features: f, [N, d]. probabilities: p, [N, classes].

    Returns:
        int64 [N].
    """
    directions = F.normalize(features.float(), dim=-1)
    weights = probabilities.float()
    labels = weights.argmax(-1)
    for _ in range(2):
        sums = weights.sum(0)
        centroids = (weights.T @ features.float()) / sums.clamp_min(1e-8)[:, None]
        cosines = directions @ F.normalize(centroids, dim=-1).T
        labels = cosines.masked_fill(sums == 0, -2.0).argmax(-1)
        weights = F.one_hot(labels, weights.shape[1]).float()
    return labels


class PseudoLabels(nn.Module):
    """weight * CE(p, y_hat) on target texts whose labels y_hat a model gives itself, refreshed each epoch.

    The labels and their epoch are buffers, so that a resumed run goes on with the same ones. Every process
    makes all of them.

    Args:
        texts: of the target domain; their own labels, if any, are not looked at.
        weight: of the cross-entropy, 0.3 in SHOT.
    """

    labels: Tensor
    epoch: Tensor

    def __init__(self, texts: EncodedTexts, weight: float) -> None:
        super().__init__()
        self.texts, self.weight = texts, weight
        self.register_buffer("labels", torch.full((len(texts),), -1))
        self.register_buffer("epoch", torch.tensor(-1))
        self._known: int | None = None  # the epoch, without asking the device

    @torch.no_grad()
    def refresh(self, model: BertForSequenceClassification, epoch: int) -> None:
        """Make the labels of `epoch` by a full pass of `model` (without dropout), unless they are there."""
        if self._known is None:
            self._known = int(self.epoch)
        if not self.weight or self._known == epoch:
            return
        training = model.training
        model.eval()
        features = torch.empty(len(self.texts), model.config.hidden_size, device=self.labels.device)
        probabilities = torch.empty(len(self.texts), model.classifier.out_features, device=self.labels.device)
        for batch in self.texts.in_order(_ROWS):
            batch = batch.to(self.labels.device)
            found = forward_classifier(model, batch)
            features[batch.numbers] = found.features.float()
            probabilities[batch.numbers] = found.logits.float().softmax(-1)
        model.train(training)
        with torch.autocast(features.device.type, enabled=False):
            self.labels.copy_(centroid_labels(features, probabilities))
        self.epoch.fill_(epoch)
        self._known = epoch

    def forward(self, logits: Tensor, batch: TextBatch) -> Tensor:
        """This micro-batch's share of the weighted loss, fp32; 0 for weight 0."""
        if not self.weight:
            return logits.new_zeros((), dtype=torch.float32)
        labels = self.labels[batch.numbers]
        return self.weight * batch.shares.rows * F.cross_entropy(logits.float(), labels)
