"""The layer-to-layer distillation loss L_DT: hidden states and attention scores over a layer map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from edad_fast.errors import InputError
from edad_fast.kernels import HIDDEN_BACKENDS, HiddenTerm, distillation

from .attention import AttentionScoreMSE


class Captured(Protocol):
    """What a model's forward pass leaves for the loss."""

    @property
    def hidden_states(self) -> Sequence[Tensor]:
        """Embedding output and every layer's output, [B, L, d] each: layers + 1 of them."""

    @property
    def queries(self) -> Sequence[Tensor]:
        """One [B, H, L, d_head] per layer; read for matched layers, and only with the attention term on."""

    @property
    def keys(self) -> Sequence[Tensor]:
        """As `queries`."""


@dataclass(frozen=True)
class DistillationTerms:
    """Result of `DistillationLoss`.

    total: scalar with graph, the weighted sum. terms: detached, unweighted sums over the layers, "hidden" and
    "attention" (a term of weight 0 is absent). layers: the same layer by layer, fp32 [number of layers].
    """

    total: Tensor
    terms: dict[str, Tensor]
    layers: dict[str, Tensor]


class DistillationLoss(nn.Module):
    """L_DT of TinyBERT's general distillation and of EDAD.

    ::

        L_DT = hidden_weight    * sum_{m>=0} MSE(H^S_m W + b, H^T_g(m))
             + attention_weight * sum_{m>=1} MSE(A^S_m, A^T_g(m))

    m = 0 is the embedding output (g(0) = 0); A are pre-softmax attention scores, averaged over the heads;
    W, b is `fit_dense`, one for all layers unless `share_projection` is off. The teacher is a constant.
    Both terms over all layers are one node of the autograd graph.

    Args:
        student_width, teacher_width: hidden sizes d_S and d_T. `fit_dense` is there even if they are equal.
        pairs: (student layer, teacher layer), counted from 1, as `layer_map` gives them.
        attention_weight, hidden_weight: weights of the two terms; a term of weight 0 is not computed (and
            without the hidden term there is no `fit_dense`).
        mode: "tinybert" (means include padding, as published) or "valid_pairs" (tokens only, both terms).
        head_match, backend: as in `AttentionScoreMSE`. "cpu" has code for the attention term only; the hidden
            states then go the way of "auto".
        include_embeddings: whether m = 0 counts.
        share_projection: one `fit_dense`, or one for each matched hidden state.

    Raises:
        InputError: no pairs, a negative or non-finite weight, or both weights 0.
        ValueError: an unknown mode, match or backend.
    """

    def __init__(
        self,
        student_width: int,
        teacher_width: int,
        pairs: Sequence[tuple[int, int]],
        *,
        attention_weight: float = 1.0,
        hidden_weight: float = 1.0,
        mode: str = "tinybert",
        head_match: str | Sequence[int] = "auto",
        include_embeddings: bool = True,
        share_projection: bool = True,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        for name, weight in (("attention_weight", attention_weight), ("hidden_weight", hidden_weight)):
            if not 0.0 <= weight < float("inf"):
                raise InputError(f"{name} is {weight}: a finite number, 0 or above, is needed")
        if attention_weight == 0.0 and hidden_weight == 0.0:
            raise InputError("attention_weight and hidden_weight are both 0: nothing would be distilled")
        if not pairs:
            raise InputError("the layer map is empty: match at least one student layer")
        self.pairs = tuple((int(student), int(teacher)) for student, teacher in pairs)
        self.attention_weight = attention_weight
        self.hidden_weight = hidden_weight
        self.hidden_pairs = ((0, 0), *self.pairs) if include_embeddings else self.pairs
        self.attention_loss = AttentionScoreMSE(mode, head_match, backend)
        self.hidden_backend = backend if backend in HIDDEN_BACKENDS else "auto"
        self.hidden_mode = "valid" if mode == "valid_pairs" else mode
        self.fit_dense: nn.Linear | nn.ModuleList | None = None
        if hidden_weight > 0.0 and share_projection:
            self.fit_dense = _fit_dense(student_width, teacher_width)
        elif hidden_weight > 0.0:
            self.fit_dense = nn.ModuleList(
                _fit_dense(student_width, teacher_width) for _ in self.hidden_pairs
            )

    def extra_repr(self) -> str:
        """The options, for print()."""
        return (
            f"pairs={list(self.pairs)}, hidden_weight={self.hidden_weight}, "
            f"attention_weight={self.attention_weight}"
        )

    @property
    def applied(self) -> str:
        """What the last call did about the heads; see `AttentionScoreMSE.applied`."""
        return self.attention_loss.applied

    def forward(
        self,
        student: Captured,
        teacher: Captured,
        segment_ids: Tensor | None = None,
        *,
        scale: Mapping[str, float] | None = None,
    ) -> DistillationTerms:
        """The weighted total and its terms; nothing is copied off the device.

        Args:
            student, teacher: see `Captured`; both models saw the same tokens.
            segment_ids: int [B, L] (0 = padding, k = k-th segment), bool [B, L] (True = token), or None.
            scale: factors of the terms "hidden" and "attention" on top of their weights, such as a
                micro-batch's part of its optimiser step; they are in `terms` and `layers` too.

        Raises:
            ValueError: shapes that do not fit, a layer of the map that was not captured, or an unknown term.
        """
        if unknown := sorted(set(scale or {}) - {"hidden", "attention"}):
            raise ValueError(f"scale names {unknown}: the terms are 'hidden' and 'attention'")
        factors = {name: (scale or {}).get(name, 1.0) for name in ("hidden", "attention")}
        hidden = attention = None
        if self.fit_dense is not None:
            linears = self._projections()
            hidden = HiddenTerm(
                [_layer("student hidden_states", student.hidden_states, m) for m, _ in self.hidden_pairs],
                [
                    _layer("teacher hidden_states", teacher.hidden_states, g).detach()
                    for _, g in self.hidden_pairs
                ],
                [linear.weight for linear in linears],
                [linear.bias for linear in linears],
                segment_ids,
                self.hidden_mode,
                self.hidden_weight * factors["hidden"],
                self.hidden_backend,
            )
        if self.attention_weight > 0.0:
            attention = self.attention_loss.term(
                [_layer("student queries", student.queries, m - 1) for m, _ in self.pairs],
                [_layer("student keys", student.keys, m - 1) for m, _ in self.pairs],
                [_layer("teacher queries", teacher.queries, g - 1) for _, g in self.pairs],
                [_layer("teacher keys", teacher.keys, g - 1) for _, g in self.pairs],
                segment_ids,
                weight=self.attention_weight * factors["attention"],
            )
        total, *means = distillation(attention, hidden)
        layers = {
            name: values * factors[name]
            for name, values, term in zip(factors, means, (hidden, attention), strict=True)
            if term
        }
        return DistillationTerms(
            total=total, terms={name: values.sum() for name, values in layers.items()}, layers=layers
        )

    def _projections(self) -> list[nn.Linear]:
        if isinstance(self.fit_dense, nn.Linear):
            return [self.fit_dense]
        return [linear for linear in self.fit_dense or () if isinstance(linear, nn.Linear)]


def _fit_dense(student_width: int, teacher_width: int) -> nn.Linear:
    linear = nn.Linear(student_width, teacher_width)
    nn.init.normal_(linear.weight, std=0.02)  # as BERT and TinyBERT start their own layers
    nn.init.zeros_(linear.bias)
    return linear


def _layer(name: str, captured: Sequence[Tensor], index: int) -> Tensor:
    if not 0 <= index < len(captured):
        raise ValueError(
            f"{name} holds {len(captured)} tensors, number {index} (from 0) is matched: capture every layer, "
            "or correct the layer map"
        )
    return captured[index]
