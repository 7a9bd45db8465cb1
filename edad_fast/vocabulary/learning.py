"""Options of learning and merging WordPieces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import InputError
from .checks import MOST_ROWS, check_int, shown

Criterion = Literal["frequency", "likelihood"]
_LARGEST_MULTIPLE = 2**20  # so many rows may be filled up
CRITERIA: tuple[Criterion, ...] = ("frequency", "likelihood")


@dataclass(frozen=True)
class Learning:
    """How WordPieces are learned and merged.

    Attributes:
        criterion: which pair is merged next: `frequency`: the most frequent; `likelihood`: the one with the
            greatest f(ab) / (f(a) f(b)).
        min_frequency: least count of a pair to be merged and of a character.
        limit_alphabet: most characters kept, by falling frequency.
        max_piece_characters: longest merged piece; 0: no limit.
        threshold, interval, max_size: of the automatic size (AdaLM, Section 3.2): the vocabulary grows by
            `interval` pieces at a time until the relative gain of P(D) is at most `threshold`, or until it
            has `max_size` pieces.
        reuse_unused: new pieces first take the rows [unusedN] of the general vocabulary.
        pad_to_multiple: rows are filled up to a multiple with further pieces [unusedN]; 0: no.
    """

    criterion: str = "frequency"
    min_frequency: int = 2
    limit_alphabet: int = 1000
    max_piece_characters: int = 0
    threshold: float = 0.01
    interval: int = 10_000
    max_size: int = 150_000
    reuse_unused: bool = False
    pad_to_multiple: int = 0

    def check(self) -> None:
        """Check the values.

        Raises:
            InputError: naming the first that cannot be used.
        """
        if self.criterion not in CRITERIA:
            raise InputError(
                f"criterion {shown(self.criterion)} is unknown; there are: {', '.join(CRITERIA)}"
            )
        check_int("min_frequency", self.min_frequency, 1)
        for name, least in (
            ("limit_alphabet", 1),
            ("max_piece_characters", 0),
            ("interval", 1),
            ("max_size", 1),
        ):
            check_int(name, getattr(self, name), least, MOST_ROWS)
        check_int("pad_to_multiple", self.pad_to_multiple, 0, _LARGEST_MULTIPLE)
        if not (isinstance(self.threshold, (int, float)) and 0.0 <= self.threshold < 1.0):
            raise InputError(f"threshold is {shown(self.threshold)}; it must be 0 or more and below 1")
