"""Rows for new pieces in the embedding table and the tied MLM decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import nn
from transformers import PreTrainedModel


def expand_embeddings(
    model: PreTrainedModel,
    decompositions: Sequence[Sequence[int]],
    *,
    init: Literal["mean", "random"] = "mean",
    generator: torch.Generator | None = None,
) -> None:
    """Append one row for each new piece to the tied embedding and to the decoder's bias, in place.

    Args:
        model: BERT with MLM head; old rows keep their ids and values.
        decompositions: for each new piece the ids of the old pieces it splits into.
        init: `mean` of the rows (and biases) of those pieces (AdaLM, Section 3.2), or `random` as BERT draws
            weights.
        generator: source of the random rows.
    """
    old, added = model.config.vocab_size, len(decompositions)
    if not added:
        return
    model.resize_token_embeddings(old + added, mean_resizing=False)
    weight = cast(nn.Embedding, model.get_input_embeddings()).weight
    bias = cast(nn.Linear, model.get_output_embeddings()).bias
    with torch.no_grad():
        if init == "random":
            rows = torch.normal(
                0.0, model.config.initializer_range, (added, weight.shape[1]), generator=generator
            )
            weight[old:] = rows.to(weight)
            bias[old:] = 0.0
            return
        flat = torch.tensor([piece for pieces in decompositions for piece in pieces], device=weight.device)
        lengths = torch.tensor([len(pieces) for pieces in decompositions], device=weight.device)
        owner = torch.repeat_interleave(torch.arange(added, device=weight.device), lengths)
        for table in (weight, bias):
            sums = torch.zeros((added, *table.shape[1:]), dtype=torch.float64, device=weight.device)
            sums.index_add_(0, owner, table[flat].double())
            table[old:] = (sums / lengths.reshape(-1, *[1] * (table.dim() - 1))).to(table.dtype)
