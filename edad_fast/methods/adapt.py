"""Domain adaptation of one model: L_DA = L_MLM + L_NSP (EDAD, Section 3.2; BERT's own objectives)."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import cast

import torch
from torch import Tensor, nn
from transformers import BertForPreTraining

from ..batches import Batch
from ..losses import MaskedLMHead, next_sentence_loss
from ..models import EncoderOutput, can_stop_early, encode, feed_forward
from ..training import LossTerms, ParameterGroup
from .distillation import NOTHING, Reads

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Execution:
    """How the encoders of a stage are run.

    Args:
        compiled: through torch.compile. recompute: gradient checkpointing, see `edad_fast.models.encode`.
        whole_layers: layers are only called as they are, as FSDP needs it.
        varlen: attention over the segments laid end to end, see `edad_fast.models.varlen_attention`.
    """

    compiled: bool = False
    recompute: bool = False
    whole_layers: bool = False
    varlen: bool = False

    def encode(
        self,
        model: BertForPreTraining,
        batch: Batch,
        reads: Reads = NOTHING,
        *,
        finish: bool = True,
    ) -> EncoderOutput:
        """One forward pass of the encoder over `batch`; attention stays within the segments of a row.

        It leaves what `reads` names, and with `finish` off not the last layer's output.
        """
        run = _compiled_encode() if self.compiled else encode
        return run(
            model,
            batch.input_ids,
            position_ids=batch.position_ids,
            token_type_ids=batch.token_type_ids,
            attention_mask=batch.attention_mask(),
            hidden_states=reads.hidden_states,
            score_layers=reads.score_layers,
            values=reads.values,
            recompute=self.recompute,
            depth=reads.depth,
            finish=finish,
            cu_seqlens=batch.cu_seqlens if self.varlen else None,
        )

    def encode_masked(self, model: BertForPreTraining, batch: Batch, reads: Reads = NOTHING) -> EncoderOutput:
        """As `encode`, with the masked positions alone, for the MLM head: `last_hidden` is [M, d].

        The last layer's feed-forward network runs on them only, where the model can stop before it.
        """
        finish = self.whole_layers or not can_stop_early(model)
        output = self.encode(model, batch, reads, finish=finish)
        rows = output.last_hidden.flatten(0, 1).index_select(0, batch.masked_positions)
        return dataclasses.replace(output, last_hidden=rows if finish else feed_forward(model, rows))

    def encode_read(self, model: BertForPreTraining, batch: Batch, reads: Reads) -> EncoderOutput:
        """As `encode`, for `reads` alone: what lies behind it is not run, where the model can stop before."""
        finish = self.whole_layers or reads.output or not can_stop_early(model)
        return self.encode(model, batch, reads, finish=finish)


PLAIN = Execution()


@cache
def _compiled_encode() -> Callable[..., EncoderOutput]:
    # One graph for each model, shape and use; past dynamo's limit for one function it would go on uncompiled.
    name = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"
    setattr(torch._dynamo.config, name, max(64, getattr(torch._dynamo.config, name)))
    logger.info("compiling the encoders: the first steps are slow")
    return torch.compile(encode, dynamic=False)


@dataclass(frozen=True)
class AdaptationLoss:
    """L_DA of a model from the output of its encoder.

    Args:
        mlm_weight, nsp_weight: weights of the two terms; NSP counts only in batches of sentence pairs.
        backend: implementation of the MLM head.
    """

    mlm_weight: float = 1.0
    nsp_weight: float = 1.0
    backend: str = "auto"

    def __call__(
        self, model: BertForPreTraining, output: EncoderOutput, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum and the unweighted terms, both as this micro-batch's share of the step.

        `output` is of `Execution.encode`, or, without pairs of sentences, of `Execution.encode_masked`.
        """
        predictions, positions = model.cls.predictions, batch.masked_positions
        if output.last_hidden.dim() == 2:
            positions = torch.arange(len(positions), device=positions.device)
        mlm = batch.shares.masked * MaskedLMHead(self.backend)(
            output.last_hidden,
            predictions.transform,
            predictions.decoder.weight,
            predictions.decoder.bias,
            positions,
            batch.masked_labels,
        )
        total, terms = self.mlm_weight * mlm, {"mlm": mlm.detach()}
        if batch.next_sentence_labels is not None:
            pooler = cast(nn.Module, model.bert.pooler)
            logits = model.cls.seq_relationship(pooler(output.last_hidden))
            nsp = batch.shares.rows * next_sentence_loss(logits, batch.next_sentence_labels)
            total, terms = total + self.nsp_weight * nsp, {**terms, "nsp": nsp.detach()}
        return total, terms


def make_trainable(model: BertForPreTraining, *, sentence_head: bool) -> BertForPreTraining:
    """Let all of `model` be trained, its pooler and NSP head only with `sentence_head`."""
    model.requires_grad_(True)
    if not sentence_head:
        # Not in any loss. DDP would wait for the device to learn that, in every step.
        cast(nn.Module, model.bert.pooler).requires_grad_(False)
        model.cls.seq_relationship.requires_grad_(False)
    return model


def trainable(model: nn.Module, prefix: str) -> dict[str, nn.Parameter]:
    """Parameters of `model` that are trained, under `prefix.`."""
    return {f"{prefix}.{name}": p for name, p in model.named_parameters() if p.requires_grad}


class Adaptation(nn.Module):
    """Objective: L_DA of one model. Alpha plays no part.

    Args:
        model: a pretraining model, plain or exBERT.
        name: of its parameter group and terms, such as "teacher".
        learning_rate: peak of the schedule.
        loss: see `AdaptationLoss`. execution: see `Execution`.
    """

    def __init__(
        self,
        model: BertForPreTraining,
        name: str,
        learning_rate: float,
        loss: AdaptationLoss,
        execution: Execution = PLAIN,
    ) -> None:
        super().__init__()
        self.model, self.execution = model, execution
        self.name, self.learning_rate, self.loss = name, learning_rate, loss

    def forward(self, batch: Batch, alpha: float) -> LossTerms:
        """The loss of `batch`."""
        pairs = batch.next_sentence_labels is not None  # whose head reads [CLS]
        run = self.execution.encode if pairs else self.execution.encode_masked
        total, terms = self.loss(self.model, run(self.model, batch), batch)
        return LossTerms(total, {f"{self.name}_{term}": value for term, value in terms.items()})

    def parameter_groups(self) -> list[ParameterGroup]:
        """One group, the model."""
        return [ParameterGroup(self.name, trainable(self.model, "model"), self.learning_rate)]
