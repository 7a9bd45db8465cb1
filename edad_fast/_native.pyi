"""The compiled core (csrc/): words of text, WordPiece vocabularies and ids, rows of training steps; in C++20.

All of it runs without the GIL. Options that several of these take:

    compat: "hf" normalises as the `tokenizers` library, "slow" as Google's original code. Half of a surrogate
        pair in a str is an error with the first, and removed with the second.
    lowercase, strip_accents, handle_chinese_chars, clean_text: as in BERT's normaliser; strip_accents=None
        stands for the value of lowercase.
    max_chars: a word of more characters, counted after normalisation, is never split into pieces.
    n_threads: the result does not depend on it.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

_Ids = NDArray[np.int32]
_Offsets = NDArray[np.int64]
_Progress = Callable[[int, int], bool | None] | None

class Segmenter:
    """Greedy longest-match-first WordPiece segmentation of pre-tokens.

    A piece's id is its place in `pieces`. A word of more than `max_chars` characters, or one without a full
    segmentation, becomes the single id `unk_id`; an empty word becomes no id.

    Raises:
        ValueError: a piece is empty or appears twice, or `unk_id` is not a place in `pieces`.
    """

    def __init__(self, pieces: list[str], unk_id: int, prefix: str = "##", max_chars: int = 100) -> None: ...
    def segment(self, words: list[str], as_continuation: bool = False) -> tuple[_Ids, _Offsets]:
        """Segment `words`; the ids of word i are `ids[offsets[i]:offsets[i + 1]]`.

        With `as_continuation` each word stands inside a longer one, so that its first piece, too, is a
        continuation ("##") piece.

        Returns:
            ids: int32, flat.
            offsets: int64 [len(words) + 1].

        Raises:
            TypeError: `words` is not a list, or one of its items is not a str.
            UnicodeEncodeError: a word holds a lone surrogate, which UTF-8 cannot hold.
        """

class Encoder:
    """Texts to WordPiece ids: normalise, split into words, greedy longest match.

    Threads can share one; it keeps the words it met in caches of constant size.

    Args:
        pieces: a piece's id is its place.
        unk_id: of the unknown token.
        prefix: of continuation pieces.
        literals: special tokens and their ids: found in the raw text as they stand, leftmost and longest
            first.

    Raises:
        ValueError: a piece is empty or appears twice, an id is no place in `pieces`, a literal is empty;
            unknown `compat`.
    """

    def __init__(
        self,
        pieces: list[str],
        *,
        unk_id: int,
        compat: str = "hf",
        lowercase: bool = True,
        strip_accents: bool | None = None,
        handle_chinese_chars: bool = True,
        clean_text: bool = True,
        prefix: str = "##",
        max_chars: int = 100,
        literals: list[tuple[str, int]] = [],
    ) -> None: ...
    def encode(self, texts: Sequence[str], n_threads: int = 1) -> tuple[_Ids, _Offsets]:
        """Encode texts, without [CLS] and [SEP]; text i is `ids[row_offsets[i]:row_offsets[i + 1]]`.

        Returns:
            ids: int32 [N].
            row_offsets: int64 [len(texts) + 1].

        Raises:
            TypeError: an item of `texts` is not a str.
            ValueError: a text holds half of a surrogate pair, with compat="hf".
        """

    def encode_with_offsets(
        self, texts: Sequence[str], n_threads: int = 1
    ) -> tuple[_Ids, _Offsets, NDArray[np.int32], NDArray[np.int32]]:
        """As `encode`; moreover the characters that each token stems from, and its word.

        Returns:
            ids, row_offsets: as `encode`.
            spans: int32 [N, 2], characters of the original text, the end excluded.
            words: int32 [N], number of the word within its text.
        """

    def encode_utf8(
        self, data: Buffer, offsets: NDArray[np.integer[Any]], n_threads: int = 1
    ) -> tuple[_Ids, _Offsets]:
        """As `encode`; text i is the UTF-8 `data[offsets[i]:offsets[i + 1]]`, invalid bytes count as U+FFFD.

        Raises:
            TypeError: `data` is no contiguous buffer of bytes.
            ValueError: `offsets` do not ascend within `data`.
        """

    def encode_utf8_with_offsets(
        self, data: Buffer, offsets: NDArray[np.integer[Any]], n_threads: int = 1
    ) -> tuple[_Ids, _Offsets, NDArray[np.int32], NDArray[np.int32]]:
        """As `encode_utf8` and `encode_with_offsets`."""

class WordCounter:
    """Counts the words of texts as the encoder splits them; memory: a table of distinct words per thread.

    Raises:
        ValueError: unknown `compat`, `max_chars` below 16.
    """

    def __init__(
        self,
        *,
        compat: str = "hf",
        lowercase: bool = True,
        strip_accents: bool | None = None,
        handle_chinese_chars: bool = True,
        clean_text: bool = True,
        max_chars: int = 100,
    ) -> None: ...
    def add(self, texts: Sequence[str], n_threads: int = 1) -> None:
        """Count the words of `texts`; raises as `Encoder.encode`, and then what was counted is lost."""

    def add_utf8(self, data: Buffer, n_threads: int = 1) -> None:
        """Count the words of one UTF-8 text; invalid bytes count as U+FFFD."""

    def finish(self) -> WordCounts:
        """Return the counts of all that was added; the counter is empty afterwards."""

class WordCounts:
    """Distinct words by ascending UTF-8 bytes, and their 64-bit counts; immutable.

    `long_words` is the number of words of too many characters to be split: counted, not kept.
    """

    @staticmethod
    def from_items(words: list[str], counts: NDArray[np.int64], long_words: int = 0) -> WordCounts:
        """Counts of equal words add up.

        Raises:
            ValueError: an empty word, a count below 1, another number of counts than of words, or a total
                that exceeds 64 bits.
        """

    @staticmethod
    def load(path: str | os.PathLike[str]) -> tuple[WordCounts, str]:
        """Read a table and its header.

        Raises:
            RuntimeError: the file cannot be read or is damaged; it is named.
        """

    @staticmethod
    def merge(lists: list[WordCounts]) -> WordCounts:
        """Return the sums; ValueError if their total exceeds 64 bits."""

    def save(self, path: str | os.PathLike[str], header: str = "{}") -> None:
        """Write a table (format: csrc/wordpiece/count_list.hpp); not atomic."""

    def __len__(self) -> int: ...
    def __eq__(self, other: object) -> bool: ...
    @property
    def total(self) -> int:
        """Words counted, repetitions and long words included."""

    @property
    def long_words(self) -> int:
        """Words of too many characters."""

    def get(self, word: str, default: int = 0) -> int:
        """Return the count of `word`."""

    def words(self, start: int = 0, stop: int | None = None) -> list[str]:
        """Return words `start` to `stop`, as a slice takes them."""

    def counts(self) -> NDArray[np.int64]:
        """Return a copy of the counts: int64 [len(self)]."""

def learn(
    counts: WordCounts,
    size: int,
    criterion: str = "frequency",
    min_frequency: int = 2,
    max_piece_chars: int = 0,
    alphabet_limit: int = 1000,
    prefix: str = "##",
    max_word_chars: int = 100,
    progress: _Progress = None,
) -> tuple[list[str], NDArray[np.int64]]:
    """Learn at most `size` WordPieces; rules and order: csrc/wordpiece/learn.hpp.

    Args:
        criterion: "frequency", f(ab), or "likelihood", f(ab) / (f(a) f(b)).
        max_piece_chars: 0 for no limit.
        progress: called with (pieces so far, pieces wanted); False stops.

    Returns:
        pieces, and int64 counts: of a letter its occurrences, of others those of the pair when merged.

    Raises:
        ValueError: an argument out of range.
        RuntimeError: stopped by `progress`. KeyboardInterrupt passes through.
    """

def merge(
    general: list[str],
    candidates: list[str],
    counts: WordCounts,
    *,
    size: int | None = None,
    threshold: float = 0.01,
    interval: int = 10000,
    max_size: int | None = None,
    reuse_unused: bool = False,
    pad_to_multiple: int = 0,
    unk_id: int = 0,
    prefix: str = "##",
    max_chars: int = 100,
    progress: _Progress = None,
) -> dict[str, Any]:
    """Put candidates behind a general vocabulary; rules: csrc/wordpiece/merge.hpp.

    Args:
        size: rows wanted; None lets AdaLM's rule decide by `threshold`, `interval` and `max_size`.

    Returns:
        pieces: list[str]. counts: int64, of each piece in the words as finally split. general_size.
        added: int32, rows of the new pieces in learning order. passed_over. padding: rows.
        end: "size", "threshold", "max_size" or "candidates". curve, steps: dictionaries of arrays size and
        tokens (int64), log_likelihood and gain (float64).

    Raises:
        ValueError: an argument out of range, a piece that appears twice.
        RuntimeError: stopped by `progress`. KeyboardInterrupt passes through.
    """

def fill_rows(
    files: tuple[NDArray[np.int32], ...],
    tokens_per_file: int,
    row: NDArray[np.int64],
    start: NDArray[np.int64],
    length: NDArray[np.int64],
    column: NDArray[np.int64],
    origin: NDArray[np.int64],
    segment: NDArray[np.int64],
    token_type: NDArray[np.int64],
    epochs: NDArray[np.int64],
    rows: NDArray[np.int64],
    *,
    seq_len: int,
    cls_id: int,
    sep_id: int,
    pad_id: int,
    mask_id: int,
    special: NDArray[np.bool_],
    continuation: NDArray[np.bool_] | None,
    replacements: NDArray[np.int64],
    probability: float,
    seed: int,
) -> tuple[Any, ...]:
    """Fill and mask rows: arguments and results as in `edad_fast.batches.rows`.

    Args:
        files, tokens_per_file: as `TokenShards.files`; never copied.
        row, start, length, column, origin, segment, token_type: of `Spans`.

    Returns:
        The fields of `Rows`, in their order.

    Raises:
        IndexError: a span leaves the files, or a token the vocabulary: damaged shards.
        TypeError: an item of `files` is no contiguous int32 array.
        ValueError: sizes that do not fit together.
    """
