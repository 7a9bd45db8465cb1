"""The distillation losses as functions of tensors.

`reference` is the definition, `chunked` the same with bounded memory; the functions here validate their
arguments and pick one. Importable without the rest of the package's dependencies: torch is all they need.
"""

from __future__ import annotations

from . import flops as _flops  # noqa: F401
from .choice import ALGORITHMS, BACKENDS, HIDDEN_BACKENDS
from .common import ATTENTION_MODES, HIDDEN_MODES
from .dispatch import AttentionTerm, HiddenTerm, attention_score_mse, distillation, hidden_state_mse
from .dispatch_outputs import logit_kl, masked_lm_loss, next_sentence_loss, relation_kl
from .heads import HEAD_MATCHES, MatchedHeads, match_heads, regroup_heads

__all__ = [
    "ALGORITHMS",
    "ATTENTION_MODES",
    "BACKENDS",
    "HEAD_MATCHES",
    "HIDDEN_BACKENDS",
    "HIDDEN_MODES",
    "AttentionTerm",
    "HiddenTerm",
    "MatchedHeads",
    "attention_score_mse",
    "distillation",
    "hidden_state_mse",
    "logit_kl",
    "masked_lm_loss",
    "match_heads",
    "next_sentence_loss",
    "regroup_heads",
    "relation_kl",
]
