from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edad_fast.errors import InputError
from edad_fast.losses import SCHEDULES, AlphaSchedule, layer_map


@pytest.mark.parametrize(
    ("spec", "student", "teacher", "expected"),
    [
        ("uniform", 4, 12, [3, 6, 9, 12]),
        ("uniform", 6, 12, [2, 4, 6, 8, 10, 12]),
        ("uniform", 4, 6, [2, 3, 5, 6]),
        ("uniform", 4, 4, [1, 2, 3, 4]),
        ("uniform", 1, 12, [12]),
        ("last", 4, 12, [9, 10, 11, 12]),
        ("last", 3, 3, [1, 2, 3]),
        ([1, 1, 12], 3, 12, [1, 1, 12]),
        ((5, 2), 2, 6, [5, 2]),
        ("3,6, 9,12", 4, 12, [3, 6, 9, 12]),
    ],
)
def test_layer_maps(spec: str | list[int], student: int, teacher: int, expected: list[int]) -> None:
    assert layer_map(spec, student, teacher) == list(enumerate(expected, start=1))


@given(st.integers(1, 48), st.integers(1, 48))
def test_named_maps_are_strictly_increasing_and_end_at_the_last_layer(one: int, other: int) -> None:
    student, teacher = min(one, other), max(one, other)
    for spec in ("uniform", "last"):
        pairs = layer_map(spec, student, teacher)
        layers = [layer for _, layer in pairs]
        assert [m for m, _ in pairs] == list(range(1, student + 1))
        assert layers == sorted(set(layers))
        assert layers[0] >= 1
        assert layers[-1] == teacher


@pytest.mark.parametrize(
    ("spec", "student", "teacher", "words"),
    [
        ("uniform", 6, 4, ["6 layers", "teacher 4"]),
        ([1, 2, 3, 4, 5, 6], 6, 4, ["6 layers", "teacher 4"]),
        ("uniform", 0, 4, ["0 layers"]),
        ([3, 6, 9], 4, 12, ["3 entries", "4 student layers", "[3, 6, 9]"]),
        ([3, 6, 9, 13], 4, 12, ["student layer 4", "13", "1 to 12"]),
        ([0, 6, 9, 12], 4, 12, ["student layer 1", "to 0", "1 to 12"]),
        ([True, 2], 2, 4, ["True", "1 to 4"]),
        ([1.0, 2], 2, 4, ["1.0"]),
        ("unifrom", 4, 12, ["'unifrom'", "uniform, last", "3,6,9,12"]),
        ("", 4, 12, ["''"]),
    ],
)
def test_bad_layer_maps_name_the_numbers(
    spec: str | list[int], student: int, teacher: int, words: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        layer_map(spec, student, teacher)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (AlphaSchedule(), (1.0, 0.75, 0.5, 0.0)),
        (AlphaSchedule("linear"), (1.0, 0.75, 0.5, 0.0)),
        (AlphaSchedule("linear_reverse"), (0.0, 0.25, 0.5, 1.0)),
        (AlphaSchedule("cosine"), (1.0, (1 + math.cos(math.pi / 4)) / 2, 0.5, 0.0)),
        (AlphaSchedule("cosine_reverse"), (0.0, (1 - math.cos(math.pi / 4)) / 2, 0.5, 1.0)),
        (AlphaSchedule("constant"), (0.5, 0.5, 0.5, 0.5)),
        (AlphaSchedule("constant", constant=1.0), (1.0, 1.0, 1.0, 1.0)),
        (AlphaSchedule("constant", constant=0.0), (0.0, 0.0, 0.0, 0.0)),
        (AlphaSchedule("linear", start=0.75, end=0.25), (0.75, 0.625, 0.5, 0.25)),
        (AlphaSchedule("linear_reverse", start=0.25), (0.25, 0.4375, 0.625, 1.0)),
        (AlphaSchedule("cosine", end=0.5), (1.0, 0.5 + (1 + math.cos(math.pi / 4)) / 4, 0.75, 0.5)),
    ],
    ids=repr,
)
def test_alpha_at_known_points(schedule: AlphaSchedule, values: tuple[float, ...]) -> None:
    assert schedule(0.0) == values[0]
    assert schedule(0.25) == pytest.approx(values[1], abs=1e-15)
    assert schedule(0.5) == pytest.approx(values[2], abs=1e-15)
    assert schedule(1.0) == values[3]


weights = st.floats(0.0, 1.0)


@given(
    kind=st.sampled_from([kind for kind in SCHEDULES if kind != "constant"]),
    start=st.none() | weights,
    end=st.none() | weights,
    points=st.lists(weights, min_size=2, max_size=8).map(sorted),
)
def test_alpha_stays_between_its_ends_and_is_monotone(
    kind: str, start: float | None, end: float | None, points: list[float]
) -> None:
    schedule = AlphaSchedule(kind, start=start, end=end)
    values = [schedule(point) for point in points]
    assert all(
        min(schedule.start, schedule.end) <= value <= max(schedule.start, schedule.end) for value in values
    )
    slack = 1e-15
    sign = 1 if schedule.end >= schedule.start else -1
    assert all(sign * (later - earlier) >= -slack for earlier, later in pairwise(values))
    if start is not None:
        assert schedule(0.0) == start
    if end is not None:
        assert schedule(1.0) == pytest.approx(end, abs=1e-15)


@given(weights)
def test_cosine_is_the_papers_formula_and_reverse_its_mirror(progress: float) -> None:
    assert AlphaSchedule("cosine")(progress) == pytest.approx(
        (1 + math.cos(math.pi * progress)) / 2, abs=1e-15
    )
    for kind in ("linear", "cosine"):
        mirrored = AlphaSchedule(f"{kind}_reverse")(progress)
        assert mirrored == pytest.approx(AlphaSchedule(kind)(1.0 - progress), abs=1e-15)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kind": "linaer"}, ["'linaer'", "linear_reverse"]),
        ({"start": 1.5}, ["1.5", "start"]),
        ({"end": -0.1}, ["-0.1", "end"]),
        ({"start": math.nan}, ["nan"]),
        ({"kind": "constant", "constant": 2.0}, ["2.0"]),
        ({"kind": "constant", "start": 0.5}, ["constant", "start"]),
    ],
)
def test_bad_schedules_are_explained(arguments: dict[str, object], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        AlphaSchedule(**arguments)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("progress", [-0.1, 1.0000001, math.nan])
def test_progress_outside_the_run_is_refused(progress: float) -> None:
    with pytest.raises(ValueError, match="outside"):
        AlphaSchedule()(progress)
