"""Distillation of predictions as a module."""

from __future__ import annotations

from torch import Tensor, nn

from edad_fast.kernels import logit_kl
from edad_fast.kernels.checks import check_temperature, constant
from edad_fast.kernels.choice import check_output_backend


class LogitKL(nn.Module):
    """T^2 KL of predictions softened by temperature T (Hinton et al. 2015). The teacher is detached.

    Args:
        temperature: T, above 0.
        backend: as for `logit_kl`; "auto" chooses.

    Raises:
        ValueError: another temperature, or a backend without code for this loss.
    """

    def __init__(self, temperature: float = 1.0, backend: str = "auto") -> None:
        super().__init__()
        check_temperature(temperature)
        check_output_backend(backend, "logits")
        self.temperature = temperature
        self.backend = backend

    def extra_repr(self) -> str:
        """The options, for print()."""
        return f"temperature={self.temperature}, backend={self.backend!r}"

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Scalar mean over the rows of logits [..., classes]; fp32 (fp64 for fp64 inputs).

        Raises:
            ValueError: shapes, dtypes or temperature that do not fit.
        """
        target = constant("teacher_logits", teacher_logits)
        return logit_kl(student_logits, target, temperature=self.temperature, backend=self.backend)
