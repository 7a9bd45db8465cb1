"""Pairs for next-sentence prediction (Devlin et al. 2019, arXiv 1810.04805, appendix A.1), one to a row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .hashing import Purpose, below, draw, row_keys
from .packing import Ints, Pieces, Spans

# Where a random second part starts is moved on to the next start of a word, at most this far.
_REACH = 16


class PairRows:
    """`[CLS] A [SEP] B [SEP]` from each piece of at least two tokens.

    A piece is cut in two at a word start drawn anew each epoch; in half of the rows, also drawn anew, B is a
    stretch of another document, as long as the true continuation (shorter where that document is shorter), so
    that neither length nor a broken word tells which it is. Pieces of one token are left out.

    Args:
        pieces: pieces of at most seq_len - 3 tokens.
        read: token ids at positions (any shape).
        continuation: bool [V], True for pieces that go on with a word.
        seed: decides cuts, labels and partners.

    Raises:
        InputError: fewer than two documents have two tokens or more.
    """

    def __init__(
        self,
        pieces: Pieces,
        read: Callable[[Ints], npt.NDArray[np.int32]],
        continuation: npt.NDArray[np.bool_],
        seed: int,
    ) -> None:
        usable = pieces.length >= 2
        self._start, self._length = pieces.start[usable], pieces.length[usable]
        documents, self._document = np.unique(pieces.document[usable], return_inverse=True)
        if len(documents) < 2:
            raise InputError(
                "next-sentence prediction needs two documents of two tokens or more, and the corpus has "
                f"{len(documents)}; separate the documents of a .txt file by blank lines, add text, or leave "
                "out --nsp"
            )
        self._first = np.searchsorted(self._document, np.arange(len(documents)))
        self._document_start = self._start[self._first]
        self._document_length = np.bincount(self._document, self._length).astype(np.int64)
        self._read, self._continuation, self._seed = read, continuation, seed
        self.n_rows = len(self._start)

    def _cut(self, rows: Ints, epochs: Ints) -> Ints:
        """Length of A: a word start inside the piece, or the middle of a piece that is one word."""
        length = self._length[rows, None]
        place = np.arange(int(length.max()))
        tokens = self._read(self._start[rows, None] + np.minimum(place, length - 1))
        allowed = (place >= 1) & (place < length) & ~self._continuation[tokens]
        score = draw(row_keys(self._seed, Purpose.PAIR_CUT, epochs, rows)[:, None], place)
        score[~allowed] = 0
        return np.where(allowed.any(axis=1), score.argmax(axis=1), length[:, 0] // 2)

    def spans(self, rows: Ints, epochs: Ints) -> Spans:
        """The spans and labels of `rows` (int64 [R]) in `epochs` (int64 [R])."""

        def number(purpose: Purpose) -> npt.NDArray[np.uint64]:
            return row_keys(self._seed, purpose, epochs, rows)

        cut = self._cut(rows, epochs)
        length = self._length[rows] - cut
        labels = below(number(Purpose.PAIR_LABEL), np.array(2))

        own = self._document[rows]
        other = self._document[below(number(Purpose.PAIR_DOCUMENT), np.array(self.n_rows))]
        other = np.where(other == own, (own + 1) % len(self._first), other)
        begin, size = self._document_start[other], self._document_length[other]
        shift = below(number(Purpose.PAIR_START), np.maximum(size - length - _REACH, 0) + 1)
        near = np.minimum(shift[:, None] + np.arange(_REACH), size[:, None] - 1)
        shift += (~self._continuation[self._read(begin[:, None] + near)]).argmax(axis=1)

        n = len(rows)
        second = np.where(labels == 1, begin + shift, self._start[rows] + cut)
        length = np.where(labels == 1, np.minimum(length, size - shift), length)
        return Spans(
            row=np.repeat(np.arange(n), 2),
            start=np.stack([self._start[rows], second], axis=1).ravel(),
            length=np.stack([cut, length], axis=1).ravel(),
            column=np.stack([np.ones_like(cut), cut + 2], axis=1).ravel(),
            origin=np.zeros(2 * n, np.int64),
            segment=np.ones(2 * n, np.int64),
            token_type=np.tile(np.array([0, 1]), n),
            labels=labels,
        )
