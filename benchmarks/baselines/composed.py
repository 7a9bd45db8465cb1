"""Adapt-then-distil as the best one can compose today from public parts, in two stages.

- SDPA in all layers; forward hooks on the query and key projections give the attention loss what it needs,
  which then makes teacher's and student's maps in plain PyTorch.
- The prediction head on the masked positions only; their number is rounded up, so that shapes repeat and
  nothing is counted on the device. Decoder and cross-entropy: the quickest, measured at the start, of Liger's
  fused one, PyTorch's chunked one (2.13), and all of the masked positions' logits, as far as there are.
- torch.compile of encoders, heads and distillation loss, one graph for each of the few shapes.
- Padded batches of rows sorted by length: that is what one can compose without a packing loader and a
  block-diagonal attention. A batch is padded to its longest row, rounded up to a quarter of `seq_len`; one
  without padding has no mask, so that flash attention applies. Batches come in random order.
- bf16 autocast, fused AdamW, a DataLoader with workers, dropout off, as in the others.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    BertForPreTraining,
    PreTrainedTokenizerFast,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from edad_fast.batches import TokenShards

from .common import (
    Batch,
    Chunks,
    Optimisation,
    Part,
    Settings,
    fit_dense,
    loader,
    on_device,
    shape,
    size,
    split,
)

ATTENTION = "composed_sdpa"
IGNORED = -100
# Sorting within so many batches, as transformers' group_by_length does, leaves the order of the text random.
MEGABATCH = 50

Head = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def _liger(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss: Tensor = LigerFusedLinearCrossEntropyLoss()(
        weight.to(hidden.dtype), hidden, labels, bias.to(hidden.dtype)
    )
    return loss


def _torch_chunked(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    options = torch.nn.LinearCrossEntropyOptions()
    weight, bias = weight.to(hidden.dtype), bias.to(hidden.dtype)
    return F.linear_cross_entropy(hidden, weight, labels, linear_bias=bias, options=options)


def _all_logits(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight, bias).float(), labels, ignore_index=IGNORED)


def heads(device: torch.device) -> dict[str, Head]:
    """Ways to compute decoder and cross-entropy on `device`, by name.

    On a CPU PyTorch's chunked one doubles the time of a whole bf16 step, and is left out.
    """
    found: dict[str, Head] = {}
    if device.type == "cuda":
        if importlib.util.find_spec("liger_kernel"):
            found["Liger"] = _liger
        if hasattr(F, "linear_cross_entropy"):
            found["torch chunked"] = _torch_chunked
    return {**found, "all masked positions' logits": _all_logits}


def fastest_head(decoder: nn.Linear, settings: Settings) -> tuple[str, Head]:
    """The quickest of `heads` on as many rows as a step masks, forward and backward, and its name."""
    candidates = heads(settings.device)
    if len(candidates) == 1:
        return next(iter(candidates.items()))
    rows = round(settings.mlm_probability * settings.rows * settings.seq_len)
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    hidden = torch.randn(rows, decoder.in_features, device=settings.device).to(dtype)
    weight, bias = (x.detach().clone().requires_grad_() for x in (decoder.weight, decoder.bias))
    labels = torch.randint(decoder.out_features, (rows,), device=settings.device)
    compiled = _compiler(settings)
    seconds = {}
    for name, head in candidates.items():
        call = compiled(head) if head is _all_logits else head
        for _ in range(4):
            torch.cuda.synchronize()
            start = time.perf_counter()
            with settings.autocast:
                loss = call(hidden.requires_grad_(), weight, bias, labels)
            loss.backward()
            torch.cuda.synchronize()
            seconds[name] = time.perf_counter() - start  # of the last round: what is compiled is compiled
    best = min(seconds, key=lambda name: seconds[name])
    return best, candidates[best]


def sdpa(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """SDPA; in fp32 on a CPU, whose flash kernel is slower in bf16."""
    dtype = torch.float32 if query.is_cpu else query.dtype
    q, k, v = (x.to(dtype) for x in (query, key, value))
    output, _ = sdpa_attention_forward(module, q, k, v, mask, **options)
    return output.to(query.dtype), None


AttentionInterface.register(ATTENTION, sdpa)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


class Encoder(nn.Module):
    """The encoder of `model`; hooks keep queries and keys of `layers` (from 1)."""

    def __init__(self, model: BertForPreTraining, layers: Sequence[int] = ()) -> None:
        super().__init__()
        model.set_attn_implementation(ATTENTION)
        self.bert, self.heads = model.bert, model.config.num_attention_heads
        self.kept: list[Tensor] = []
        for number in layers:
            layer = self.bert.encoder.layer[number - 1]
            attention: Any = getattr(layer, "original", layer).attention.self  # exBERT: the general module
            attention.query.register_forward_hook(self._keep)
            attention.key.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.kept.append(output.unflatten(-1, (self.heads, -1)).transpose(1, 2))

    def forward(self, input_ids: Tensor, mask: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
        """Embedding output and every layer's output, [B, L, d]; query, key, query, ... [B, H, L, d / H]."""
        self.kept = []
        states = [self.bert.embeddings(input_ids=input_ids)]
        keys = None if mask is None else mask[:, None, None, :]
        for layer in self.bert.encoder.layer:
            output = layer(states[-1], keys)
            states.append(output[0] if isinstance(output, tuple) else output)
        kept, self.kept = self.kept, []
        return states, kept


