"""Held-out masked-language-model loss with fixed masks."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ..errors import InputError
from .device import autocast


class MaskedStream(Protocol):
    """Batches as a pure function of the step, so that every model is asked for the same masked tokens."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every row was seen."""

    def step(self, step: int) -> Sequence[Any]:
        """Micro-batches of one step, with the fields of `edad_fast.batches.Batch`."""


def unpack(batch: Any) -> tuple[dict[str, Tensor], Tensor]:
    """Give each packed piece a row of its own, so that any model with a plain padding mask can read it.

    Returns:
        `input_ids`, `attention_mask` and `token_type_ids`, int64 [pieces, longest piece], padded with id 0;
        and the masked positions, int64 [M], flat into the first two dimensions, in the batch's order.
    """
    segments = batch.segment_ids.long()
    rows, length = segments.shape
    # Segments are numbered 1, 2, ... within a row: row * (length + 1) + segment names a piece uniquely.
    names = (torch.arange(rows)[:, None] * (length + 1) + segments).flatten()
    tokens = (segments.flatten() > 0).nonzero().flatten()
    _, piece, sizes = names[tokens].unique(return_inverse=True, return_counts=True)
    longest = int(sizes.max())
    begins = torch.cumsum(sizes, 0) - sizes
    target = piece * longest + torch.arange(len(tokens)) - begins[piece]

    def spread(values: Tensor) -> Tensor:
        flat = values.new_zeros(len(sizes) * longest)
        flat[target] = values.flatten()[tokens]
        return flat.view(len(sizes), longest)

    place = torch.zeros(rows * length, dtype=torch.long)
    place[tokens] = target
    inputs = {
        "input_ids": spread(batch.input_ids),
        "attention_mask": spread(torch.ones_like(batch.input_ids)),
        "token_type_ids": spread(batch.token_type_ids),
    }
    return inputs, place[batch.masked_positions]


def _masked_logits(model: Any, inputs: dict[str, Tensor], positions: Tensor) -> Tensor:
    """Logits [M, V] at `positions`; the head runs on these alone where the model lets it."""
    head = getattr(getattr(model, "cls", None), "predictions", None)
    if head is None:
        return model(**inputs).logits.flatten(0, 1)[positions]
    hidden = getattr(model, model.base_model_prefix)(**inputs).last_hidden_state
    return head(hidden.flatten(0, 1)[positions])


@torch.no_grad()
def masked_lm_loss_on(
    model: nn.Module,
    stream: MaskedStream,
    *,
    max_batches: int | None = None,
    device: torch.device,
    precision: str = "fp32",
    progress: bool = False,
) -> dict[str, Any]:
    """Mean cross-entropy per masked token over one epoch of `stream`, or over its first `max_batches` steps.

    The masks are the stream's and depend on its seed alone. The loss is per WordPiece: values of models with
    different vocabularies are not comparable, as longer pieces are harder to guess and fewer.

    Args:
        model: moved to `device`, put in evaluation mode for the duration, then back.
        stream: as `edad_fast.batches.BatchStream`, with mlm_probability above 0.
        max_batches: number of steps, None for a whole epoch.

    Returns:
        loss (nats per masked token), perplexity, masked_tokens, tokens, batches, seconds.

    Raises:
        InputError: the stream has no masked token.
    """
    begin = time.perf_counter()
    steps = stream.steps_per_epoch if max_batches is None else min(stream.steps_per_epoch, max_batches)
    training = model.training
    model.to(device).eval()
    total = torch.zeros((), dtype=torch.float64, device=device)
    masked = tokens = 0
    try:
        hidden = None if progress else True  # None: shown on a terminal alone
        for batch in tqdm(_batches(stream, steps), desc="MLM loss", total=steps, disable=hidden, leave=False):
            inputs, positions = unpack(batch)
            tokens += int(inputs["attention_mask"].sum())
            inputs, positions = {key: value.to(device) for key, value in inputs.items()}, positions.to(device)
            if not len(positions):
                continue
            with autocast(device, precision):
                logits = _masked_logits(model, inputs, positions)
            labels = batch.masked_labels.to(device)
            total += F.cross_entropy(logits.float(), labels, reduction="sum").double()
            masked += len(labels)
    finally:
        model.train(training)
    if not masked:
        raise InputError("no token of the held-out text is masked; give more text")
    loss = float(total) / masked
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "masked_tokens": masked,
        "tokens": tokens,
        "batches": steps,
        "seconds": time.perf_counter() - begin,
    }


def _batches(stream: MaskedStream, steps: int) -> Iterator[Any]:
    for step in range(steps):
        yield from stream.step(step)
