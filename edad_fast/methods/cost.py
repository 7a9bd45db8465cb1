"""What a run will cost, before it is run: parameters, memory and FLOPs of one optimiser step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from ..batches import Batch
from ..training import Objective, Stage, flop_counter

_STATE_BYTES = 4 + 4 + 8  # fp32 weight, its gradient, two AdamW moments


@dataclass(frozen=True)
class StepCost:
    """Cost of one optimiser step of a stage.

    Attributes:
        stage: its name.
        flops: multiply-adds counted twice, forward and backward, of matrix products and attention.
        weight_bytes: weights, gradients and AdamW moments.
        activation_bytes: tensors that one micro-batch keeps for its backward pass.
    """

    stage: str
    flops: int
    weight_bytes: int
    activation_bytes: int


def full_batch(rows: int, seq_len: int, mlm_probability: float) -> Batch:
    """A micro-batch of `rows` full rows, one segment each, for its shapes."""
    shape = (rows, seq_len)
    masked = int(rows * round(mlm_probability * (seq_len - 2)))
    return Batch(
        input_ids=torch.ones(shape, dtype=torch.long),
        segment_ids=torch.ones(shape, dtype=torch.int32),
        position_ids=torch.arange(seq_len).repeat(rows, 1),
        token_type_ids=torch.zeros(shape, dtype=torch.long),
        masked_positions=torch.arange(masked),
        masked_labels=torch.zeros(masked, dtype=torch.long),
        next_sentence_labels=None,
        tokens=rows * seq_len,
        full_rows=True,
    )


def step_cost(
    stage: Stage, *, rows: int, seq_len: int, mlm_probability: float, accumulation_steps: int, bf16: bool
) -> StepCost:
    """Run one micro-batch of `stage` on fake tensors: shapes and dtypes without data, time or memory.

    `rows` are of the whole step. Alpha is taken half-way, so that every term counts. The models of `stage`
    are not changed.
    """
    objective = stage.objective
    groups = cast(Objective, objective).parameter_groups()
    trained = [p for group in groups for p in group.parameters.values()]
    kept: dict[int, int] = {}
    storages: list[Tensor] = []  # held, so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storages.append(tensor)
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    counter = flop_counter()
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        parameters: dict[str, Tensor] = {
            name: torch.nn.Parameter(fake.from_tensor(p), p.requires_grad)
            for name, p in objective.named_parameters()
        }
        batch = full_batch(max(1, rows // accumulation_steps), seq_len, mlm_probability)
        with counter, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            with saved_tensors_hooks(keep, lambda tensor: tensor):
                loss = torch.func.functional_call(objective, parameters, (batch, 0.5), tie_weights=True)
            loss.total.backward()
    frozen = sum(p.numel() for p in objective.parameters()) - sum(p.numel() for p in trained)
    return StepCost(
        stage=stage.name,
        flops=counter.get_total_flops() * accumulation_steps,
        weight_bytes=_STATE_BYTES * sum(p.numel() for p in trained) + 4 * frozen,
        activation_bytes=sum(kept.values()),
    )