def attention_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor | None) -> Tensor:
    """Sum over the layers of the MSE of pre-softmax scores; padded keys count as 0, rows all count."""
    total = student[0].new_zeros((), dtype=torch.float32)
    for i in range(0, len(student), 2):
        scores = [q @ k.mT * q.shape[-1] ** -0.5 for q, k in ((x[i], x[i + 1]) for x in (student, teacher))]
        difference = (scores[0] - scores[1]).float()
        if mask is not None:
            difference = difference.masked_fill(~mask[:, None, None, :], 0.0)
        total = total + difference.square().mean()
    return total


class MaskedHead(nn.Module):
    """The prediction head of `model` on chosen positions, up to the decoder."""

    def __init__(self, model: BertForPreTraining) -> None:
        super().__init__()
        self.transform = model.cls.predictions.transform

    def forward(self, hidden: Tensor, positions: Tensor) -> Tensor:
        """[B, L, d] and int64 [M] -> [M, d]."""
        return self.transform(hidden.flatten(0, 1).index_select(0, positions))


class MaskedLM:
    """Stage 1's loss."""

    def __init__(self, model: BertForPreTraining, settings: Settings) -> None:
        compiled = _compiler(settings)
        self._decoder = model.cls.predictions.decoder
        self.head_name, head = fastest_head(self._decoder, settings)
        self._encode, self._transform = compiled(Encoder(model)), compiled(MaskedHead(model))
        self._head = compiled(head) if head is _all_logits else head

    def __call__(self, batch: Batch) -> Tensor:
        states, _ = self._encode(batch["input_ids"], batch["mask"])
        rows = self._transform(states[-1], batch["positions"])
        return self._head(rows, self._decoder.weight, self._decoder.bias, batch["labels"])


