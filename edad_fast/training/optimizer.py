"""AdamW over named groups, stateless learning-rate schedule, clipping, state by parameter name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..errors import InputError
from .distributed import full, sharded_as
from .stage import ParameterGroup


def schedule_factor(step: int, steps: int, warmup_steps: int) -> float:
    """Factor on the base learning rate of step `step` (0-based) of `steps`.

    Rises linearly over the first `warmup_steps` steps, is 1 at step `warmup_steps`, and falls linearly to 0
    at `steps`. No step runs at a rate of 0.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    return max(0.0, (steps - step) / (steps - warmup_steps))


class GroupedAdamW:
    """One AdamW (decoupled weight decay, Loshchilov and Hutter 2019) over the groups of an objective.

    Each group is split into matrices, which decay, and vectors and scalars (biases, LayerNorm), which do not.
    The fused implementation is used on every device; on CPU it is deterministic for a fixed number of
    threads.

    Args:
        module: holds all parameters of the groups; gives them their names.
        groups: see `ParameterGroup`.

    Raises:
        ValueError: a parameter that is not the module's, is in two groups, is frozen, or is not float32; two
            groups with one name; no group.
    """

    def __init__(
        self,
        module: nn.Module,
        groups: Sequence[ParameterGroup],
        *,
        weight_decay: float,
        betas: tuple[float, float],
        eps: float,
        max_grad_norm: float,
    ) -> None:
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        self._max_grad_norm = max_grad_norm
        self._names: dict[str, nn.Parameter] = {}
        self._groups: dict[str, list[nn.Parameter]] = {}
        self._rates: dict[str, float] = {}
        self._base_rates: dict[str, float] = {group.name: group.learning_rate for group in groups}
        if not groups or len(self._base_rates) != len(groups):
            raise ValueError(f"groups must have distinct names, not {[group.name for group in groups]}")
        torch_groups = []
        for group in groups:
            for label, parameter in group.parameters.items():
                name = names.get(id(parameter))
                if name is None:
                    raise ValueError(f"group {group.name}: {label} is not a parameter of the objective")
                if name in self._names:
                    raise ValueError(f"group {group.name}: {label} is listed twice")
                if not parameter.requires_grad or parameter.dtype != torch.float32:
                    raise ValueError(
                        f"group {group.name}: {label} must be trainable and float32 (master weights); "
                        f"it is {parameter.dtype}, requires_grad={parameter.requires_grad}"
                    )
                self._names[name] = parameter
            if not group.parameters:
                raise ValueError(f"group {group.name} has no parameters")
            members = list(group.parameters.values())
            self._groups[group.name] = members
            for decay, part in (
                (weight_decay, [p for p in members if p.ndim >= 2]),
                (0.0, [p for p in members if p.ndim < 2]),
            ):
                if part:
                    torch_groups.append({"params": part, "weight_decay": decay, "name": group.name})
        self._adamw = torch.optim.AdamW(torch_groups, lr=0.0, betas=betas, eps=eps, fused=True)

    def set_factor(self, factor: float) -> None:
        """Set every group's learning rate to `factor` times its base rate."""
        self._rates = {name: rate * factor for name, rate in self._base_rates.items()}
        for group in self._adamw.param_groups:
            group["lr"] = self._rates[group["name"]]

    @property
    def learning_rates(self) -> dict[str, float]:
        """Current learning rate by group name."""
        return dict(self._rates)

    def clip(self) -> dict[str, Tensor]:
        """Scale each group's gradients to a norm of at most max_grad_norm (0: never).

        Returns the norms before, by group: scalars on the parameters' device; nothing waits for them.
        """
        norms = {}
        for name, parameters in self._groups.items():
            gradients = [p.grad for p in parameters if p.grad is not None]
            if not gradients:
                norms[name] = torch.zeros((), device=parameters[0].device)
                continue
            norm = torch.nn.utils.get_total_norm(gradients)
            if self._max_grad_norm > 0:
                torch.nn.utils.clip_grads_with_norm_(parameters, self._max_grad_norm, norm)
            norms[name] = full(norm)
        return norms

    def step(self, skip: Tensor) -> None:
        """Update the parameters unless `skip` (float32 scalar on their device) is 1; forget the gradients.

        The decision is taken on the device, by the switch that gradient scalers use, so nothing waits for it.
        """
        self._adamw.found_inf = skip  # type: ignore[attr-defined]
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Tensors "exp_avg/NAME", "exp_avg_sq/NAME" and "step/NAME" of each parameter updated so far.

        Those of sharded parameters are sharded too; `load_state` takes whole ones.
        """
        return {
            f"{key}/{name}": value
            for name, parameter in self._names.items()
            for key, value in self._adamw.state.get(parameter, {}).items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state`; the order of groups and parameters does not matter.

        Raises:
            InputError: a name or shape that is not this optimiser's.
        """
        for entry, value in state.items():
            key, _, name = entry.partition("/")
            parameter = self._names.get(name)
            if parameter is None or (key != "step" and value.shape != parameter.shape):
                raise InputError(
                    f"optimizer state {entry} {list(value.shape)} fits no trained parameter of this run; "
                    "the checkpoint belongs to other models. Resume with those, or start anew with "
                    "--overwrite."
                )
            # Own memory in the layout AdamW itself would choose: the file's mapping may be unaligned.
            like = parameter if key != "step" else torch.empty((), device=parameter.device)
            own = torch.zeros_like(like, requires_grad=False, memory_format=torch.preserve_format)
            self._adamw.state[parameter][key] = own.copy_(sharded_as(value, own))
