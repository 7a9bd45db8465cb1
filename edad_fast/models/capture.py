"""Queries, keys, values and hidden states of an encoder, with SDPA left on.

`output_attentions=True` would switch SDPA off (or give nothing at all), so queries, keys and values are taken
where the attention function is handed them: through the attention interface of transformers. BERT obeys that
interface from transformers 5 on; before, the same tensors are the outputs of the three projections.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import transformers
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.bert.modeling_bert import BertLayer

from ..errors import InputError
from .cpu_attention import half_attention
from .exbert import original_layer
from .varlen_attention import varlen_attention

ATTENTION = "edad_capture"
_INTERFACE = int(transformers.__version__.split(".")[0]) >= 5


@dataclass
class EncoderOutput:
    """What one forward pass of an encoder of n layers and H heads leaves for the losses.

    Attributes:
        last_hidden: [B, L, d].
        hidden_states: n + 1 tensors [B, L, d]: the embedding output, then each layer's; () without capture.
        queries, keys: one [B, H, L, d / H] for each layer, before scaling; empty for layers not asked for.
        values: as queries and keys; () where they are not asked for.
    """

    last_hidden: Tensor
    hidden_states: tuple[Tensor, ...] = ()
    queries: tuple[Tensor, ...] = ()
    keys: tuple[Tensor, ...] = ()
    values: tuple[Tensor, ...] = ()

    def detach(self) -> EncoderOutput:
        """The same values, cut from the graph."""
        lists = (self.hidden_states, self.queries, self.keys, self.values)
        return EncoderOutput(
            self.last_hidden.detach(), *(tuple(t.detach() for t in tensors) for tensors in lists)
        )


def _capturing_sdpa(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    sink = getattr(module, "_capture_sink", None)
    if sink is not None:
        for name, states in (("query", query), ("key", key), ("value", value)):
            if name in sink:
                sink[name] = states
    cu_seqlens = kwargs.pop("cu_seq_lens_q", None)
    if cu_seqlens is not None:
        return varlen_attention(
            *(query, key, value, cu_seqlens, kwargs["max_length_q"], kwargs.get("scaling"))
        ), None
    if query.device.type == "cpu" and query.dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", enabled=False):
            return half_attention(module, query, key, value, attention_mask, **kwargs), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


if _INTERFACE:
    from transformers import AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, _capturing_sdpa)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def use_capturing_attention(model: PreTrainedModel) -> None:
    """Make `model` run SDPA through the capturing attention function (a plain SDPA before transformers 5)."""
    model.set_attn_implementation(ATTENTION if _INTERFACE else "sdpa")


@contextmanager
def _sinks(
    encoder: Any, layers: Collection[int], names: Collection[str]
) -> Iterator[dict[int, dict[str, Tensor]]]:
    sinks = {layer: {name: torch.empty(0) for name in names} for layer in layers}
    attentions: dict[int, Any] = {
        i: cast(Any, original_layer(encoder.encoder.layer[i - 1])).attention.self for i in layers
    }
    handles = []
    for index, attention in attentions.items():
        if _INTERFACE:
            attention._capture_sink = sinks[index]
        else:
            for name in names:

                def keep(
                    module: nn.Module, inputs: Any, output: Tensor, index: int = index, name: str = name
                ) -> None:
                    heads = encoder.config.num_attention_heads
                    sinks[index][name] = output.unflatten(-1, (heads, -1)).transpose(1, 2)

                handles.append(getattr(attention, name).register_forward_hook(keep))
    try:
        yield sinks
    finally:
        for handle in handles:
            handle.remove()
        if _INTERFACE:
            for attention in attentions.values():
                del attention._capture_sink


def encode(
    model: PreTrainedModel,
    input_ids: Tensor,
    *,
    position_ids: Tensor | None = None,
    token_type_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    hidden_states: bool = True,
    score_layers: Collection[int] | None = None,
    values: bool = False,
    recompute: bool = False,
    depth: int | None = None,
    finish: bool = True,
    cu_seqlens: Tensor | None = None,
) -> EncoderOutput:
    """Run the encoder of a BERT and keep what the distillation losses need; SDPA stays on.

    Args:
        model: a BERT, plain or exBERT, with or without heads; switched to the capturing attention.
        input_ids, position_ids, token_type_ids: int64 [B, L].
        attention_mask: None; int or bool [B, L], 1 = token; or bool [B, 1, L, L], True where a query may
            attend to a key.
        hidden_states: keep every layer's output.
        score_layers: 1-based layers whose queries and keys are kept (in exBERT of the original module);
            None: all.
        values: keep the value vectors of those layers too.
        recompute: gradient checkpointing; a layer keeps its input and what is captured alone for backward.
        depth: run so many layers; None: all.
        finish: False stops before the last layer's feed-forward network, which `feed_forward` then runs on
            the positions that are needed; for plain BERT layers.
        cu_seqlens: as in `varlen_attention`, which then computes the attention (exBERT's extensions keep to
            attention_mask); dropout of the attention must be 0.

    Raises:
        InputError: a model that is no BERT.
        ValueError: a mask of another shape, or `finish` with layers that have no such place to stop.
    """
    encoder: Any = getattr(model, "bert", model)
    if not hasattr(encoder, "encoder"):
        raise InputError(
            f"{type(model).__name__} is no BERT: give a BertModel, or a model whose encoder is one as "
            "`model.bert`; of other models give the losses hidden states, queries and keys yourself"
        )
    layers = encoder.encoder.layer[:depth]
    all_layers = range(1, len(layers) + 1)
    if not finish and not can_stop_early(model):
        raise ValueError("finish=False needs plain BERT layers; exBERT's two modules are mixed at the end")
    captured = all_layers if score_layers is None else score_layers
    if captured and _INTERFACE and model.config._attn_implementation != ATTENTION:
        use_capturing_attention(model)
    if attention_mask is not None and attention_mask.dim() == 2:
        attention_mask = attention_mask.bool()[:, None, None, :]
    if attention_mask is not None and attention_mask.dim() != 4:
        raise ValueError(f"attention_mask is {tuple(attention_mask.shape)}; give [B, L] or [B, 1, L, L]")
    states = encoder.embeddings(input_ids=input_ids, position_ids=position_ids, token_type_ids=token_type_ids)
    collected = [states]
    extra: dict[str, Any] = {}
    if cu_seqlens is not None:
        extra = {"cu_seq_lens_q": cu_seqlens, "max_length_q": input_ids.shape[1]}
    names = ("query", "key", "value") if values else ("query", "key")
    with _sinks(encoder, captured, names) as sinks:
        for number, layer in zip(all_layers, layers, strict=True):
            if number == len(layers) and not finish:
                output = layer.attention(states, attention_mask, **extra)
            elif recompute and torch.is_grad_enabled():
                output = checkpoint(layer, states, attention_mask, use_reentrant=False, **extra)
            else:
                output = layer(states, attention_mask, **extra)
            states = output[0] if isinstance(output, tuple) else output
            if hidden_states:
                collected.append(states)

    def by_layer(name: str) -> tuple[Tensor, ...]:
        return tuple(sinks[i][name] if i in sinks else torch.empty(0) for i in all_layers) if sinks else ()

    return EncoderOutput(
        last_hidden=states,
        hidden_states=tuple(collected) if hidden_states else (),
        queries=by_layer("query"),
        keys=by_layer("key"),
        values=by_layer("value") if values else (),
    )


def can_stop_early(model: PreTrainedModel) -> bool:
    """Whether `encode` takes finish=False for `model`."""
    encoder: Any = getattr(model, "bert", model)
    return isinstance(encoder.encoder.layer[-1], BertLayer)


def feed_forward(model: PreTrainedModel, states: Tensor) -> Tensor:
    """The last layer's feed-forward network on rows [..., d] of what `encode` with finish=False gives."""
    layer = cast(Any, getattr(model, "bert", model)).encoder.layer[-1]
    output: Tensor = layer.feed_forward_chunk(states)
    return output


def set_dropout(model: nn.Module, probability: float) -> None:
    """Set the dropout of every module; the saved configuration keeps its own values for fine-tuning."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
        if hasattr(module, "dropout_prob"):  # transformers 4 keeps the attention's dropout as a number
            cast(Any, module).dropout_prob = probability


def count_parameters(model: nn.Module) -> int:
    """Parameters of `model`, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
