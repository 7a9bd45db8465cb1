"""Paired tests between two systems, exact and without further packages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_PAIRS = 40  # half of them are enumerated at a time: 2^20 sums


@dataclass(frozen=True)
class PairedTest:
    """Two-sided p-values of the mean of paired differences.

    Attributes:
        pairs: number of differences. difference: their mean.
        p_t: paired t test; None for fewer than two pairs, or when all differences are the same.
        p_sign_flip: exact permutation test; None without pairs or above `MAX_PAIRS`.
        p_smallest: the least p-value that the permutation test can give with these pairs.
    """

    pairs: int
    difference: float
    p_t: float | None
    p_sign_flip: float | None
    p_smallest: float | None


def paired_test(first: Sequence[float], second: Sequence[float]) -> PairedTest:
    """Test whether first - second has mean zero; the two are paired by position.

    Raises:
        ValueError: other lengths.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values cannot be paired")
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    n = len(differences)
    if n == 0:
        return PairedTest(0, math.nan, None, None, None)
    p_flip = smallest = None
    if n <= MAX_PAIRS:
        p_flip = sign_flip_p(differences)
        # Flipping a zero changes nothing: all 2^(zeros + 1) such assignments tie with the extreme one.
        zeros = int(np.count_nonzero(differences == 0.0))
        smallest = min(1.0, 2.0 ** (zeros + 1 - n))
    return PairedTest(n, float(differences.mean()), paired_t_p(differences), p_flip, smallest)


def paired_t_p(differences: np.ndarray) -> float | None:
    """Two-sided p-value of Student's t test of mean zero; None if it is not defined.

    Args:
        differences: [n], float64.
    """
    n = len(differences)
    if n < 2 or np.ptp(differences) == 0.0:
        return None
    error = differences.std(ddof=1) / math.sqrt(n)
    return student_t_tail(float(differences.mean() / error), n - 1)


def student_t_tail(t: float, freedom: int) -> float:
    """P(|T| >= |t|) for Student's t with a whole number of degrees of freedom.

    The finite series in cos(theta), theta = atan(t / sqrt(freedom)): Abramowitz and Stegun, 26.7.3-4.
    """
    theta = math.atan(abs(t) / math.sqrt(freedom))
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = freedom % 2
    term = total = cosine if odd else 1.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    if freedom == 1:
        total = 0.0
    inside = 2 / math.pi * (theta + sine * total) if odd else sine * total
    return min(1.0, max(0.0, 1.0 - inside))


def sign_flip_p(differences: np.ndarray) -> float:
    """Share of the 2^n sign assignments whose sum is at least as far from zero as the one found; exact.

    The sums of the two halves are enumerated, and their pairs counted by binary search.

    Args:
        differences: [n], float64, 1 <= n <= MAX_PAIRS.
    """
    found = abs(float(differences.sum()))
    # Sums of the same numbers in another order differ in their last bits.
    bound = found - 1e-9 * float(np.abs(differences).sum())
    left, right = (
        _signed_sums(differences[: len(differences) // 2]),
        _signed_sums(differences[len(differences) // 2 :]),
    )
    right.sort()
    above = len(right) - np.searchsorted(right, bound - left, side="left")
    below = np.searchsorted(right, -bound - left, side="right")
    count = len(left) * len(right) if bound <= 0.0 else int(above.sum() + below.sum())
    return count / (len(left) * len(right))


def _signed_sums(values: np.ndarray) -> np.ndarray:
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums
