"""Rows for another vocabulary in the embedding table and the tied MLM decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

Init = Literal["mean", "random"]


def _tables(model: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """The tied embedding [V, d] and the decoder's bias [V]."""
    decoder = cast(nn.Linear, model.get_output_embeddings())
    return cast(nn.Embedding, model.get_input_embeddings()).weight, decoder.bias


def _means(table: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """Mean of the rows of each group; of one row: that row, bit for bit."""
    flat = torch.tensor([row for rows in groups for row in rows], device=table.device)
    lengths = torch.tensor([len(rows) for rows in groups], device=table.device)
    owner = torch.repeat_interleave(torch.arange(len(groups), device=table.device), lengths)
    sums = torch.zeros((len(groups), *table.shape[1:]), dtype=torch.float64, device=table.device)
    sums.index_add_(0, owner, table[flat].double())
    return (sums / lengths.reshape(-1, *[1] * (table.dim() - 1))).to(table.dtype)


def _draw(model: PreTrainedModel, count: int, generator: torch.Generator | None) -> Tensor:
    width = _tables(model)[0].shape[1]
    return torch.normal(0.0, model.config.initializer_range, (count, width), generator=generator)


def expand_embeddings(
    model: PreTrainedModel,
    decompositions: Sequence[Sequence[int]],
    *,
    init: Init = "mean",
    generator: torch.Generator | None = None,
) -> None:
    """Append one row for each new piece to the tied embedding and to the decoder's bias, in place.

    Args:
        model: BERT with MLM head; old rows keep their ids and values.
        decompositions: for each new piece the ids of the old pieces it splits into.
        init, generator: as in `fill_rows`.
    """
    if not decompositions:
        return
    model.resize_token_embeddings(model.config.vocab_size + len(decompositions), mean_resizing=False)
    fill_rows(model, decompositions, init=init, generator=generator)


@torch.no_grad()
def fill_rows(
    model: PreTrainedModel,
    decompositions: Sequence[Sequence[int]],
    *,
    init: Init = "mean",
    generator: torch.Generator | None = None,
) -> None:
    """Set the last rows of the tied embedding and of the decoder's bias, one for each new piece, in place.

    Args:
        decompositions: for each new piece the ids of the old pieces it splits into.
        init: `mean` of the rows (and biases) of those pieces (AdaLM, Section 3.2), or `random` as BERT draws
            weights.
        generator: source of the random rows.
    """
    added = len(decompositions)
    if not added:
        return
    weight, bias = _tables(model)
    if init == "random":
        weight[-added:] = _draw(model, added, generator).to(weight)
        bias[-added:] = 0.0
        return
    for table in (weight, bias):
        table[-added:] = _means(table, decompositions)


@torch.no_grad()
def replace_vocabulary(
    model: PreTrainedModel,
    decompositions: Sequence[Sequence[int]],
    *,
    kept: Sequence[bool],
    pad_id: int,
    init: Init = "mean",
    generator: torch.Generator | None = None,
) -> None:
    """Give `model` another vocabulary, in place (AdaLM, Section 3.2).

    Args:
        decompositions: for each row of the new vocabulary the ids of the old pieces that it splits into; of a
            piece that the old vocabulary has, its old id alone: the row is copied.
        kept: which rows are such copies.
        pad_id: of the new vocabulary.
        init, generator: of the other rows, as in `fill_rows`.
    """
    rows = [_means(table, decompositions) for table in _tables(model)]
    if init == "random":
        new = ~torch.tensor(list(kept))
        rows[0][new] = _draw(model, int(new.sum()), generator).to(rows[0])
        rows[1][new] = 0.0
    model.resize_token_embeddings(len(decompositions), mean_resizing=False)
    for table, values in zip(_tables(model), rows, strict=True):
        table.copy_(values)
    set_padding(model, pad_id)


def set_padding(model: PreTrainedModel, pad_id: int) -> None:
    """Tell the configuration and the embedding, whose row for padding is not trained, where it is."""
    model.config.pad_token_id = pad_id
    cast(nn.Embedding, model.get_input_embeddings()).padding_idx = pad_id
