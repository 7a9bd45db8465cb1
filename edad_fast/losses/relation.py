"""Self-attention relations as a loss."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from edad_fast.kernels import regroup_heads, relation_kl
from edad_fast.kernels.checks import check_tensor
from edad_fast.kernels.choice import check_output_backend


class RelationKL(nn.Module):
    """Divergence of self-attention relations (MiniLMv2, Wang et al. 2021), usually of one layer a model.

    Called as ``RelationKL(48)({"query": (student, teacher), "key": ..., "value": ...}, mask)``. Each kind of
    vectors is regrouped to as many relation heads in both models, so neither head counts nor widths need
    agree. The teacher is a constant: its tensors are detached.

    Args:
        relation_heads: A_r of the paper (48 for a base-sized teacher); None: the teacher's number of heads.
        weights: of the kinds of relations; 1 for those not named.
        backend: as for `relation_kl`; "auto" chooses.

    Raises:
        ValueError: fewer than one relation head, or a backend without code for this loss.
    """

    def __init__(
        self,
        relation_heads: int | None = None,
        weights: Mapping[str, float] | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_output_backend(backend, "relation")
        if relation_heads is not None and relation_heads < 1:
            raise ValueError(f"relation_heads is {relation_heads}: 1 or above, or None, is needed")
        self.relation_heads = relation_heads
        self.weights = dict(weights or {})
        self.backend = backend

    def extra_repr(self) -> str:
        """The options, for print()."""
        return f"relation_heads={self.relation_heads}, weights={self.weights}, backend={self.backend!r}"

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
        if not isinstance(pairs, Mapping):
            raise ValueError(
                f"relations are a {type(pairs).__name__}: a dict is needed, such as "
                '{"query": (student, teacher)}'
            )
        if not pairs:
            raise ValueError("no relations given: pass at least one pair of student's and teacher's vectors")
        if unknown := sorted(set(self.weights) - set(pairs)):
            raise ValueError(f"weights name {unknown}, the relations given are {sorted(pairs)}")
        losses = []
        for kind, (student, teacher) in pairs.items():
            for name, x in (("student", student), ("teacher", teacher)):
                check_tensor(f"{kind} of the {name}", x)
                if x.dim() != 4 or not x.shape[1] * x.shape[3]:
                    raise ValueError(
                        f"{kind} of the {name} is {list(x.shape)}: [batch, heads, length, head width] "
                        "is needed"
                    )
            heads = self.relation_heads or teacher.shape[1]
            for name, x in (("student", student), ("teacher", teacher)):
                if x.shape[1] * x.shape[3] % heads:
                    raise ValueError(
                        f"{kind} of the {name} is {list(x.shape)}: heads times head width, "
                        f"{x.shape[1] * x.shape[3]}, must be a multiple of {heads} relation heads"
                    )
            loss = relation_kl(
                regroup_heads(student, heads),
                regroup_heads(teacher.detach(), heads),
                segment_ids,
                backend=self.backend,
            )
            losses.append(self.weights.get(kind, 1.0) * loss)
        return sum(losses[1:], losses[0])
