"""exBERT: an extension module and a gate beside every layer of a BERT encoder.

Source: Tai et al., "exBERT: Extending Pre-trained Models with Domain-specific Vocabulary Under Constrained
Training Resources", Findings of EMNLP 2020. Layer: H' = g * T_orig(H) + (1 - g) * T_ext(H),
g = sigmoid(w.H + b), one scalar for each token and layer; both modules are post-LayerNorm BERT layers that
read the same H. One concatenated embedding table holds the general and the domain pieces.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining, BertForTokenClassification
from transformers.activations import ACT2FN

from ..errors import InputError

MODEL_TYPE = "edad_exbert"


class ExBertConfig(BertConfig):
    """A BERT configuration with `extension_size`, `extension_intermediate_size` and `gate_bias`.

    Its model type is none that transformers knows, so that a plain `AutoModel` refuses the checkpoint instead
    of loading half of it; `edad_fast.models.load_masked_lm` loads it.
    """

    model_type = MODEL_TYPE
    extension_size: int = 252
    extension_intermediate_size: int = 1024
    gate_bias: float = 0.0


def exbert_config(base: BertConfig, extension: tuple[int, int], gate_bias: float) -> ExBertConfig:
    """Return `base` with an extension of widths (hidden, intermediate).

    Raises:
        InputError: the extension's hidden width is no multiple of the head count.
    """
    hidden, intermediate = extension
    heads = base.num_attention_heads
    if hidden % heads:
        raise InputError(
            f"extension width {hidden} is not a multiple of the {heads} attention heads; "
            f"the nearest that fits is {max(1, round(hidden / heads)) * heads}"
        )
    values = {
        key: value for key, value in base.to_dict().items() if key not in ("model_type", "architectures")
    }
    config = ExBertConfig(**values)
    config.extension_size, config.extension_intermediate_size = hidden, intermediate
    config.gate_bias = gate_bias
    return config


def read_exbert_config(directory: Path) -> ExBertConfig:
    """Read `config.json` of a saved exBERT model."""
    values = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    extra = {key: values.pop(key) for key in ("extension_size", "extension_intermediate_size", "gate_bias")}
    for key in ("model_type", "architectures", "transformers_version"):
        values.pop(key, None)
    config = ExBertConfig(**values)
    for key, value in extra.items():
        setattr(config, key, value)
    return config


class ExtensionLayer(nn.Module):
    """A post-LayerNorm BERT layer of its own inner widths over the same hidden states [B, L, d]."""

    def __init__(self, config: ExBertConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.extension_size
        self.heads = config.num_attention_heads
        self.query = nn.Linear(width, inner)
        self.key = nn.Linear(width, inner)
        self.value = nn.Linear(width, inner)
        self.attention_output = nn.Linear(inner, width)
        self.attention_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.intermediate = nn.Linear(width, config.extension_intermediate_size)
        self.output = nn.Linear(config.extension_intermediate_size, width)
        self.output_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attention_dropout = nn.Dropout(config.attention_probs_dropout_prob)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.activation = ACT2FN[config.hidden_act]

    def _heads_first(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Map [B, L, d] to [B, L, d].

        `attention_mask` is None, bool or additive, broadcastable to [B, H, L, L].
        """
        context = functional.scaled_dot_product_attention(
            self._heads_first(self.query(hidden_states)),
            self._heads_first(self.key(hidden_states)),
            self._heads_first(self.value(hidden_states)),
            attn_mask=attention_mask,
            dropout_p=self.attention_dropout.p if self.training else 0.0,
        )
        context = self.dropout(self.attention_output(context.transpose(1, 2).flatten(2)))
        attended = self.attention_norm(context + hidden_states)
        inner = self.dropout(self.output(self.activation(self.intermediate(attended))))
        return self.output_norm(inner + attended)


class ExBertLayer(nn.Module):
    """The original layer and the extension, mixed by a gate for each token."""

    def __init__(self, original: nn.Module, config: ExBertConfig) -> None:
        super().__init__()
        self.original = original
        self.extension = ExtensionLayer(config)
        self.gate = nn.Linear(config.hidden_size, 1)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Return what the original layer returns (a tensor, or a tuple in transformers 4), gated."""
        original = self.original(hidden_states, attention_mask, *args, **kwargs)
        extension = self.extension(hidden_states, attention_mask)
        gate = torch.sigmoid(self.gate(hidden_states))
        if isinstance(original, tuple):
            return (gate * original[0] + (1 - gate) * extension, *original[1:])
        return gate * original + (1 - gate) * extension


def attach_extension(model: BertForPreTraining | BertForMaskedLM | BertForTokenClassification) -> None:
    """Put the extension and gate of `model.config` (an `ExBertConfig`) beside every layer, in place.

    New weights are drawn as BERT draws its own (normal, `initializer_range`); the gate bias is `gate_bias`.
    """
    config = cast(ExBertConfig, model.config)
    layers = model.bert.encoder.layer
    for index, original in enumerate(layers):
        layer = ExBertLayer(original, config)
        for module in [*layer.extension.modules(), layer.gate]:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=config.initializer_range)
                nn.init.zeros_(module.bias)
        nn.init.constant_(layer.gate.bias, config.gate_bias)
        reference = next(original.parameters())
        layers[index] = layer.to(device=reference.device, dtype=reference.dtype)


def original_layer(layer: nn.Module) -> nn.Module:
    """The BERT layer inside `layer`: itself, or the original half of an exBERT layer."""
    return layer.original if isinstance(layer, ExBertLayer) else layer
