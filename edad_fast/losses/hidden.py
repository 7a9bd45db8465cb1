"""Hidden-state loss as a module."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from edad_fast.kernels import hidden_state_mse

Tensors = Tensor | Sequence[Tensor]


class HiddenStateMSE(nn.Module):
    """Mean squared difference of projected student and teacher hidden states (TinyBERT, eq. 8).

    Called as ``HiddenStateMSE()(student_hidden, teacher_hidden, fit.weight, fit.bias, mask)``; the projection
    belongs to the caller, so that several layers may share one. The teacher is a constant: it is detached.

    Args:
        mode: "tinybert" (mean over all positions, padding too, as published) or "valid" (over tokens).
        backend: as for `hidden_state_mse`; "auto" chooses.
    """

    def __init__(self, mode: str = "tinybert", backend: str = "auto") -> None:
        super().__init__()
        self.mode = mode
        self.backend = backend

    def forward(
        self,
        student_hidden: Tensors,
        teacher_hidden: Tensors,
        weight: Tensors | None = None,
        bias: Tensors | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Scalar loss, fp32 (fp64 for fp64 inputs); of several layers, the sum of their means.

        Args:
            student_hidden: [..., d_S]; teacher_hidden: [..., d_T]; or lists of these, one for each layer.
            weight: [d_T, d_S], or None where the widths are equal; bias: [d_T] or None; or lists.
            mask: bool (True = token) or int (0 = padding) [...], or None.

        Raises:
            ValueError: shapes, dtypes or options that do not fit.
        """
        constant = (
            teacher_hidden.detach()
            if isinstance(teacher_hidden, Tensor)
            else [x.detach() for x in teacher_hidden]
        )
        return hidden_state_mse(
            student_hidden, constant, weight, bias, mask, mode=self.mode, backend=self.backend
        )
