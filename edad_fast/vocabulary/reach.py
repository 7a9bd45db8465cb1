"""Which pieces of a vocabulary no text at all can be split into.

A piece is *reachable* if some text has it among its tokens. This is decided, not guessed:

- A piece without "##" is reachable exactly if its own text is split into it alone. If the text stays one word
  as it is, the longest match is the piece. If normalisation or BERT's splitting change it (a capital letter
  in an uncased vocabulary, an accent, a hyphen, more than 100 characters), no text ends up as that word:
  what normalisation has done it leaves alone when it comes again, so that a word is always its own normal
  form (a test goes through the characters).
- A piece "##x" needs x inside a word. If "a" + x does not stay one word as it is, no word has x inside, for
  the same reason. Otherwise a word that is split into another piece and then "##x" is looked for, and shown.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .fast_tokenizer import FastWordPieceTokenizer

_UNUSED = re.compile(r"\[unused\d+\]")
_PREFIX = "##"


@dataclass(frozen=True)
class Reach:
    """Rows of a vocabulary by what texts can do with them.

    Attributes:
        witnesses: for every reachable row a word whose tokens it is among.
        unreachable: rows that no text produces, ascending.
        undecided: rows "##x" for which no word was found, though x can stand inside one; ascending.
        reserved: special tokens and rows [unusedN], which are not meant to come from text.
    """

    witnesses: dict[int, str] = field(repr=False)
    unreachable: list[int]
    undecided: list[int]
    reserved: list[int]


def _single(offsets: NDArray[np.int64], length: int) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = np.diff(offsets) == length
    return found


def find_unreachable(tokenizer: FastWordPieceTokenizer, rows: Sequence[int] | None = None) -> Reach:
    """Sort `rows` of a vocabulary (all by default) into reachable and unreachable ones.

    Raises:
        InputError: the vocabulary has no [UNK], or holds a piece twice.
    """
    pieces = tokenizer.pieces
    special = set(tokenizer.all_special_tokens)
    wanted = range(len(pieces)) if rows is None else rows
    reserved = {row for row in wanted if pieces[row] in special or _UNUSED.fullmatch(pieces[row])}
    asked = set(wanted).difference(reserved)
    starts = [row for row, piece in enumerate(pieces) if not piece.startswith(_PREFIX)]
    whole = _split_into_themselves(tokenizer, starts)
    possible = _inside_a_word(tokenizer, sorted(row for row in asked if pieces[row].startswith(_PREFIX)))
    witnesses = {row: pieces[row] for row in whole if row in asked}
    witnesses |= _followed_by(tokenizer, [row for row in whole if pieces[row] not in special], possible)
    undecided = sorted(set(possible).difference(witnesses))
    unreachable = sorted(asked.difference(witnesses, undecided))
    return Reach(witnesses, unreachable, undecided, sorted(reserved))


def _split_into_themselves(tokenizer: FastWordPieceTokenizer, rows: list[int]) -> list[int]:
    ids, offsets = tokenizer.settings.encoder(literals=False).encode([tokenizer.pieces[row] for row in rows])
    numbers = np.flatnonzero(_single(offsets, 1))
    same = ids[offsets[numbers]] == np.array(rows, np.int64)[numbers]
    return [rows[number] for number in numbers[same].tolist()]


def _inside_a_word(tokenizer: FastWordPieceTokenizer, rows: list[int]) -> list[int]:
    """Those of the pieces "##x" for which "a" + x is one word as it stands."""
    rows = [row for row in rows if tokenizer.pieces[row] != _PREFIX]
    bodies = [tokenizer.pieces[row].removeprefix(_PREFIX) for row in rows]
    # With these pieces only the word "a" + x itself is split into "a" and "##x".
    encoder = tokenizer.settings.with_pieces(["[UNK]", "a", *(_PREFIX + body for body in bodies)]).encoder(
        literals=False
    )
    ids, offsets = encoder.encode(["a" + body for body in bodies])
    numbers = np.flatnonzero(_single(offsets, 2))
    same = (ids[offsets[numbers]] == 1) & (ids[offsets[numbers] + 1] == numbers + 2)
    return [rows[number] for number in numbers[same].tolist()]


def _followed_by(tokenizer: FastWordPieceTokenizer, starts: list[int], rows: list[int]) -> dict[int, str]:
    """For pieces "##x" a word that is split into some piece of `starts` and "##x"."""
    encoder = tokenizer.settings.encoder(literals=False)
    found: dict[int, str] = {}
    left = rows
    # Rare characters first: few pieces go on with them, so that they leave most of the rest alone.
    for start in sorted(starts, key=lambda row: (len(tokenizer.pieces[row]), -row)):
        if not left:
            break
        words = [tokenizer.pieces[start] + tokenizer.pieces[row].removeprefix(_PREFIX) for row in left]
        ids, offsets = encoder.encode(words)
        numbers = np.flatnonzero(_single(offsets, 2))
        same = (ids[offsets[numbers]] == start) & (ids[offsets[numbers] + 1] == np.array(left)[numbers])
        hits = set(numbers[same].tolist())
        found |= {left[number]: words[number] for number in hits}
        left = [row for number, row in enumerate(left) if number not in hits]
    return found
