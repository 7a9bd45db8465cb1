"""Self-attention relations as a loss."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from edad_fast.kernels import regroup_heads, relation_kl


class RelationKL(nn.Module):
    """Divergence of self-attention relations (MiniLMv2, Wang et al. 2021), usually of one layer a model.

    Called as ``RelationKL(48)({"query": (student, teacher), "key": ..., "value": ...}, mask)``. Each kind of
    vectors is regrouped to as many relation heads in both models, so neither head counts nor widths need
    agree. The teacher is a constant: its tensors are detached.

    Args:
        relation_heads: A_r of the paper (48 for a base-sized teacher); None: the teacher's number of heads.
        weights: of the kinds of relations; 1 for those not named.
        backend: as for `relation_kl`; "auto" chooses.
    """

    def __init__(
        self,
        relation_heads: int | None = None,
        weights: Mapping[str, float] | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.relation_heads = relation_heads
        self.weights = dict(weights or {})
        self.backend = backend

    def forward(
        self, pairs: Mapping[str, tuple[Tensor, Tensor]], segment_ids: Tensor | None = None
    ) -> Tensor:
        """Scalar: the weighted sum over the kinds of relations; fp32 (fp64 for fp64 inputs).

        Args:
            pairs: student's and teacher's vectors by kind, [B, H_S, L, d_S] and [B, H_T, L, d_T].
            segment_ids: bool [B, L] (True = token), int [B, L] (0 = padding, k = k-th segment), or None.

        Raises:
            ValueError: no pairs, unknown weights, or shapes that do not fit.
        """
        if not pairs:
            raise ValueError("no relations given: pass at least one pair of student's and teacher's vectors")
        if unknown := sorted(set(self.weights) - set(pairs)):
            raise ValueError(f"weights name {unknown}, the relations given are {sorted(pairs)}")
        losses = []
        for kind, (student, teacher) in pairs.items():
            heads = self.relation_heads or teacher.shape[1]
            for name, x in (("student", student), ("teacher", teacher)):
                if x.dim() != 4 or x.shape[1] * x.shape[3] % heads:
                    raise ValueError(
                        f"{kind} of the {name} is {list(x.shape)}: [batch, heads, length, head width] is "
                        f"needed, its width in all a multiple of {heads} relation heads"
                    )
            loss = relation_kl(
                regroup_heads(student, heads),
                regroup_heads(teacher.detach(), heads),
                segment_ids,
                backend=self.backend,
            )
            losses.append(self.weights.get(kind, 1.0) * loss)
        return sum(losses[1:], losses[0])
