"""Megabytes that one loss takes at its peak beyond its inputs, in a new process (Linux).

loss_memory.py attention BATCH HEADS LENGTH TEACHER_WIDTH STUDENT_WIDTH DTYPE
loss_memory.py head ours|dense POSITIONS MASKED WIDTH CLASSES

Prints the peak, and the megabytes of one copy of the gradients.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import loss_peers
import torch
from torch import Tensor, nn

from edad_fast.losses import attention_score_mse, masked_lm_loss


def peak(warm: Callable[[], Tensor], call: Callable[[], Tensor], leaves: list[Tensor]) -> tuple[float, float]:
    """`warm` loads libraries on a small problem before the count begins."""
    warm().backward()
    for leaf in leaves:
        leaf.grad = None
    # The mark set back: making the inputs has left freed memory behind that would hide what the loss takes.
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    call().backward()
    return _resident("VmHWM") - before, sum(x.numel() * x.element_size() for x in leaves) / 2**20


def _resident(name: str) -> float:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) / 1024


def main(name: str, *words: str) -> None:
    torch.set_num_threads(1)
    if name == "attention":
        batch, heads, length, teacher, student = map(int, words[:5])
        dtype = getattr(torch, words[5])
        tensors, mask = loss_peers.attention_inputs((batch, heads, length, teacher, student), dtype)
        small, small_mask = loss_peers.attention_inputs((1, 1, 256, teacher, student), dtype)
        found = peak(
            lambda: attention_score_mse(*small, small_mask),
            lambda: attention_score_mse(*tensors, mask),
            tensors[:2],
        )
    else:
        rows, masked, width, classes = map(int, words[1:])
        hidden = torch.randn(rows, width, requires_grad=True)
        weight = torch.randn(classes, width).mul_(0.02).requires_grad_()
        bias = torch.zeros(classes, requires_grad=True)
        positions = torch.randperm(rows)[:masked]
        labels = torch.randint(classes, (masked,))
        dense = torch.full((rows,), -100).scatter(0, positions, labels)

        def loss(count: int) -> Tensor:
            if words[0] == "ours":
                return masked_lm_loss(hidden, positions[:count], labels[:count], nn.Identity(), weight, bias)
            few = slice(None) if count == masked else slice(0, 8)
            return loss_peers.dense_head(hidden[few], weight, bias, dense[few])

        # The small problem has its gradients: the weight's are inputs' memory here, the same for both.
        found = peak(lambda: loss(2), lambda: loss(masked), [hidden, weight, bias])
    print(*found)


if __name__ == "__main__":
    main(*sys.argv[1:])
