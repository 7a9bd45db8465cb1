"""Domain-adaptation losses: masked language model and next sentence."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from edad_fast.kernels import masked_lm_loss, next_sentence_loss
from edad_fast.kernels.checks import check_regularisers
from edad_fast.kernels.choice import check_output_backend

__all__ = ["MaskedLMHead", "masked_lm_loss", "next_sentence_loss"]


class MaskedLMHead(nn.Module):
    """BERT's prediction head and its cross-entropy on the masked positions only. Holds no parameters.

    For a Hugging Face `BertForMaskedLM`::

        head, decoder = model.cls.predictions, model.cls.predictions.decoder
        loss = MaskedLMHead()(hidden, head.transform, decoder.weight, decoder.bias, positions, labels)

    Args:
        backend: as for `masked_lm_loss`; "auto" chooses.
        label_smoothing, z_loss: as for `masked_lm_loss`.

    Raises:
        ValueError: an option out of range, or a backend without code for this loss.
    """

    def __init__(self, backend: str = "auto", label_smoothing: float = 0.0, z_loss: float = 0.0) -> None:
        super().__init__()
        check_output_backend(backend, "cross_entropy")
        check_regularisers(label_smoothing, z_loss)
        self.backend = backend
        self.label_smoothing = label_smoothing
        self.z_loss = z_loss

    def extra_repr(self) -> str:
        """The options, for print()."""
        return f"backend={self.backend!r}, label_smoothing={self.label_smoothing}, z_loss={self.z_loss}"

    def forward(
        self,
        hidden: Tensor,
        transform: Callable[[Tensor], Tensor],
        decoder_weight: Tensor,
        decoder_bias: Tensor | None,
        positions: Tensor,
        labels: Tensor,
    ) -> Tensor:
        """Scalar mean loss, fp32 (fp64 for fp64 inputs); 0, connected to the graph, with nothing masked.

        Args:
            hidden: [B, L, d] or [N, d], the encoder's last hidden states.
            transform: [M, d] -> [M, d'].
            decoder_weight: [V, d']; decoder_bias: [V] or None.
            positions: int64 [M], flat into the B*L positions; labels: int64 [M], ids below V (no -100: there
                is no ignore_index, only masked positions are given).

        Raises:
            ValueError: shapes, dtypes or options that do not fit.
        """
        return masked_lm_loss(
            hidden,
            positions,
            labels,
            transform,
            decoder_weight,
            decoder_bias,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
            backend=self.backend,
        )
