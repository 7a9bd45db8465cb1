"""A merged vocabulary and how it came about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .counts import WordCounts


@dataclass(frozen=True)
class Curve:
    """States of a growing vocabulary; arrays of equal length.

    size: rows, int64. tokens: tokens that the corpus splits into, int64. log_likelihood: sum over the pieces
    t of c_t ln(c_t / C), with c_t their counts and C = tokens, float64 (AdaLM's P(D) times the number of
    documents).
    """

    size: NDArray[np.int64]
    tokens: NDArray[np.int64]
    log_likelihood: NDArray[np.float64]

    @classmethod
    def of(cls, points: dict[str, Any]) -> Curve:
        """From the native core's dictionary."""
        return cls(points["size"], points["tokens"], points["log_likelihood"])

    def thinned(self, points: int = 500) -> Curve:
        """At most about `points` of the states, evenly spread, first and last among them."""
        if len(self.size) <= points:
            return self
        chosen = np.unique(np.linspace(0, len(self.size) - 1, points).round().astype(np.int64))
        return Curve(self.size[chosen], self.tokens[chosen], self.log_likelihood[chosen])


@dataclass(frozen=True)
class MergedVocabulary:
    """A general vocabulary, ids unchanged, with domain pieces.

    Attributes:
        pieces: all rows by id.
        general_size: pieces of the general vocabulary.
        added_rows: rows of the new pieces, in learning order; behind the general ones, unless rows
            [unusedN] were used up first.
        passed_over: candidates left out because no word of the corpus makes use of them.
        padding: rows [unusedN] at the end that fill up to a multiple.
        counts: int64 [len(pieces)], how often each piece occurs in the corpus; None if nothing was counted.
        curve: the vocabulary's growth; None if nothing was counted.
        steps: of the automatic size: the sizes looked at, and `gains` of each over the one before.
        words: the counted words that it was made for; None if nothing was counted.
        end: what ended the merge: `size`, `threshold`, `max_size` or `candidates`.
    """

    pieces: list[str]
    general_size: int
    added_rows: Sequence[int]
    passed_over: int = 0
    padding: int = 0
    counts: NDArray[np.int64] | None = None
    curve: Curve | None = None
    steps: Curve | None = None
    gains: NDArray[np.float64] | None = None
    end: str = "size"
    words: WordCounts | None = None

    @classmethod
    def ready(cls, pieces: list[str], general_size: int) -> MergedVocabulary:
        """Of a vocabulary whose further pieces stand behind the general ones."""
        return cls(pieces, general_size, range(general_size, len(pieces)))

    @classmethod
    def of(cls, found: dict[str, Any], words: WordCounts) -> MergedVocabulary:
        """From the native core's dictionary."""
        automatic = len(found["steps"]["size"]) > 0
        return cls(
            found["pieces"],
            found["general_size"],
            found["added"].tolist(),
            found["passed_over"],
            found["padding"],
            found["counts"],
            Curve.of(found["curve"]),
            Curve.of(found["steps"]) if automatic else None,
            found["steps"]["gain"] if automatic else None,
            found["end"],
            words,
        )

    @property
    def added(self) -> list[str]:
        """The domain pieces, in the order of `added_rows`."""
        return [self.pieces[row] for row in self.added_rows]
