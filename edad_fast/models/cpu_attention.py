"""Attention in 16-bit types on CPUs, where PyTorch's fused kernel is slow."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.integrations.sdpa_attention import sdpa_attention_forward

# Longest row for which two batched products beat the fused kernel (at 512 they are even).
LONGEST_MATERIALISED = 256


def half_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> Tensor:
    """softmax(Q K^T scaling) V; [B, L, H, d], in the dtype of the queries. Call it without autocast.

    The fused kernel takes three times as long backward in bf16 as in fp32, so long rows go there in fp32;
    for short ones plain products are faster still.

    Args:
        module: knows whether it is trained.
        query, key, value: [B, H, L, d], bf16 or fp16.
        attention_mask: bool (True = attend) or a float to add, broadcast to [B, H, L, L]; or None.
        scaling: factor of Q K^T; default d ** -0.5.
        dropout: on the attention probabilities.
        kwargs: as the attention interface of transformers has them.
    """
    if query.shape[2] > LONGEST_MATERIALISED:
        mask = attention_mask
        if mask is not None and mask.dtype != torch.bool:
            mask = mask.float()
        inputs = (query.float(), key.float(), value.float(), mask)
        output, _ = sdpa_attention_forward(module, *inputs, dropout=dropout, scaling=scaling, **kwargs)
        return output.to(query.dtype)
    scores = (query * (query.shape[-1] ** -0.5 if scaling is None else scaling)) @ key.mT
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill_(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores.add_(attention_mask)
    probabilities = functional.dropout(scores.softmax(-1), dropout, module.training)
    return (probabilities @ value).transpose(1, 2).contiguous()
