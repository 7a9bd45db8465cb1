"""The weight alpha of domain adaptation against distillation, as a function of progress."""

from __future__ import annotations

import math

from edad_fast.errors import InputError

SCHEDULES = ("linear", "cosine", "linear_reverse", "cosine_reverse", "constant")


class AlphaSchedule:
    """alpha(t) for progress t in [0, 1], L = alpha L_DA + (1 - alpha) L_DT (EDAD, section 3).

    ===================  ==========================  =======================
    kind                 alpha                       with the default ends
    ===================  ==========================  =======================
    linear               s + (e - s) t               1 - t
    cosine               s + (e - s)(1 - cos pi t)/2   (1 + cos pi t)/2
    linear_reverse       as linear                   t
    cosine_reverse       as cosine                   (1 - cos pi t)/2
    constant             constant                    0.5
    ===================  ==========================  =======================

    Args:
        kind: one of `SCHEDULES`.
        start, end: alpha at t = 0 and t = 1, in [0, 1]; default 1 and 0, for the reverse kinds 0 and 1.
        constant: alpha of kind "constant", in [0, 1].

    Raises:
        InputError: unknown kind, a value outside [0, 1], or start/end with kind "constant".
    """

    def __init__(
        self,
        kind: str = "linear",
        start: float | None = None,
        end: float | None = None,
        constant: float = 0.5,
    ) -> None:
        if kind not in SCHEDULES:
            raise InputError(f"alpha schedule {kind!r} is unknown: choose from {', '.join(SCHEDULES)}")
        if kind == "constant":
            if start is not None or end is not None:
                raise InputError(
                    'alpha schedule "constant" has no start and end: give its value, or choose "linear"'
                )
            start = end = constant
        from_zero = kind.endswith("_reverse")
        self.kind = kind
        self.start = (0.0 if from_zero else 1.0) if start is None else start
        self.end = (1.0 if from_zero else 0.0) if end is None else end
        for name, value in (("at the start", self.start), ("at the end", self.end)):
            if not 0.0 <= value <= 1.0:
                raise InputError(f"alpha {name} is {value}: a weight between 0 and 1 is needed")

    def __call__(self, progress: float) -> float:
        """alpha after the fraction `progress` of the training steps.

        Raises:
            ValueError: progress outside [0, 1].
        """
        if not 0.0 <= progress <= 1.0:
            raise ValueError(f"progress {progress} is outside [0, 1]")
        if self.kind.startswith("cosine"):
            progress = (1.0 - math.cos(math.pi * progress)) / 2.0
        alpha = self.start + (self.end - self.start) * progress
        # Rounding may step over an end by one unit in the last place.
        return min(max(alpha, min(self.start, self.end)), max(self.start, self.end))

    def __repr__(self) -> str:
        return f"AlphaSchedule({self.kind!r}, start={self.start}, end={self.end})"