class Distillation:
    """Stage 2's losses."""

    def __init__(
        self,
        teacher: BertForPreTraining,
        student: BertForPreTraining,
        projection: nn.Linear,
        settings: Settings,
    ) -> None:
        compiled = _compiler(settings)
        self._pairs, self._projection = settings.pairs, projection
        self._student = compiled(Encoder(student, [m for m, _ in settings.pairs]))
        self._teacher = compiled(Encoder(teacher, [g for _, g in settings.pairs]))
        self._losses = compiled(self._compute)

    def _compute(
        self,
        student: tuple[list[Tensor], list[Tensor]],
        teacher: tuple[list[Tensor], list[Tensor]],
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        hidden = torch.zeros((), device=student[0][0].device)
        for m, g in [(0, 0), *self._pairs]:
            hidden = hidden + F.mse_loss(self._projection(student[0][m]).float(), teacher[0][g].float())
        return attention_loss(student[1], teacher[1], mask), hidden

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sums over the layers of the scores' and of the hidden states' mean squared errors."""
        with torch.no_grad():
            teacher = self._teacher(batch["input_ids"], batch["mask"])
        student = self._student(batch["input_ids"], batch["mask"])
        return self._losses(student, teacher, batch["mask"])


def _compiler(settings: Settings) -> Callable[[Any], Any]:
    if not settings.compile:
        return lambda x: x
    # The limit is one for all encoders together, as they run the same code; beyond it they would run eagerly.
    torch._dynamo.config.cache_size_limit = 64
    return lambda x: torch.compile(x, dynamic=False)


class Collator:
    """Rows of similar length -> a padded batch; with `mask_id` 15% of the tokens are to be predicted.

    Of a row's n tokens round(0.15 n) are masked, so that batches of the same rows mask as many; the rest of
    `positions` up to a multiple of 64 repeats position 0 under an ignored label.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, settings: Settings, *, masking: bool) -> None:
        self._pad, self._mask = tokenizer.pad_token_id, tokenizer.mask_token_id
        special = torch.zeros(len(tokenizer), dtype=torch.bool)
        special[tokenizer.all_special_ids] = True
        self._ordinary = (~special).nonzero().flatten()
        self._step, self._masking = max(1, settings.seq_len // 4), masking
        self._probability = settings.mlm_probability

    def __call__(self, rows: Sequence[list[int]]) -> Batch:
        lengths = torch.tensor([len(row) for row in rows])
        length = -(-int(lengths.max()) // self._step) * self._step
        ids = torch.full((len(rows), length), self._pad)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row)
        mask = torch.arange(length) < lengths[:, None]
        batch: Batch = {"mask": None if mask.all() else mask, "tokens": int(lengths.sum())}
        if self._masking:
            batch |= self._masked(ids, lengths)
        return {"input_ids": ids, **batch}

    def _masked(self, ids: Tensor, lengths: Tensor) -> Batch:
        """Replace tokens in `ids` (80% mask, 10% random, 10% as they are); positions and labels."""
        column = torch.arange(ids.shape[1])
        score = torch.rand(ids.shape).masked_fill_((column == 0) | (column >= lengths[:, None] - 1), 2.0)
        budget = ((lengths - 2) * self._probability).round().clamp(min=1)
        rank = score.argsort(dim=1).argsort(dim=1)
        positions = (rank < budget[:, None]).flatten().nonzero().flatten()
        flat = ids.view(-1)
        labels = flat[positions]
        action = torch.rand(len(positions))
        other = self._ordinary[torch.randint(len(self._ordinary), (len(positions),))]
        flat[positions] = torch.where(action < 0.8, self._mask, torch.where(action < 0.9, other, labels))
        spare = -len(positions) % 64
        return {"positions": F.pad(positions, (0, spare)), "labels": F.pad(labels, (0, spare), value=IGNORED)}


def by_length(lengths: Sequence[int], rows: int) -> list[list[int]]:
    """Batches of rows of similar length, in random order."""
    order = list(range(len(lengths)))
    random.shuffle(order)
    groups = split(order, rows * MEGABATCH)
    batches = [b for group in groups for b in split(sorted(group, key=lambda i: -lengths[i]), rows)]
    random.shuffle(batches)
    return batches


def adapt(
    teacher: BertForPreTraining, tokenizer: PreTrainedTokenizerFast, shards: TokenShards, settings: Settings
) -> Part:
    """Stage 1: `teacher` on masked text."""
    teacher.to(settings.device).train()
    loss = MaskedLM(teacher, settings)
    optimisation = Optimisation([teacher], settings.teacher_learning_rate, settings)

    def step(batch: Batch) -> None:
        batch = on_device(batch, settings.device)
        with settings.autocast:
            value = loss(batch)
        optimisation.step(value)

    part = _part("adapt", step, optimisation, tokenizer, shards, settings)
    return dataclasses.replace(part, note=f"head: {loss.head_name}")


def distil(
    teacher: BertForPreTraining,
    student: BertForPreTraining,
    tokenizer: PreTrainedTokenizerFast,
    shards: TokenShards,
    settings: Settings,
) -> Part:
    """Stage 2: `student` from the frozen `teacher`, on unmasked text."""
    teacher.to(settings.device).eval().requires_grad_(False)
    student.to(settings.device).train()
    projection = fit_dense(student, teacher, settings.device)
    losses = Distillation(teacher, student, projection, settings)
    optimisation = Optimisation([student, projection], settings.student_learning_rate, settings)

    def step(batch: Batch) -> None:
        batch = on_device(batch, settings.device)
        with settings.autocast:
            attention, hidden = losses(batch)
        optimisation.step(attention + hidden)

    return _part("distil", step, optimisation, tokenizer, shards, settings)


def _part(
    name: str,
    step: Callable[[Batch], None],
    optimisation: Optimisation,
    tokenizer: PreTrainedTokenizerFast,
    shards: TokenShards,
    settings: Settings,
) -> Part:
    chunks = Chunks(shards, tokenizer, settings.seq_len)
    collate = Collator(tokenizer, settings, masking=name == "adapt")
    return Part(
        name,
        lambda: loader(chunks, by_length(chunks.lengths, settings.rows), collate, settings),
        step,
        size,
        shape,
        optimisation.check,
    )
