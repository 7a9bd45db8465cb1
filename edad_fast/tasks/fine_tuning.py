"""What the fine-tuning of any task shares: initialisation, frozen layers, and two exact savings of time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError


class QuickDropout(nn.Dropout):
    """Dropout for CPUs: one 64-bit random number decides four elements.

    torch draws a number of its own for each element, one after the other: 5 to 10% of the time of a
    small model's fine-tuning step. The probability is rounded to a multiple of 2^-16 and the kept elements
    are scaled by the rounded value, so the expectation is exact.
    """

    def __init__(self, p: float) -> None:
        super().__init__(p)
        self.dropped = round(p * 65536)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` with elements dropped in training mode, else `x` itself."""
        if not self.training or not self.dropped:
            return x
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        keep = draws.view(torch.int16)[: x.numel()].view(x.shape) >= self.dropped - 32768
        return x * (keep.to(x.dtype) * (65536 / (65536 - self.dropped)))


def use_quick_dropout(model: nn.Module) -> None:
    """Replace every `nn.Dropout` with 0 < p < 1 in `model`, which lies on the CPU."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout and 0 < child.p < 1:
                setattr(parent, name, QuickDropout(child.p))


def keep_used_embeddings(model: nn.Module, ids: Sequence[np.ndarray], pad_id: int) -> np.ndarray | None:
    """Cut the word embedding table down to the rows that `ids` and `pad_id` use.

    Exact: other rows never receive a gradient and no output depends on them. It spares AdamW the dense update
    of the whole table, which for a small student with a large vocabulary is most of its parameters.

    Returns:
        int64 [V], the new id of each old one (-1 where dropped), or None if the table was not found.

    Raises:
        InputError: an id is outside the table.
    """
    tables = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and name.split(".")[-1] == "word_embeddings"
    ]
    if len(tables) != 1:
        return None
    table = tables[0]
    used = np.unique(np.concatenate([*ids, np.array([pad_id])]))
    if used[-1] >= table.num_embeddings:
        raise InputError(
            f"the tokenizer gives id {used[-1]}, but the model has {table.num_embeddings} embeddings; "
            "use the tokenizer that was saved with the model"
        )
    rows = np.full(table.num_embeddings, -1, dtype=np.int64)
    rows[used] = np.arange(len(used))
    table.weight = nn.Parameter(table.weight.detach()[torch.from_numpy(used)].clone())
    table.num_embeddings = len(used)
    if table.padding_idx is not None:
        table.padding_idx = int(rows[table.padding_idx]) if rows[table.padding_idx] >= 0 else None
    return rows


def initialise(module: nn.Module, std: float) -> None:
    """BERT's initialisation of every weight below `module`, from torch's generator."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.normal_(part.weight, std=std)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
        if isinstance(part, nn.LayerNorm):
            part.reset_parameters()


def freeze_below(model: Any, top_layers: int | None) -> None:
    """Train the last `top_layers` encoder layers and the classifier alone; None trains everything."""
    if top_layers is None:
        return
    encoder = getattr(model, model.base_model_prefix).encoder
    model.requires_grad_(False)
    model.classifier.requires_grad_(True)
    for layer in encoder.layer[-top_layers:]:
        layer.requires_grad_(True)
