"""The public losses and the schedule between them.

Modules: `AttentionScoreMSE`, `HiddenStateMSE`, `DistillationLoss`, `RelationKL`, `LogitKL`, `MaskedLMHead`,
`AlphaSchedule`. Functions of tensors: `attention_score_mse`, `hidden_state_mse`, `relation_kl`, `logit_kl`,
`masked_lm_loss`, `next_sentence_loss`, `information_maximisation`.
"""

from __future__ import annotations

from edad_fast.kernels import attention_score_mse, hidden_state_mse, logit_kl, relation_kl

from .attention import AttentionScoreMSE
from .distillation import Captured, DistillationLoss, DistillationTerms
from .hidden import HiddenStateMSE
from .information import information_maximisation
from .layer_map import LAYER_MAPS, layer_map
from .logits import LogitKL
from .masked_lm import MaskedLMHead, masked_lm_loss, next_sentence_loss
from .relation import RelationKL
from .schedule import SCHEDULES, AlphaSchedule

__all__ = [
    "LAYER_MAPS",
    "SCHEDULES",
    "AlphaSchedule",
    "AttentionScoreMSE",
    "Captured",
    "DistillationLoss",
    "DistillationTerms",
    "HiddenStateMSE",
    "LogitKL",
    "MaskedLMHead",
    "RelationKL",
    "attention_score_mse",
    "hidden_state_mse",
    "information_maximisation",
    "layer_map",
    "logit_kl",
    "masked_lm_loss",
    "next_sentence_loss",
    "relation_kl",
]
