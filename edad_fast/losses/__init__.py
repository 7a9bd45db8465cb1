"""The public losses and the schedule between them.

Modules: `AttentionScoreMSE`, `HiddenStateMSE`, `DistillationLoss`, `MaskedLMHead`, `AlphaSchedule`.
Functions of tensors: `attention_score_mse`, `hidden_state_mse`, `masked_lm_loss`, `next_sentence_loss`.
"""

from __future__ import annotations

from edad_fast.kernels import attention_score_mse, hidden_state_mse

from .attention import AttentionScoreMSE
from .distillation import Captured, DistillationLoss, DistillationTerms
from .hidden import HiddenStateMSE
from .layer_map import LAYER_MAPS, layer_map
from .masked_lm import MaskedLMHead, masked_lm_loss, next_sentence_loss
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
    "MaskedLMHead",
    "attention_score_mse",
    "hidden_state_mse",
    "layer_map",
    "masked_lm_loss",
    "next_sentence_loss",
]
