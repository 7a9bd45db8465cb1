"""Distillation of predictions as a module."""

from __future__ import annotations

from torch import Tensor, nn

from edad_fast.kernels import logit_kl


class LogitKL(nn.Module):
    """T^2 KL of predictions softened by temperature T (Hinton et al. 2015). The teacher is detached.

    Args:
        temperature: T, above 0.
        backend: as for `logit_kl`; "auto" chooses.
    """

    def __init__(self, temperature: float = 1.0, backend: str = "auto") -> None:
        super().__init__()
        self.temperature = temperature
        self.backend = backend

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Scalar mean over the rows of logits [..., classes]; fp32 (fp64 for fp64 inputs).

        Raises:
            ValueError: shapes, dtypes or temperature that do not fit.
        """
        return logit_kl(
            student_logits, teacher_logits.detach(), temperature=self.temperature, backend=self.backend
        )
