"""Information maximisation: confident predictions, evenly spread over the classes."""

from __future__ import annotations

import torch
from torch import Tensor


def information_maximisation(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The two terms of L_IM = mean H(p(x)) - H(mean p), with p = softmax (SHOT, Liang et al. 2020).

    Args:
        logits: [B, classes], any floating dtype. The second mean is over these B rows, so B must be a fair
            sample of the classes (64 or so).

    Returns:
        (entropy, diversity), fp32 scalars in nats: L_IM is the first less the second.
    """
    logs = torch.log_softmax(logits.float(), dim=-1)
    entropy = -(logs.exp() * logs).sum(-1).mean()
    mean = torch.logsumexp(logs, dim=0) - torch.log(torch.tensor(float(len(logs)), device=logs.device))
    return entropy, -(mean.exp() * mean).sum()
