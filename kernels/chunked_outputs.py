"""The losses of outputs and relations of reference.py with bounded working memory.

Value and gradients but for their common factor, chunk by chunk; nothing is read back to the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .chunked import chunk_items, pieces, row_pieces
from .common import add_product, compute_dtype, counted_pairs, saved_dtype, without_autocast


def cross_entropy_terms(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    *,
    label_smoothing: float,
    z_loss: float,
    product: torch.dtype,
    want_x: bool,
    want_w: bool,
    want_b: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sum of `reference.linear_cross_entropy` over its rows, and its gradients.

    Logits of at least 512 rows (or a budget) are held at a time; softmax, loss and the sums over chunks are
    in fp32, the products in `product`.

    Returns:
        Scalar in the compute dtype; [M, d], [V, d] and [V], or empty where not wanted.
    """
    dtype = compute_dtype(rows, weight)
    device = rows.device
    grad_x = rows.new_empty(rows.shape if want_x else 0, dtype=saved_dtype(rows))
    grad_w = torch.zeros(weight.shape if want_w else 0, dtype=dtype, device=device)
    grad_b = torch.zeros(weight.shape[0] if want_b else 0, dtype=dtype, device=device)
    total = torch.zeros((), dtype=dtype, device=device)
    with without_autocast(device):
        matrix = weight.to(product)
        offset = None if bias is None else bias.to(product)
        for n in row_pieces(rows.shape[0], weight.shape[0], chunk_items(device, dtype)):
            hidden, label = rows[n].to(product), labels[n].unsqueeze(-1)
            logits = torch.nn.functional.linear(hidden, matrix, offset).to(dtype)
            picked = logits.gather(1, label)
            log_normaliser = logits.logsumexp(1, keepdim=True)
            loss = log_normaliser - (1 - label_smoothing) * picked
            if label_smoothing:
                loss -= label_smoothing * logits.mean(1, keepdim=True)
            if z_loss:
                loss += z_loss * log_normaliser.square()
            total += loss.sum()
            if not (want_x or want_w or want_b):
                continue
            # d loss / d logits, in the logits' own memory.
            difference = logits.sub_(log_normaliser).exp_()
            if z_loss:
                difference *= 1 + 2 * z_loss * log_normaliser
            if label_smoothing:
                difference -= label_smoothing / weight.shape[0]
            difference.scatter_add_(1, label, torch.full_like(picked, label_smoothing - 1))
            rounded = difference.to(product)
            if want_x:
                grad_x[n] = (rounded @ matrix).to(grad_x.dtype)
            if want_w:
                add_product(grad_w, rounded.mT, hidden)
            if want_b:
                grad_b += difference.sum(0)
    return total, grad_x, grad_w, grad_b


def relation_terms(
    student: Tensor,
    teacher: Tensor,
    segments: Tensor | None,
    *,
    student_scale: float,
    teacher_scale: float,
    want: bool,
) -> tuple[Tensor, Tensor]:
    """Sum of `reference.relation_kl` over its rows and its gradient: tile by tile, no L x L map is kept.

    Returns:
        Scalar in the compute dtype; [B, H, L, d_S], or empty where not wanted.
    """
    dtype = compute_dtype(student, teacher)
    device = student.device
    batch, heads, length, _ = student.shape
    gradient = student.new_empty(student.shape if want else 0, dtype=saved_dtype(student))
    total = torch.zeros((), dtype=dtype, device=device)
    items = chunk_items(device, dtype)
    with without_autocast(device):
        for b in pieces(batch, items // max(1, heads * length * length)):
            for h in pieces(heads, items // max(1, length * length)):
                own, theirs = student[b, h].to(dtype), teacher[b, h].to(dtype)
                if segments is not None:  # whatever padding holds
                    padding = (segments[b] <= 0)[:, None, :, None]
                    own, theirs = own.masked_fill(padding, 0.0), theirs.masked_fill(padding, 0.0)
                whole = torch.zeros_like(own) if want else None
                for i in pieces(length, items // max(1, length)):
                    ours = own[:, :, i] @ own.mT * student_scale
                    target = theirs[:, :, i] @ theirs.mT * teacher_scale
                    if segments is not None:
                        pairs = counted_pairs(segments[b, i], segments[b], "valid_pairs").unsqueeze(1)
                        empty = ~pairs.any(-1, keepdim=True)
                        for x in (ours, target):
                            x.masked_fill_(~pairs, -torch.inf).masked_fill_(empty, 0.0)
                    ours, target = ours.log_softmax(-1), target.log_softmax(-1)
                    divergence, difference = _divergence(ours, target)
                    total += divergence
                    if whole is not None:
                        difference *= student_scale
                        whole[:, :, i] += difference @ own
                        whole += difference.mT @ own[:, :, i]
                if whole is not None:
                    gradient[b, h] = whole.to(gradient.dtype)
    return total, gradient


def logit_terms(student: Tensor, teacher: Tensor, *, temperature: float, want: bool) -> tuple[Tensor, Tensor]:
    """Sum over the rows of KL(softmax(t / T) || softmax(s / T)) of logits [N, C], and T times its gradient.

    Returns:
        Scalar in the compute dtype; [N, C], or empty where not wanted.
    """
    dtype = compute_dtype(student, teacher)
    gradient = student.new_empty(student.shape if want else 0, dtype=saved_dtype(student))
    total = torch.zeros((), dtype=dtype, device=student.device)
    for n in row_pieces(student.shape[0], student.shape[1], chunk_items(student.device, dtype)):
        ours = (student[n].to(dtype) / temperature).log_softmax(-1)
        target = (teacher[n].to(dtype) / temperature).log_softmax(-1)
        divergence, difference = _divergence(ours, target)
        total += divergence
        if want:
            gradient[n] = difference.to(gradient.dtype)
    return total, gradient


def _divergence(ours: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of KL(target || ours), scalar, and ours - target, from log-probabilities, which are overwritten.

    ours - target sums to 0 but for the rounding of the normalisers, which it takes out of the divergence.
    """
    probability = target.exp()
    terms = torch.where(probability > 0, target.sub_(ours).mul_(probability), 0.0)
    difference = ours.exp_().sub_(probability)
    return terms.add_(difference).sum(), difference
