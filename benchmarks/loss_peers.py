"""What the losses are compared with: ordinary PyTorch, the same formulas. Never part of the package."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[..., Tensor]


def attention_inputs(
    shape: tuple[int, int, int, int, int], dtype: torch.dtype, device: str = "cpu", seed: int = 0
) -> tuple[list[Tensor], Tensor]:
    """Student's and teacher's queries and keys of (B, H, L, d_T, d_S), and a ragged mask."""
    batch, heads, length, teacher, student = shape
    generator = torch.Generator().manual_seed(seed)
    tensors = [
        torch.randn((batch, length, heads, width), generator=generator).to(device, dtype).transpose(1, 2)
        for width in (student, student, teacher, teacher)
    ]
    tensors[0].requires_grad_()
    tensors[1].requires_grad_()
    ends = torch.linspace(length, length // 2, batch).round()
    return tensors, (torch.arange(length)[None] < ends[:, None]).to(device)


def materialised(sq: Tensor, sk: Tensor, tq: Tensor, tk: Tensor, mask: Tensor) -> Tensor:
    """TinyBERT's loss as it is usually written: both maps in memory, at the inputs' dtype."""
    student = (sq @ sk.mT * sq.shape[-1] ** -0.5).masked_fill(~mask[:, None, None, :], 0.0)
    teacher = (tq @ tk.mT * tq.shape[-1] ** -0.5).masked_fill(~mask[:, None, None, :], 0.0)
    return F.mse_loss(student, teacher)


def bmm_linear(sq: Tensor, sk: Tensor, tq: Tensor, tk: Tensor, mask: Tensor) -> Tensor:
    """The linear-time form out of batched products, differentiated by autograd, in fp32."""
    z = torch.cat([sq.float() * sq.shape[-1] ** -0.5, tq.float() * -(tq.shape[-1] ** -0.5)], dim=-1)
    y = torch.cat([sk.float(), tk.float()], dim=-1).masked_fill(~mask[:, None, :, None], 0.0)
    batch, heads, length, _ = z.shape
    return ((z.mT @ z) * (y.mT @ y)).sum() / (batch * heads * length * length)


def relation_rows(sq: Tensor, sk: Tensor, tq: Tensor, tk: Tensor, mask: Tensor) -> Tensor:
    """Row blocks of the maps, computed again in backward: the way of LinearARD, with this loss's formula."""
    batch, heads, length, _ = sq.shape

    def rows(q: Tensor, t: Tensor, sk: Tensor, tk: Tensor) -> Tensor:
        student, teacher = q @ sk.mT * q.shape[-1] ** -0.5, t @ tk.mT * t.shape[-1] ** -0.5
        return (student - teacher).masked_fill(~mask[:, None, None, :], 0.0).float().square().sum()

    total = sq.new_zeros((), dtype=torch.float32)
    for start in range(0, length, 128):
        block = sq[:, :, start : start + 128], tq[:, :, start : start + 128]
        total = total + torch.utils.checkpoint.checkpoint(rows, *block, sk, tk, use_reentrant=False)
    return total / (batch * heads * length * length)


def relation_maps(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """MiniLMv2's divergence of relations as it is usually written: both maps in memory, softmax in fp32."""
    hidden = ~mask[:, None, None, :]
    own, target = (
        (x @ x.mT * x.shape[-1] ** -0.5).masked_fill(hidden, torch.finfo(x.dtype).min).float()
        for x in (student, teacher)
    )
    terms = F.kl_div(own.log_softmax(-1), target.softmax(-1), reduction="none").sum(-1)
    return terms.masked_fill(~mask[:, None], 0.0).sum() / (student.shape[1] * mask.sum())


def softened_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The divergence of softened predictions as it is usually written."""
    own, target = (student.float() / temperature).log_softmax(-1), (teacher.float() / temperature).softmax(-1)
    return F.kl_div(own, target, reduction="batchmean") * temperature**2


def projected_mse(hidden: Tensor, teacher: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The projection by the library, then nn.MSELoss."""
    return F.mse_loss(F.linear(hidden, weight, bias), teacher)


def dense_head(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    """The vocabulary's logits of all positions; labels are -100 where nothing is masked."""
    return F.cross_entropy(F.linear(hidden, weight, bias).float(), labels, ignore_index=-100)


def gathered_head(hidden: Tensor, weight: Tensor, bias: Tensor, positions: Tensor, labels: Tensor) -> Tensor:
    """The logits of the masked positions, all at once."""
    return F.cross_entropy(F.linear(hidden[positions], weight, bias).float(), labels)


def torch_chunked(hidden: Tensor, weight: Tensor, bias: Tensor, positions: Tensor, labels: Tensor) -> Tensor:
    """PyTorch's own chunked linear cross-entropy (2.13 and later), its settings left to it.

    Without `options` the function makes all logits at once.

    Raises:
        AttributeError: this PyTorch has none.
    """
    function: Loss = F.linear_cross_entropy
    return function(
        hidden[positions], weight, labels, linear_bias=bias, options=torch.nn.LinearCrossEntropyOptions()
    )
