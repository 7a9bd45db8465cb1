"""The distillation losses as functions of tensors.

`reference` is the definition, `chunked` the same with bounded memory; the functions here validate their
arguments and pick one. Importable without the rest of the package's dependencies: torch is all they need.
"""

from __future__ import annotations

from .common import ATTENTION_MODES, HIDDEN_MODES
from .dispatch import BACKENDS, attention_score_mse, hidden_state_mse, masked_lm_loss, next_sentence_loss
from .heads import HEAD_MATCHES, MatchedHeads, match_heads

__all__ = [
    "ATTENTION_MODES",
    "BACKENDS",
    "HEAD_MATCHES",
    "HIDDEN_MODES",
    "MatchedHeads",
    "attention_score_mse",
    "hidden_state_mse",
    "masked_lm_loss",
    "match_heads",
    "next_sentence_loss",
]
