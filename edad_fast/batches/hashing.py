"""Counter-based random numbers: a pure function of (seed, purpose, epoch, row, column).

SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"): the n-th number
needs none of those before it, so that masks do not depend on batch size, rank, worker or restart, and unlike
that of `numpy.random.Generator` the stream is the same in all numpy versions.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

UInt64 = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


class Purpose(IntEnum):
    """What a random number decides; numbers of different purposes are independent."""

    HELD_OUT = 1
    ORDER = 2
    MASK = 3
    ACTION = 4
    REPLACEMENT = 5
    PAIR_CUT = 6
    PAIR_LABEL = 7
    PAIR_DOCUMENT = 8
    PAIR_START = 9


def mix(values: UInt64) -> UInt64:
    """SplitMix64's output function; uint64, any shape. The argument is left as it is."""
    mixed = values ^ (values >> np.uint64(30))
    mixed *= _FIRST
    mixed ^= mixed >> np.uint64(27)
    mixed *= _SECOND
    mixed ^= mixed >> np.uint64(31)
    return mixed


def draw(keys: UInt64, counters: npt.NDArray[Any]) -> UInt64:
    """Number `counters` (>= 0) of the streams `keys`: uint64, the shapes broadcast."""
    return mix(keys + (counters.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def row_keys(seed: int, purpose: Purpose, epochs: npt.NDArray[Any], rows: npt.NDArray[Any]) -> UInt64:
    """One stream a row: uint64, shape of `epochs` and `rows` broadcast."""
    start = mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64) + _GOLDEN)
    return draw(draw(draw(start, np.array([int(purpose)])), epochs), rows)


def below(values: UInt64, bounds: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Map uint64 numbers to integers in [0, bounds); int64. The bias is at most bounds / 2^64."""
    result: npt.NDArray[np.int64] = (values % bounds.astype(np.uint64)).astype(np.int64)
    return result


def unit(values: UInt64) -> npt.NDArray[np.float64]:
    """Map uint64 numbers to float64 in [0, 1)."""
    return (values >> np.uint64(11)).astype(np.float64) * 2.0**-53
