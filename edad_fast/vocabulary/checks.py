"""Numbers and pieces from outside, checked before the native core sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import InputError

LARGEST = 2**63 - 1
MOST_ROWS = 2**30  # ids are 32-bit
MOST_MIB = 2**20
_MOST_THREADS = 4096


def check_int(name: str, value: Any, least: int, most: int = LARGEST) -> int:
    """Return `value` as an int.

    Raises:
        InputError: no whole number, or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise InputError(f"{name} is {shown(value)}; give a whole number")
    if value < least:
        raise InputError(f"{name} is {shown(value)}; give {least} or more")
    if value > most:
        raise InputError(f"{name} is {shown(value)}; give {most} or less")
    return int(value)


def check_threads(n_threads: Any) -> int:
    """Return a number of threads; InputError if it is none."""
    return check_int("n_threads", n_threads, 1, _MOST_THREADS)


def parse_rows(name: str, text: str) -> int:
    """The number of rows that an option says.

    Raises:
        InputError: `text` is not made of the digits 0 to 9, or stands for too many rows.
    """
    if not (text.isascii() and text.isdecimal()):
        raise InputError(f"{name} is {shown(text)}; give auto, or the number of pieces, such as 40000")
    if len(text.lstrip("0")) > len(str(MOST_ROWS)):
        raise InputError(f"{name} is {shown(text)}; give {MOST_ROWS} or less")
    return check_int(name, int(text), 0, MOST_ROWS)


def shown(value: Any) -> str:
    """`value` as a message names it; never more than a few words of it."""
    if isinstance(value, int) and abs(value) > 10**60:
        return "a number of more than 60 digits"
    text = repr(value) if isinstance(value, (str, int, float, np.generic, type(None))) else ""
    if not text:
        return f"of type {type(value).__name__}"
    return text if len(text) <= 60 else text[:60] + "..."


def as_pieces(vocabulary: Sequence[str] | Mapping[str, int]) -> list[str]:
    """Pieces by id, of a list or of a dictionary from piece to id.

    Raises:
        InputError: no such thing; a piece is not a str or holds half of a surrogate pair; ids of a dictionary
            that are not 0 to n - 1.
    """
    if isinstance(vocabulary, Mapping):
        pieces = _by_id(vocabulary)
    elif isinstance(vocabulary, (str, bytes)) or not isinstance(vocabulary, (Sequence, np.ndarray)):
        raise InputError(
            f"the vocabulary is {shown(vocabulary)}; give a list of pieces, or a dictionary from piece to id"
        )
    else:
        pieces = list(vocabulary)
    try:
        "".join(pieces).encode()
    except (TypeError, UnicodeEncodeError):
        for number, piece in enumerate(pieces):
            check_text(f"piece {number}", piece)
    return pieces


def check_text(name: str, text: Any) -> None:
    """Raise InputError if `text` is not a str, or not one that UTF-8 can hold."""
    if not isinstance(text, str):
        raise InputError(f"{name} is {shown(text)}, not a str")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{name} holds half of a surrogate pair at character {error.start}") from error


def _by_id(ids: Mapping[str, int]) -> list[str]:
    pieces: list[str | None] = [None] * len(ids)
    for piece, number in ids.items():
        if isinstance(number, bool) or not isinstance(number, (int, np.integer)):
            raise InputError(f"the id of {shown(piece)} is {shown(number)}; give a whole number")
        if not 0 <= number < len(ids):
            raise InputError(
                f"the id of {shown(piece)} is {shown(int(number))}; {len(ids)} pieces have the ids 0 to "
                f"{len(ids) - 1}, without a gap"
            )
        if (other := pieces[number]) is not None:
            raise InputError(f"{shown(other)} and {shown(piece)} both have the id {number}")
        pieces[number] = piece
    return pieces  # type: ignore[return-value]  # no gap: as many places as pieces
