"""Hidden-state loss as a module."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from edad_fast.kernels import HIDDEN_MODES, hidden_state_mse
from edad_fast.kernels.checks import check_choice, constant
from edad_fast.kernels.choice import check_hidden_backend

Tensors = Tensor | Sequence[Tensor]


class HiddenStateMSE(nn.Module):
    """Mean squared difference of projected student and teacher hidden states (TinyBERT, eq. 8).

    Called as ``HiddenStateMSE()(student_hidden, teacher_hidden, fit.weight, fit.bias, mask)``; the projection
    belongs to the caller, so that several layers may share one. The teacher is a constant: it is detached.

    Args:
        mode: "tinybert" (mean over all positions, padding too, as published) or "valid", by its other name
            "valid_pairs" (over tokens).
        backend: as for `hidden_state_mse`; "auto" chooses.

    Raises:
        ValueError: an unknown mode, or a backend without code for this loss.
    """

    def __init__(self, mode: str = "tinybert", backend: str = "auto") -> None:
        super().__init__()
        check_choice("mode", mode, HIDDEN_MODES)
        check_hidden_backend(backend)
        self.mode = mode
        self.backend = backend

    def extra_repr(self) -> str:
        """The options, for print()."""
        return f"mode={self.mode!r}, backend={self.backend!r}"

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
        states = teacher_hidden if isinstance(teacher_hidden, Sequence) else [teacher_hidden]
        target = [constant("teacher_hidden", x) for x in states]
        return hidden_state_mse(
            student_hidden, target, weight, bias, mask, mode=self.mode, backend=self.backend
        )
