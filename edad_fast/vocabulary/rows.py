"""Truncation, windows, special tokens and padding as `transformers` does them, on flat arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

Ints = NDArray[np.int64]
Side = Literal["left", "right"]
Truncation = Literal["longest_first", "only_first", "only_second"]


def ranges(starts: Ints, lengths: Ints) -> Ints:
    """Concatenate the ranges [starts[i], starts[i] + lengths[i]): int64, flat."""
    ends = np.cumsum(lengths)
    result = np.arange(ends[-1] if len(ends) else 0)
    result += np.repeat(starts - (ends - lengths), lengths)
    return result


def kept_lengths(first: Ints, second: Ints, room: int, strategy: Truncation) -> tuple[Ints, Ints]:
    """How many tokens of each text, or pair of texts, are kept to have at most `room`; int64, [B] each.

    Args:
        first, second: lengths int64 [B]; `second` is 0 throughout where there are no pairs.
        room: tokens of a row without special tokens.
        strategy: `longest_first` takes from the longer text until both are equally long, then from both.

    Raises:
        InputError: `only_first` or `only_second`, and that text is not long enough (the text is named).
    """
    over = first + second - room
    cut = over > 0
    if room == 0:
        return np.zeros_like(first), np.zeros_like(second)
    if strategy == "longest_first":
        short, long = np.minimum(first, second), np.maximum(first, second)
        long = np.minimum(long, np.where(short > room, short, np.maximum(short, room - short)))
        both = short + long > room
        short = np.where(both, room // 2, short)
        long = np.where(both, room - room // 2, long)
        turned = first > second
        first_kept, second_kept = np.where(turned, long, short), np.where(turned, short, long)
        return np.where(cut, first_kept, first), np.where(cut, second_kept, second)
    target = first if strategy == "only_first" else second
    if (bad := np.flatnonzero(cut & (target <= over))).size:
        number = int(bad[0])
        raise InputError(
            f"text {number}: truncation={strategy!r} would have to remove {over[number]} of "
            f"{target[number]} tokens and leave none; raise max_length, or take 'longest_first'"
        )
    kept = target - np.maximum(over, 0)
    return (kept, second) if strategy == "only_first" else (first, kept)


def _windows(length: int, kept: int, stride: int, side: Side) -> list[tuple[int, int]]:
    """The parts that a text is cut into, (start, length) each; the one that is kept comes first."""
    if kept == length:
        return [(0, length)]
    if kept == 0:
        return [(0, 0), (0, length)]
    count = 1 - (kept - length) // (kept - stride)
    starts = [number * (kept - stride) for number in range(count)]
    if side == "right":
        return [(start, min(kept, length - start)) for start in starts]
    return [(max(0, length - start - kept), min(kept, length - start)) for start in starts]


@dataclass(frozen=True)
class Rows:
    """Which tokens stand in which row: R rows of B texts (pairs); all int64 [R].

    sample: number of the text. first, second: where the part of the text begins, counted within it;
    first_length, second_length: its tokens.
    """

    sample: Ints
    first: Ints
    first_length: Ints
    second: Ints
    second_length: Ints


def cut_rows(
    first: Ints,
    second: Ints,
    *,
    room: int | None,
    strategy: Truncation,
    stride: int = 0,
    side: Side = "right",
    overflow: bool = False,
) -> Rows:
    """Cut texts (pairs) to `room` tokens; with `overflow` what is cut off becomes further rows.

    The order of the rows of a pair is that of `tokenizers`: the row kept; for every further part of the first
    text all parts of the second; the first part of the first text with all further parts of the second.

    Args:
        first, second: lengths int64 [B].
        room: tokens of a row without special tokens; None: nothing is cut.
        stride: tokens that neighbouring parts have in common.
        side: where tokens are cut off.

    Raises:
        InputError: see `kept_lengths`; or a part would not be longer than `stride`.
    """
    if room is None:
        kept_first, kept_second = first, second
    else:
        kept_first, kept_second = kept_lengths(first, second, room, strategy)
    for length, kept in ((first, kept_first), (second, kept_second)):
        if (bad := np.flatnonzero((kept < length) & (kept > 0) & (kept <= stride))).size:
            raise InputError(
                f"text {bad[0]}: stride {stride} is not below the {kept[bad[0]]} tokens that are left of it "
                "beside special tokens; lower stride or raise max_length"
            )
    if not overflow:
        zero = np.zeros_like(first)
        starts = (zero, zero) if side == "right" else (first - kept_first, second - kept_second)
        return Rows(np.arange(len(first)), starts[0], kept_first, starts[1], kept_second)
    rows: list[tuple[int, int, int, int, int]] = []
    for number, lengths in enumerate(
        zip(first.tolist(), kept_first.tolist(), second.tolist(), kept_second.tolist(), strict=True)
    ):
        parts, others = _windows(*lengths[:2], stride, side), _windows(*lengths[2:], stride, side)
        rows.append((number, *parts[0], *others[0]))
        rows += [(number, *part, *other) for part in parts[1:] for other in others]
        rows += [(number, *parts[0], *other) for other in others[1:]]
    table = np.array(rows, np.int64).reshape(-1, 5)
    return Rows(*table.T)


def whole_rows(lengths: Ints) -> Rows:
    """A row for each text of `lengths` tokens."""
    zero = np.zeros_like(lengths)
    return Rows(np.arange(len(lengths)), zero, lengths, zero, zero)


class Layout:
    """Places of tokens in a flat array, row after row, with special tokens and padding.

    Args:
        rows: what each row holds.
        first_offsets, second_offsets: int64 [B + 1], where each text's tokens begin in their flat arrays.
        special: [CLS] first [SEP], and second [SEP] with `pair`.
        target: rows below this length are padded to it.
        side: where padding stands.

    Attributes:
        bounds: int64 [R + 1]; row i is [bounds[i], bounds[i + 1]).
    """

    def __init__(
        self,
        rows: Rows,
        first_offsets: Ints,
        second_offsets: Ints,
        *,
        special: bool,
        pair: bool,
        target: int = 0,
        side: Side = "right",
    ) -> None:
        extra = (3 if pair else 2) if special else 0
        self._lengths = rows.first_length + rows.second_length + extra
        widths = np.maximum(self._lengths, target)
        self.bounds: Ints = np.concatenate([np.zeros(1, np.int64), np.cumsum(widths)])
        base = self.bounds[:-1] + (widths - self._lengths if side == "left" else 0)
        self._base, self._special, self._pair = base, special, pair
        first = base + special
        self._middle = first + rows.first_length
        second = self._middle + special
        self._last = second + rows.second_length
        self._to_first = ranges(first, rows.first_length)
        self._to_second = ranges(second, rows.second_length) if pair else None
        self._from_first = _sources(rows.first, rows.first_length, rows.sample, first_offsets)
        self._from_second = _sources(rows.second, rows.second_length, rows.sample, second_offsets)

    @property
    def has_padding(self) -> bool:
        """Whether some row is padded."""
        return int(self._lengths.sum()) < int(self.bounds[-1])

    def tokens(
        self, first: NDArray[Any], second: NDArray[Any] | None, *, cls: int, sep: int, pad: int, dtype: Any
    ) -> NDArray[Any]:
        """Values of the tokens, special ones and padding: [bounds[-1]] or [bounds[-1], k].

        Args:
            first, second: values of the texts' tokens, flat: [N] or [N, k].
        """
        result = np.full((int(self.bounds[-1]), *first.shape[1:]), pad, dtype)
        result[self._to_first] = first[self._from_first]
        if second is not None and self._to_second is not None:
            result[self._to_second] = second[self._from_second]
        if self._special:
            result[self._base] = cls
            result[self._middle] = sep
            if self._pair:
                result[self._last] = sep
        return result

    def token_types(self) -> Ints:
        """1 at the second text and the [SEP] behind it, else 0."""
        result = np.zeros(int(self.bounds[-1]), np.int64)
        if self._to_second is not None:
            result[self._to_second] = 1
            if self._special:
                result[self._last] = 1
        return result

    def attention(self) -> Ints:
        """1 at tokens, 0 at padding."""
        if not self.has_padding:
            return np.ones(int(self.bounds[-1]), np.int64)
        result = np.zeros(int(self.bounds[-1]), np.int64)
        result[ranges(self._base, self._lengths)] = 1
        return result

    def sequences(self) -> Ints:
        """0 at tokens of the first text, 1 at those of the second, -1 at special tokens and padding."""
        result = np.full(int(self.bounds[-1]), -1, np.int64)
        result[self._to_first] = 0
        if self._to_second is not None:
            result[self._to_second] = 1
        return result


def _sources(starts: Ints, lengths: Ints, sample: Ints, offsets: Ints) -> Ints | slice:
    if len(sample) == len(offsets) - 1 and int(lengths.sum()) == int(offsets[-1]):
        return slice(None)  # nothing is cut off
    return ranges(offsets[sample] + starts, lengths) if len(offsets) > 1 else slice(None)
