"""Documents -> pieces -> rows of `seq_len` tokens, without padding where it can be helped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def ranges(starts: npt.NDArray[Any], lengths: npt.NDArray[Any]) -> Ints:
    """Concatenate `arange(start, start + length)` over all pairs; int64 [sum of lengths]."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(total)


@dataclass(frozen=True)
class Pieces:
    """Stretches of documents: first token (index into all tokens), length and document; int64 [n] each."""

    start: Ints
    length: Ints
    document: Ints


def cut_documents(offsets: npt.NDArray[np.int64], documents: Ints, longest: int) -> Pieces:
    """Cut documents into pieces of `longest` tokens; the last piece of a document holds what is left.

    Args:
        offsets: int64 [n_documents + 1], document i holds the tokens offsets[i] to offsets[i + 1].
        documents: int64, ascending, the documents to cut.
        longest: tokens of a piece, at least 1.
    """
    begin = np.asarray(offsets[documents])
    size = np.asarray(offsets[documents + 1]) - begin
    count = -(-size // longest)
    index = ranges(np.zeros_like(count), count)
    start = np.repeat(begin, count) + index * longest
    length = np.minimum(longest, np.repeat(size, count) - index * longest)
    return Pieces(start, length, np.repeat(documents, count))


def best_fit(lengths: Ints, capacity: int) -> tuple[Ints, Ints, int]:
    """Pack items into bins, best fit decreasing.

    Works on groups of equal lengths and equal free space, so that the cost is O(n + capacity^2) (the idea of
    histogram packing, Krell et al. 2021, arXiv 2107.02027); the result is that of best fit item by item.

    Args:
        lengths: int64 [n], each between 1 and `capacity`.
        capacity: size of a bin.

    Returns:
        bin int64 [n], place of the item's start in its bin int64 [n], number of bins.
    """
    bins = np.empty(len(lengths), np.int64)
    places = np.empty(len(lengths), np.int64)
    by_length = np.argsort(lengths, kind="stable")
    bounds = np.searchsorted(lengths[by_length], np.arange(capacity + 2))
    space: dict[int, list[Ints]] = {}  # free space -> bins with it
    n_bins = 0
    for length in range(capacity, 0, -1):
        items = by_length[bounds[length] : bounds[length + 1]]
        free = iter(sorted(size for size in space if size >= length))
        while len(items):
            size = next(free, capacity)
            per_bin = size // length
            wanted = -(-len(items) // per_bin)
            if size == capacity:
                candidates = np.arange(n_bins, n_bins + wanted)
                n_bins += wanted
            else:
                candidates = np.concatenate(space.pop(size))
                if wanted < len(candidates):
                    space[size] = [candidates[wanted:]]
            used = candidates[:wanted]
            placed, items = items[: len(used) * per_bin], items[len(used) * per_bin :]
            slots = np.arange(len(placed))
            bins[placed] = used[slots // per_bin]
            places[placed] = capacity - size + slots % per_bin * length
            left_over = len(placed) - (len(used) - 1) * per_bin  # items in the last bin used
            for group, count in ((used[:-1], per_bin), (used[-1:], left_over)):
                if len(group) and size > count * length:
                    space.setdefault(size - count * length, []).append(group)
    return bins, places, n_bins


@dataclass(frozen=True)
class Spans:
    """Where the tokens of one step's rows come from and go to; int64 [n] each, `labels` int64 [rows] or None.

    A span fills the columns `column` to `column + length` of `row` with the tokens from `start` on, followed
    by [SEP]; `origin` is the column of its segment's [CLS], `segment` counts from 1.
    """

    row: Ints
    start: Ints
    length: Ints
    column: Ints
    origin: Ints
    segment: Ints
    token_type: Ints
    labels: Ints | None = None


class PackedRows:
    """All pieces of the documents, `[CLS] piece [SEP]` each, several to a row where they are short."""

    def __init__(self, pieces: Pieces, seq_len: int) -> None:
        row, column, self.n_rows = best_fit(pieces.length + 2, seq_len)
        order = np.argsort(row * seq_len + column)
        self._start, self._length, self._column = pieces.start[order], pieces.length[order], column[order]
        self._first = np.searchsorted(row[order], np.arange(self.n_rows + 1))

    def spans(self, rows: Ints, epochs: Ints) -> Spans:
        """The spans of `rows` (int64 [R]); they are the same in all epochs."""
        first = self._first[rows]
        count = self._first[rows + 1] - first
        index = ranges(first, count)
        origin = self._column[index]
        return Spans(
            row=np.repeat(np.arange(len(rows)), count),
            start=self._start[index],
            length=self._length[index],
            column=origin + 1,
            origin=origin,
            segment=ranges(np.ones_like(count), count),
            token_type=np.zeros_like(origin),
        )
