"""States of random number generators, captured and restored."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from edad_fast.training import random_state

CPU = torch.device("cpu")


def draws() -> tuple[list[float], list[float], list[float]]:
    return (
        torch.rand(3).tolist(),
        [float(np.random.normal()) for _ in range(3)],
        [random.gauss(0, 1) for _ in range(3)],
    )


@pytest.mark.parametrize("odd", [0, 1])
def test_random_state_comes_back_in_the_middle_of_a_pair_of_normals(odd: int) -> None:
    random_state.seed_all("key", odd)
    if odd:
        draws()
    state = random_state.capture(CPU)
    first = draws()
    draws()
    random_state.restore(state, CPU)
    assert draws() == first
