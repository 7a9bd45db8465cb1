"""Attention-score loss as a module."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from edad_fast.kernels import (
    ALGORITHMS,
    ATTENTION_MODES,
    BACKENDS,
    HEAD_MATCHES,
    AttentionTerm,
    distillation,
    match_heads,
)
from edad_fast.kernels.checks import check_choice, check_tensor, constant

Tensors = Tensor | Sequence[Tensor]


class AttentionScoreMSE(nn.Module):
    """Mean squared difference of pre-softmax attention scores (TinyBERT, Jiao et al. 2020, eq. 7).

    Called as ``AttentionScoreMSE()(student_q, student_k, teacher_q, teacher_k, mask)``. The teacher is a
    constant: its tensors are detached.

    Args:
        mode: "tinybert" (mean over B H L L, padded keys contribute 0) or "valid_pairs" (mean over pairs of
            tokens of one segment).
        head_match: what to do where the models have unequal head counts: "auto" (regroup), "equal" (raise),
            "mean", "regroup", or a list giving the teacher's head for each head of the student.
        backend, algorithm: as for `attention_score_mse`; "auto" chooses.

    Raises:
        ValueError: an unknown mode, match, backend or algorithm.

    Attributes:
        applied: what the last call did about the heads, such as "equal: 12 heads"; "" before the first.
    """

    def __init__(
        self,
        mode: str = "tinybert",
        head_match: str | Sequence[int] = "auto",
        backend: str = "auto",
        algorithm: str = "auto",
    ) -> None:
        super().__init__()
        check_choice("mode", mode, ATTENTION_MODES)
        check_choice("backend", backend, BACKENDS)
        check_choice("algorithm", algorithm, ALGORITHMS)
        if isinstance(head_match, str):
            check_choice("head_match", head_match, HEAD_MATCHES)
        self.mode = mode
        self.head_match = head_match
        self.backend = backend
        self.algorithm = algorithm
        self.applied = ""

    def extra_repr(self) -> str:
        """The options, for print()."""
        return (
            f"mode={self.mode!r}, head_match={self.head_match!r}, backend={self.backend!r}, "
            f"algorithm={self.algorithm!r}"
        )

    def forward(
        self,
        student_q: Tensors,
        student_k: Tensors,
        teacher_q: Tensors,
        teacher_k: Tensors,
        segment_ids: Tensor | None = None,
        *,
        cu_seqlens: Tensor | None = None,
        max_length: int | None = None,
    ) -> Tensor:
        """Scalar loss, fp32 (fp64 for fp64 inputs); of several layers, the sum of their means.

        Args:
            student_q, student_k: [B, H_S, L, d_S]; teacher_q, teacher_k: [B, H_T, L, d_T]; or lists of these,
                one for each matched layer; or [T, H, d] with cu_seqlens.
            segment_ids: bool [B, L] (True = token), int [B, L] (0 = padding, k = k-th segment), or None.
            cu_seqlens, max_length: sequences laid end to end, as for `attention_score_mse`.

        Raises:
            ValueError: shapes, dtypes or options that do not fit.
        """
        layers = [
            [x] if isinstance(x, Tensor) else list(x) for x in (student_q, student_k, teacher_q, teacher_k)
        ]
        sq, sk, tq, tk = layers
        term = self.term(sq, sk, tq, tk, segment_ids, cu_seqlens=cu_seqlens, max_length=max_length)
        return distillation(term, None)[0]

    def term(
        self,
        student_q: Sequence[Tensor],
        student_k: Sequence[Tensor],
        teacher_q: Sequence[Tensor],
        teacher_k: Sequence[Tensor],
        segment_ids: Tensor | None = None,
        *,
        cu_seqlens: Tensor | None = None,
        max_length: int | None = None,
        weight: float = 1.0,
    ) -> AttentionTerm:
        """The arguments of the loss with the heads matched; see `forward`."""
        lengths = [len(x) for x in (student_q, student_k, teacher_q, teacher_k)]
        if len(set(lengths)) > 1:
            raise ValueError(f"layers given: {lengths}; the same number of queries and keys is needed")
        matched = []
        for sq, sk, tq, tk in zip(student_q, student_k, teacher_q, teacher_k, strict=True):
            check_tensor("student_q", sq)
            check_tensor("student_k", sk)
            q, k, t, u = (
                x.transpose(0, 1).unsqueeze(0) if cu_seqlens is not None and x.dim() == 3 else x
                for x in (sq, sk, constant("teacher_q", tq), constant("teacher_k", tk))
            )
            matched.append(match_heads(q, k, t, u, self.head_match))
        if matched:
            self.applied = matched[-1].applied
        names = ("student_q", "student_k", "teacher_q", "teacher_k")
        found: list[list[Tensor]] = [[getattr(layer, name) for layer in matched] for name in names]
        if cu_seqlens is not None:
            found = [[x.squeeze(0).transpose(0, 1) for x in tensors] for tensors in found]
        return AttentionTerm(
            found[0],
            found[1],
            found[2],
            found[3],
            segment_ids,
            cu_seqlens,
            max_length,
            self.mode,
            matched[0].student_scale if matched else None,
            matched[0].teacher_scale if matched else None,
            weight,
            self.backend,
            self.algorithm,
        )
