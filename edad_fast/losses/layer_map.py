"""Which teacher layer each student layer learns from."""

from __future__ import annotations

from collections.abc import Sequence

from edad_fast.errors import InputError

LAYER_MAPS = ("uniform", "last")


def layer_map(spec: str | Sequence[int], student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    """Pairs (m, g(m)) of student and teacher layers, both counted from 1, for m = 1 .. student_layers.

    - ``uniform``: g(m) = m T / S, rounded to the nearest layer, halves up: 3m at 12 -> 4, 2 3 5 6 at 6 -> 4.
    - ``last``: the teacher's last S layers, g(m) = T - S + m.
    - a list (or "3,6,9,12"): its m-th entry is g(m).

    Raises:
        InputError: unknown name, a list of the wrong length or with a layer the teacher does not have, or a
            student deeper than the teacher.
    """
    if student_layers < 1 or student_layers > teacher_layers:
        raise InputError(
            f"the student has {student_layers} layers, the teacher {teacher_layers}: the student needs at "
            "least one layer and at most its teacher's number; choose a shallower student or a deeper teacher"
        )
    if spec == "uniform":
        chosen = [
            (2 * m * teacher_layers + student_layers) // (2 * student_layers)
            for m in range(1, student_layers + 1)
        ]
    elif spec == "last":
        chosen = list(range(teacher_layers - student_layers + 1, teacher_layers + 1))
    else:
        chosen = _explicit(spec, student_layers, teacher_layers)
    return list(enumerate(chosen, start=1))


def _explicit(spec: str | Sequence[int], student_layers: int, teacher_layers: int) -> list[int]:
    try:
        chosen = [int(part) for part in spec.split(",")] if isinstance(spec, str) else list(spec)
    except ValueError:
        raise InputError(
            f"layer map {spec!r} is unknown: choose from {', '.join(LAYER_MAPS)}, or list the teacher's "
            "layer for each student layer, such as 3,6,9,12"
        ) from None
    if len(chosen) != student_layers:
        raise InputError(
            f"layer map {chosen} has {len(chosen)} entries for {student_layers} student layers: list one "
            "teacher layer for each"
        )
    for student, teacher in enumerate(chosen, start=1):
        if isinstance(teacher, bool) or not isinstance(teacher, int) or not 1 <= teacher <= teacher_layers:
            raise InputError(
                f"layer map {chosen} sends student layer {student} to {teacher!r}: the teacher's layers are "
                f"1 to {teacher_layers}"
            )
    return chosen
