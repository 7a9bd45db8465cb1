"""What `FastWordPieceTokenizer.__call__` returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import BatchEncoding
from transformers.tokenization_utils_base import CharSpan, TokenSpan


class Details(NamedTuple):
    """Of all tokens, flat, -1 for none: numbers of words and sequences int64 [N], characters int64 [N, 2]."""

    words: NDArray[np.int64]
    sequences: NDArray[np.int64]
    spans: NDArray[np.int64]


class EncodedBatch(BatchEncoding):
    """A mapping of model inputs, with words, sequences and characters of the tokens on demand.

    It is a `transformers.BatchEncoding` without the objects of `tokenizers` behind it: `.to(device)`, keys
    and attributes work as usual, and so do the methods that go from tokens to words and characters and back.
    They take (row, number), or the number alone for row 0; what is not there is None.

    Args:
        data: lists, arrays or tensors by name.
        pieces: the tokenizer's pieces.
        row_ids: the token ids of all rows, padding included, flat.
        row_offsets: int64 [R + 1], where each row begins in it and in the arrays of `details`.
        details: makes them when they are first asked for.
    """

    def __init__(
        self,
        data: dict[str, Any],
        pieces: list[str],
        row_ids: NDArray[Any],
        row_offsets: NDArray[np.int64],
        details: Callable[[], Details],
        n_sequences: int,
    ) -> None:
        super().__init__(data, n_sequences=n_sequences)
        self._pieces, self._ids, self._offsets = pieces, row_ids, row_offsets
        self._make_details: Callable[[], Details] | None = details
        self._details: Details | None = None

    def _known(self) -> Details:
        if self._details is None:
            assert self._make_details is not None
            self._details, self._make_details = self._make_details(), None
        return self._details

    def __getstate__(self) -> dict[str, Any]:
        self._known()
        return self.__dict__.copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, int):
            raise KeyError(
                f"{item}: rows have no tokenizers.Encoding here; take tokens({item}), word_ids({item}), "
                f"sequence_ids({item}), or the values of row {item} by key"
            )
        return super().__getitem__(item)

    @property
    def is_fast(self) -> bool:
        """True: words and characters of the tokens are known."""
        return True

    def _bounds(self, batch_index: int) -> slice:
        count = len(self._offsets) - 1
        if not -count <= batch_index < count:
            raise IndexError(f"row {batch_index} of {count}")
        number = batch_index % count
        return slice(int(self._offsets[number]), int(self._offsets[number + 1]))

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The pieces of a row, special tokens and padding included."""
        return [self._pieces[number] for number in self._ids[self._bounds(batch_index)]]

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of a row the number of its word within its text, None for added tokens.

        Words are BERT's pre-tokens, so that punctuation counts as words of its own; with
        `is_split_into_words` they are the words given.
        """
        return _or_none(self._known().words[self._bounds(batch_index)])

    def words(self, batch_index: int = 0) -> list[int | None]:
        """The same as `word_ids`."""
        return self.word_ids(batch_index)

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of a row 0 (first text), 1 (second text) or None (added tokens)."""
        return _or_none(self._known().sequences[self._bounds(batch_index)])

    # From tokens

    def _token(self, batch_or_token_index: int, token_index: int | None) -> int | None:
        """Place of a token in the flat arrays; None for an added token or one behind the end."""
        row, number = _row_and_number(batch_or_token_index, token_index)
        bounds = self._bounds(row)
        place = number + (bounds.stop if number < 0 else bounds.start)
        inside = bounds.start <= place < bounds.stop
        return place if inside and self._known().sequences[place] >= 0 else None

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> Any:
        """0 or 1: which text a token belongs to."""
        place = self._token(batch_or_token_index, token_index)
        return None if place is None else int(self._known().sequences[place])

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> Any:
        """The number of a token's word within its text."""
        place = self._token(batch_or_token_index, token_index)
        return None if place is None else int(self._known().words[place])

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """The characters of the original text that a token stems from."""
        place = self._token(batch_or_token_index, token_index)
        return None if place is None else CharSpan(*self._known().spans[place].tolist())

    # From words

    def _tokens_of(self, word: int, row: int, sequence_index: int) -> slice | None:
        bounds, known = self._bounds(row), self._known()
        found = (known.words[bounds] == word) & (known.sequences[bounds] == sequence_index)
        places = np.flatnonzero(found)
        if word < 0 or not len(places):
            return None
        return slice(bounds.start + int(places[0]), bounds.start + int(places[-1]) + 1)

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """The tokens of a word: the first, and the one behind the last."""
        row, word = _row_and_number(batch_or_word_index, word_index)
        if (tokens := self._tokens_of(word, row, sequence_index)) is None:
            return None
        start = self._bounds(row).start
        return TokenSpan(tokens.start - start, tokens.stop - start)

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> Any:
        """The characters of the original text that a word stems from, as a `CharSpan`."""
        row, word = _row_and_number(batch_or_word_index, word_index)
        if (tokens := self._tokens_of(word, row, sequence_index)) is None:
            return None
        spans = self._known().spans[tokens]
        return CharSpan(int(spans[0, 0]), int(spans[-1, 1]))

    # From characters

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> Any:
        """The token of a row that a character of the original text went into (the first of several)."""
        row, char = _row_and_number(batch_or_char_index, char_index)
        bounds, known = self._bounds(row), self._known()
        spans = known.spans[bounds]
        found = (spans[:, 0] <= char) & (char < spans[:, 1]) & (known.sequences[bounds] == sequence_index)
        places = np.flatnonzero(found)
        return int(places[0]) if len(places) else None

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> Any:
        """The number of the word that a character of the original text went into."""
        row, char = _row_and_number(batch_or_char_index, char_index)
        token = self.char_to_token(row, char, sequence_index)
        return None if token is None else self.token_to_word(row, token)


def _row_and_number(batch_or_number: int, number: int | None) -> tuple[int, int]:
    return (0, batch_or_number) if number is None else (batch_or_number, number)


def _or_none(numbers: NDArray[np.int64]) -> list[int | None]:
    return [None if number < 0 else number for number in numbers.tolist()]
