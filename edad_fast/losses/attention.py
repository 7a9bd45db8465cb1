"""Attention-score loss as a module."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from edad_fast.kernels import attention_score_mse, match_heads


class AttentionScoreMSE(nn.Module):
    """Mean squared difference of pre-softmax attention scores (TinyBERT, Jiao et al. 2020, eq. 7).

    Called as ``AttentionScoreMSE()(student_q, student_k, teacher_q, teacher_k, mask)``. The teacher is a
    constant: its tensors are detached.

    Args:
        mode: "tinybert" (mean over B H L L, padded keys contribute 0) or "valid_pairs" (mean over pairs of
            tokens of one segment).
        head_match: what to do where the models have unequal head counts: "auto" (regroup), "equal" (raise),
            "mean", "regroup", or a list giving the teacher's head for each head of the student.
        backend: "auto", "reference" or "chunked".

    Attributes:
        applied: what the last call did about the heads, such as "equal: 12 heads"; "" before the first.
    """

    def __init__(
        self, mode: str = "tinybert", head_match: str | Sequence[int] = "auto", backend: str = "auto"
    ) -> None:
        super().__init__()
        self.mode = mode
        self.head_match = head_match
        self.backend = backend
        self.applied = ""

    def forward(
        self,
        student_q: Tensor,
        student_k: Tensor,
        teacher_q: Tensor,
        teacher_k: Tensor,
        segment_ids: Tensor | None = None,
    ) -> Tensor:
        """Scalar loss, fp32 (fp64 for fp64 inputs).

        Args:
            student_q, student_k: [B, H_S, L, d_S]; teacher_q, teacher_k: [B, H_T, L, d_T].
            segment_ids: bool [B, L] (True = token), int [B, L] (0 = padding, k = k-th segment), or None.

        Raises:
            ValueError: shapes, dtypes or options that do not fit.
        """
        matched = match_heads(student_q, student_k, teacher_q.detach(), teacher_k.detach(), self.head_match)
        self.applied = matched.applied
        return attention_score_mse(
            matched.student_q,
            matched.student_k,
            matched.teacher_q,
            matched.teacher_k,
            segment_ids,
            mode=self.mode,
            student_scale=matched.student_scale,
            teacher_scale=matched.teacher_scale,
            backend=self.backend,
        )
