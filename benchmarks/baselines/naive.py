"""Adapt-then-distil as a competent Hugging Face user writes it.

Stage 1: masked language modelling of the expanded teacher with `DataCollatorForLanguageModeling`, eager
attention, the prediction head on all positions. Stage 2: TinyBERT's general distillation; transformers hands
out probabilities only, so the eager attention is patched to keep the scores, and teacher's and student's maps
stand in memory. Both: documents cut every `seq_len` tokens and padded to `seq_len`, bf16 autocast, fused
AdamW, a DataLoader with workers. Dropout is off, as in ours.

An exBERT teacher's extension modules keep the SDPA that the package builds them with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    BertForPreTraining,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerFast,
)
from transformers.masking_utils import eager_mask

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

ATTENTION = "naive_eager_with_scores"


def eager_with_scores(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' eager attention of BERT; the scores before softmax stay on layers that ask for them."""
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    if getattr(module, "keep_scores", False):
        module.scores = scores
    probabilities = F.dropout(F.softmax(scores, dim=-1), p=dropout, training=module.training)
    return torch.matmul(probabilities, value).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, eager_with_scores)
AttentionMaskInterface.register(ATTENTION, eager_mask)


class Recorder:
    """Hidden states of all layers and score maps of `layers` (from 1) of one model."""

    def __init__(self, model: BertForPreTraining, layers: Sequence[int]) -> None:
        model.set_attn_implementation(ATTENTION)
        self._model, self._states = model, list[Tensor]()
        model.bert.embeddings.register_forward_hook(self._keep)
        for layer in model.bert.encoder.layer:
            layer.register_forward_hook(self._keep)
        self._attentions = []
        for number in layers:
            layer = model.bert.encoder.layer[number - 1]
            attention: Any = getattr(layer, "original", layer).attention.self  # exBERT: the general module
            attention.keep_scores = True
            self._attentions.append(attention)

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._states.append(output[0] if isinstance(output, tuple) else output)

    def __call__(self, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
        """Embedding output and every layer's output, [B, L, d] each; maps of the layers, [B, H, L, L]."""
        self._states = []
        self._model.bert(batch["input_ids"], attention_mask=batch["attention_mask"])
        states, self._states = self._states, []
        maps = [attention.scores for attention in self._attentions]
        for attention in self._attentions:
            del attention.scores
        return states, maps


class TinyBertLoss:
    """L_DT as TinyBERT's general_distill.py computes it.

    Args:
        teacher, student: switched to the patched attention.
        pairs: (student layer, teacher layer) from 1.
        projection: student's width -> teacher's.
    """

    def __init__(
        self,
        teacher: BertForPreTraining,
        student: BertForPreTraining,
        pairs: Sequence[tuple[int, int]],
        projection: nn.Linear,
    ) -> None:
        self._pairs, self._projection = pairs, projection
        self._student = Recorder(student, [m for m, _ in pairs])
        self._teacher = Recorder(teacher, [g for _, g in pairs])

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sums over the layers of the score maps' and of the hidden states' mean squared errors."""
        with torch.no_grad():
            teacher_states, teacher_maps = self._teacher(batch)
        student_states, student_maps = self._student(batch)
        attention = hidden = torch.zeros((), device=batch["input_ids"].device)
        for ours, theirs in zip(student_maps, teacher_maps, strict=True):
            # Keys that are padding: the mask has made their scores very negative.
            ours = torch.where(ours <= -1e2, torch.zeros_like(ours), ours)
            theirs = torch.where(theirs <= -1e2, torch.zeros_like(theirs), theirs)
            attention = attention + F.mse_loss(ours, theirs)
        for m, g in [(0, 0), *self._pairs]:
            hidden = hidden + F.mse_loss(self._projection(student_states[m]), teacher_states[g])
        return attention, hidden


def masked_lm_loss(model: BertForPreTraining, batch: Batch) -> Tensor:
    """Cross-entropy of the logits of all positions; labels are -100 where nothing is masked."""
    hidden = model.bert(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    logits = model.cls.predictions(hidden)
    return F.cross_entropy(logits.view(-1, logits.shape[-1]), batch["labels"].view(-1))


class MaskingCollator:
    """15% of the tokens, anew each time; rows padded to `seq_len`."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, settings: Settings) -> None:
        self._collate = DataCollatorForLanguageModeling(
            tokenizer, mlm_probability=settings.mlm_probability, pad_to_multiple_of=settings.seq_len
        )

    def __call__(self, rows: Sequence[list[int]]) -> Batch:
        ends = ([1] + [0] * (len(row) - 2) + [1] for row in rows)
        batch = self._collate(
            [{"input_ids": row, "special_tokens_mask": m} for row, m in zip(rows, ends, strict=True)]
        )
        return {**batch, "tokens": sum(map(len, rows))}


class PaddingCollator:
    """Rows as they are, padded to `seq_len`."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, settings: Settings) -> None:
        self._tokenizer, self._seq_len = tokenizer, settings.seq_len

    def __call__(self, rows: Sequence[list[int]]) -> Batch:
        batch = self._tokenizer.pad(
            {"input_ids": list(rows)}, padding="max_length", max_length=self._seq_len, return_tensors="pt"
        )
        return {**batch, "tokens": sum(map(len, rows))}


def _random(chunks: Chunks, settings: Settings) -> list[list[int]]:
    return split(torch.randperm(len(chunks)).tolist(), settings.rows)


def adapt(
    teacher: BertForPreTraining, tokenizer: PreTrainedTokenizerFast, shards: TokenShards, settings: Settings
) -> Part:
    """Stage 1: `teacher` on masked text."""
    teacher.to(settings.device).train().set_attn_implementation("eager")
    chunks = Chunks(shards, tokenizer, settings.seq_len)
    collate = MaskingCollator(tokenizer, settings)
    optimisation = Optimisation([teacher], settings.teacher_learning_rate, settings)

    def step(batch: Batch) -> None:
        batch = on_device(batch, settings.device)
        with settings.autocast:
            loss = masked_lm_loss(teacher, batch)
        optimisation.step(loss)

    return Part(
        "adapt",
        lambda: loader(chunks, _random(chunks, settings), collate, settings),
        step,
        size,
        shape,
        optimisation.check,
    )


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
    losses = TinyBertLoss(teacher, student, settings.pairs, projection)
    chunks = Chunks(shards, tokenizer, settings.seq_len)
    collate = PaddingCollator(tokenizer, settings)
    optimisation = Optimisation([student, projection], settings.student_learning_rate, settings)

    def step(batch: Batch) -> None:
        batch = on_device(batch, settings.device)
        with settings.autocast:
            attention, hidden = losses(batch)
        optimisation.step(attention + hidden)

    return Part(
        "distil",
        lambda: loader(chunks, _random(chunks, settings), collate, settings),
        step,
        size,
        shape,
        optimisation.check,
    )
