"""What `FastWordPieceTokenizer.__call__` returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import BatchEncoding

Details = Callable[[], tuple[NDArray[np.int64], NDArray[np.int64]]]


class EncodedBatch(BatchEncoding):
    """A mapping of model inputs, with words and sequences of the tokens on demand.

    It is a `transformers.BatchEncoding` without the objects of `tokenizers` behind it: `.to(device)`, keys
    and attributes work as usual; tokens are looked up by row.

    Args:
        data: lists, arrays or tensors by name.
        pieces: the tokenizer's pieces.
        row_ids: the token ids of a row, padding included.
        row_slice: where a row's tokens stand in the flat arrays of `details`.
        details: returns word numbers and sequence numbers of all tokens, flat, -1 for none.
    """

    def __init__(
        self,
        data: dict[str, Any],
        pieces: list[str],
        row_ids: NDArray[Any],
        row_offsets: NDArray[np.int64],
        details: Details,
        n_sequences: int,
    ) -> None:
        super().__init__(data, n_sequences=n_sequences)
        self._pieces, self._ids, self._offsets = pieces, row_ids, row_offsets
        self._details: Details | None = details
        self._words: NDArray[np.int64] | None = None
        self._sequences: NDArray[np.int64] | None = None

    def _resolve(self) -> None:
        if self._details is not None:
            self._words, self._sequences = self._details()
            self._details = None

    def __getstate__(self) -> dict[str, Any]:
        self._resolve()
        return self.__dict__.copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @property
    def is_fast(self) -> bool:
        """True: words and offsets are known."""
        return True

    def _row(self, values: NDArray[Any], batch_index: int) -> NDArray[Any]:
        count = len(self._offsets) - 1
        if not -count <= batch_index < count:
            raise IndexError(f"row {batch_index} of {count}")
        number = batch_index % count
        return values[self._offsets[number] : self._offsets[number + 1]]

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The pieces of a row, special tokens and padding included."""
        return [self._pieces[number] for number in self._row(self._ids, batch_index)]

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of a row the number of its word within its text, None for added tokens.

        Words are BERT's pre-tokens, so that punctuation counts as words of its own; with
        `is_split_into_words` they are the words given.
        """
        self._resolve()
        assert self._words is not None
        return [None if n < 0 else n for n in self._row(self._words, batch_index).tolist()]

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of a row 0 (first text), 1 (second text) or None (added tokens)."""
        self._resolve()
        assert self._sequences is not None
        return [None if n < 0 else n for n in self._row(self._sequences, batch_index).tolist()]
