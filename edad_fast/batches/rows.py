"""Spans -> masked rows of one step: in the native core where it was built, else with numpy.

The numpy code here and in `masking` says what the rows are; csrc/batches/ computes the same numbers, a row at
a time and without Python's lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .masking import Bools, choose_positions, replace_tokens
from .packing import Ints, Spans, ranges
from .shards import TokenShards

try:
    from .. import _native
except ImportError:
    _native = None  # type: ignore[assignment]


class Rows(NamedTuple):
    """R rows of L tokens, M of them to predict, in S stretches: segments, and padding."""

    input_ids: Ints  # int64 [R, L], masked
    segment_ids: npt.NDArray[np.int32]  # [R, L]
    position_ids: Ints  # int64 [R, L]
    token_type_ids: Ints  # int64 [R, L]
    masked_positions: Ints  # int64 [M], flat into R * L, ascending
    masked_labels: Ints  # int64 [M], the tokens that stood there
    begins: Ints  # int64 [S], where stretches begin, flat into R * L
    masked: Ints  # int64 [R], tokens to predict
    begun: Ints  # int64 [R], stretches
    tokens: Ints  # int64 [R], non-padding tokens
    pairs: Ints  # int64 [R], pairs of tokens of one segment
    full: Bools  # bool [R], one segment without padding


@dataclass
class RowFiller:
    """Fills and masks rows of `seq_len` tokens.

    Args:
        shards: tokens.
        seq_len: tokens of a row, L.
        cls_id, sep_id, pad_id, mask_id: of the tokenizer.
        special: bool [V], tokens never masked; True for the four above.
        continuation: bool [V], tokens that go on with a word: whole words are masked. None: single tokens.
        probability: share of the tokens to predict.
        seed: decides the masks.
    """

    shards: TokenShards
    seq_len: int
    cls_id: int
    sep_id: int
    pad_id: int
    mask_id: int
    special: Bools
    continuation: Bools | None
    probability: float
    seed: int

    def __post_init__(self) -> None:
        self._replacements = np.flatnonzero(~self.special)

    def _damaged(self, error: IndexError) -> InputError:
        return InputError(
            f"{self.shards.directory}: {error}; the shards are damaged or of another vocabulary: delete the "
            "folder and run again to rebuild them"
        )

    def read(self, positions: Ints) -> npt.NDArray[np.int32]:
        """Tokens at `positions`; int32, any shape. Raises InputError where the shards are damaged."""
        try:
            if positions.size and positions.min() < 0:
                raise IndexError(f"there is no token number {positions.min()}")
            tokens = self.shards.read(positions)
        except IndexError as error:
            raise self._damaged(error) from error
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < len(self.special):
            bad = tokens[(tokens < 0) | (tokens >= len(self.special))].flat[0]
            outside = IndexError(f"token {bad} is outside the vocabulary of {len(self.special)}")
            raise self._damaged(outside)
        return tokens

    def fill(self, spans: Spans, epochs: Ints, rows: Ints) -> Rows:
        """Fill the rows that `spans` describes and mask them, as a pure function of (seed, epoch, row).

        Args:
            spans: of R rows, by ascending row and column.
            epochs, rows: int64 [R], keys of the masks.

        Raises:
            InputError: the shards are damaged.
        """
        if _native is None:
            return self._fill_numpy(spans, epochs, rows)
        try:
            return Rows(
                *_native.fill_rows(
                    *self.shards.files,
                    spans.row,
                    spans.start,
                    spans.length,
                    spans.column,
                    spans.origin,
                    spans.segment,
                    spans.token_type,
                    epochs,
                    rows,
                    seq_len=self.seq_len,
                    cls_id=self.cls_id,
                    sep_id=self.sep_id,
                    pad_id=self.pad_id,
                    mask_id=self.mask_id,
                    special=self.special,
                    continuation=self.continuation,
                    replacements=self._replacements,
                    probability=self.probability,
                    seed=self.seed & 0xFFFFFFFFFFFFFFFF,
                )
            )
        except IndexError as error:
            raise self._damaged(error) from error

    def _fill_numpy(self, spans: Spans, epochs: Ints, rows: Ints) -> Rows:
        n, length = len(rows), self.seq_len
        base = spans.row * length
        second = spans.origin + 1 != spans.column  # a pair's second half shares its segment's [CLS]
        first = np.where(second, spans.column, spans.origin)
        cover = spans.column + spans.length + 1 - first
        cells = ranges(base + first, cover)
        segment_ids = np.zeros((n, length), np.int32)
        segment_ids.reshape(-1)[cells] = np.repeat(spans.segment, cover)
        position_ids = np.zeros((n, length), np.int64)
        position_ids.reshape(-1)[cells] = ranges(first - spans.origin, cover)
        token_type_ids = np.zeros((n, length), np.int64)
        token_type_ids.reshape(-1)[cells] = np.repeat(spans.token_type, cover)
        input_ids = np.full((n, length), self.pad_id, np.int64)
        flat = input_ids.reshape(-1)
        flat[base + spans.origin] = self.cls_id
        flat[base + spans.column + spans.length] = self.sep_id
        flat[ranges(base + spans.column, spans.length)] = self.read(ranges(spans.start, spans.length))

        keys = (self.seed, epochs, rows)
        positions = choose_positions(input_ids, self.special, self.continuation, self.probability, *keys)
        labels = replace_tokens(input_ids, positions, self.mask_id, self._replacements, *keys)

        changes = np.ones((n, length), np.bool_)
        changes[:, 1:] = segment_ids[:, 1:] != segment_ids[:, :-1]
        sizes = np.zeros((n, length), np.int64)  # of segments, where they begin
        np.add.at(sizes, (spans.row, spans.origin), cover)
        return Rows(
            input_ids,
            segment_ids,
            position_ids,
            token_type_ids,
            masked_positions=positions,
            masked_labels=labels,
            begins=np.flatnonzero(changes),
            masked=np.bincount(positions // length, minlength=n),
            begun=changes.sum(axis=1),
            tokens=sizes.sum(axis=1),
            pairs=(sizes**2).sum(axis=1),
            full=(segment_ids == 1).all(axis=1),
        )
