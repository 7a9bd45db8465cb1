"""MiniLMv2: self-attention relations of one layer as L_DT (Wang et al., Findings of ACL 2021, Section 3)."""

from __future__ import annotations

from math import gcd

from torch import Tensor
from transformers import BertForPreTraining

from ..batches import Batch
from ..errors import InputError
from ..losses import RelationKL
from ..models import EncoderOutput
from .distillation import Distillation, Reads


class RelationDistillation(Distillation):
    """L_DT = sum over A = Q, K, V of KL(R^T || R^S), R = softmax(A A^T / sqrt(d_r)) in each relation head.

    The mean over tokens and relation heads; the student's last layer against one layer of the teacher.

    Args:
        student, teacher: the models; only their depths are read.
        layer: of the teacher, from 1; None: its last (the paper takes an earlier one for large teachers).
        heads: relation heads, A_r; they divide both widths.
        backend: as in `RelationKL`.
    """

    through_layers = False

    def __init__(
        self,
        student: BertForPreTraining,
        teacher: BertForPreTraining,
        *,
        layer: int | None,
        heads: int,
        backend: str,
    ) -> None:
        super().__init__()
        last = student.config.num_hidden_layers
        layer = layer or teacher.config.num_hidden_layers
        self.of_student = Reads(frozenset({last}), values=True)
        self.of_teacher = Reads(frozenset({layer}), values=True, depth=layer)
        self.loss = RelationKL(heads, backend=backend)

    def forward(
        self,
        student: EncoderOutput,
        teacher: EncoderOutput,
        batch: Batch,
        models: tuple[BertForPreTraining, BertForPreTraining] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum, and the terms `relation_q`, `relation_k` and `relation_v`."""
        (mine,), (theirs,) = self.of_student.score_layers, self.of_teacher.score_layers
        terms = {}
        for name in ("queries", "keys", "values"):
            pair = (getattr(student, name)[mine - 1], getattr(teacher, name)[theirs - 1])
            terms[f"relation_{name[0]}"] = batch.shares.tokens * self.loss({name: pair}, batch.segment_ids)
        total = terms["relation_q"] + terms["relation_k"] + terms["relation_v"]
        return total, {name: term.detach() for name, term in terms.items()}


def check_relations(heads: int, layer: int | None, widths: dict[str, int], teacher_layers: int) -> None:
    """Check --relation_heads against the models' widths by name, and --relation_layer.

    Raises:
        InputError: naming the nearest number that fits.
    """
    common = gcd(*widths.values())
    if common % heads:
        fitting = [n for n in range(1, common + 1) if common % n == 0]
        nearest = min(fitting, key=lambda n: (abs(n - heads), -n))
        shown = ", ".join(f"{name} {width}" for name, width in widths.items() if width % heads)
        raise InputError(
            f"--relation_heads {heads} does not divide the width of the {shown}; the nearest that divides "
            f"{' and '.join(f'{w}' for w in widths.values())} is --relation_heads {nearest}"
        )
    if layer is not None and layer > teacher_layers:
        raise InputError(
            f"--relation_layer {layer}: the teacher has {teacher_layers} layers; give 1 to {teacher_layers}"
        )
