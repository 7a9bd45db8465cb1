"""Domain WordPieces: learned from word counts, merged behind a general vocabulary, all of them reachable."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from .. import _native
from ..corpus import EncodingErrors
from ..corpus.files import Source
from ..errors import InputError
from .checks import LARGEST, MOST_ROWS, as_pieces, check_int
from .counts import WordCounts
from .fast_tokenizer import FastWordPieceTokenizer
from .learning import Learning
from .merged import MergedVocabulary
from .normalization import MAX_WORD_CHARACTERS, Normalization, check_word_limit
from .reach import find_unreachable
from .tokenizer import build_tokenizer, read_vocab, vocabulary_of

Size = int | Literal["auto"]
Vocabulary = Sequence[str] | Mapping[str, int]
UNKNOWN = "[UNK]"
PREFIX = "##"

logger = logging.getLogger(__name__)


@contextmanager
def _bar(name: str, progress: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar as the native core calls it; None without one."""
    if not progress:
        yield None
        return
    with tqdm(desc=name, unit=" pieces", unit_scale=True) as bar:

        def show(done: int, size: int) -> None:
            bar.total = size
            bar.update(done - bar.n)

        yield show


def _as_counts(counts: Mapping[str, int]) -> WordCounts:
    return counts if isinstance(counts, WordCounts) else WordCounts(counts)


def learn_wordpieces(
    counts: Mapping[str, int],
    size: int,
    *,
    criterion: str = "frequency",
    min_frequency: int = 2,
    limit_alphabet: int = 1000,
    max_piece_characters: int = 0,
    progress: bool = False,
) -> list[str]:
    """Learn WordPieces from word counts; the same counts give the same pieces in the same order.

    Of equally good pairs the one whose left piece, then whose right piece comes first in the list is merged.
    Words of more than 100 characters, which BERT never splits, and words with a character outside the
    alphabet are left out. A smaller size gives the beginning of what a larger one gives.

    Args:
        size: most pieces to learn, single characters included.
        criterion, min_frequency, limit_alphabet, max_piece_characters: see `Learning`.
        progress: show a bar. Ctrl-C interrupts at any time.

    Returns:
        at most `size` pieces: single characters first, then merged pieces in learning order. Special tokens
            are never among them.

    Raises:
        InputError: an option out of range, or counts whose characters exceed 64 bits.
    """
    learning = Learning(criterion, min_frequency, limit_alphabet, max_piece_characters)
    return _learn(_as_counts(counts), size, learning, progress)


def _learn(counts: WordCounts, size: int, learning: Learning, progress: bool) -> list[str]:
    learning.check()
    check_int("size", size, 0)
    _check_total(counts)
    with _bar("learning", progress) as show:
        try:
            pieces, _ = _native.learn(
                counts.native,
                size,
                learning.criterion,
                learning.min_frequency,
                learning.max_piece_characters,
                learning.limit_alphabet,
                prefix=PREFIX,
                max_word_chars=MAX_WORD_CHARACTERS,
                progress=show,
            )
        except (ValueError, RuntimeError) as error:
            raise InputError(f"no pieces can be learned from the word counts: {error}") from error
    return pieces


def _check_total(counts: WordCounts) -> None:
    """Raise InputError if the characters of all words, repetitions included, exceed 64 bits."""
    if counts.total_words > LARGEST // MAX_WORD_CHARACTERS:
        characters = sum(len(word) * count for word, count in counts.items()) + counts.long_words
        if characters > LARGEST:
            raise InputError(
                f"the counted words have {characters} characters in all, more than {LARGEST}; "
                "divide the counts by a common factor"
            )


def piece_counts(pieces: Vocabulary, counts: Mapping[str, int]) -> NDArray[np.int64]:
    """Return how often each piece occurs in the segmentation of the counted words: int64 [len(pieces)].

    Raises:
        InputError: `pieces` has no [UNK], or the words have too many characters for 64 bits.
    """
    pieces = as_pieces(pieces)
    table = _as_counts(counts)
    _check_total(table)
    ids, offsets = _segmenter(pieces).segment(list(table))
    result = np.zeros(len(pieces), np.int64)
    np.add.at(result, ids, np.repeat(table.counts_array(), np.diff(offsets)))
    result[_unknown(pieces)] += table.long_words
    return result


def _unknown(pieces: Sequence[str]) -> int:
    try:
        return pieces.index(UNKNOWN)
    except ValueError:
        raise InputError(f"the vocabulary has no {UNKNOWN}; a BERT vocabulary is needed") from None


def _segmenter(pieces: Sequence[str]) -> _native.Segmenter:
    return _native.Segmenter(list(pieces), _unknown(pieces), PREFIX, MAX_WORD_CHARACTERS)


def _check_size(general: Sequence[str], size: int) -> None:
    check_int("vocabulary size", size, 0, MOST_ROWS)
    if size < len(general):
        raise InputError(
            f"vocabulary size {size} is below the general vocabulary's {len(general)} pieces, "
            f"whose ids must stay; give {len(general)} or more"
        )


def _merge(
    general: Sequence[str],
    domain: Sequence[str],
    counts: WordCounts,
    size: Size,
    learning: Learning,
    progress: bool = False,
) -> MergedVocabulary:
    """As `merge_vocabularies`, but as many pieces as there are when `domain` does not suffice."""
    learning.check()
    _check_size(general, learning.max_size if size == "auto" else size)
    unknown = _unknown(general)
    _check_total(counts)
    with _bar("merging", progress) as show:
        try:
            found = _native.merge(
                list(general),
                list(domain),
                counts.native,
                size=None if size == "auto" else size,
                threshold=learning.threshold,
                interval=learning.interval,
                max_size=learning.max_size if size == "auto" else None,
                reuse_unused=learning.reuse_unused,
                pad_to_multiple=learning.pad_to_multiple,
                unk_id=unknown,
                prefix=PREFIX,
                max_chars=MAX_WORD_CHARACTERS,
                progress=show,
            )
        except (ValueError, RuntimeError) as error:
            raise InputError(f"the vocabularies cannot be merged: {error}") from error
    return MergedVocabulary.of(found, counts)


def merge_vocabularies(
    general: Vocabulary,
    domain: Sequence[str],
    counts: Mapping[str, int],
    *,
    size: int,
    reuse_unused: bool = False,
    pad_to_multiple: int = 0,
) -> MergedVocabulary:
    """Put domain pieces behind the general vocabulary, in learning order, up to exactly `size` pieces.

    Every added piece is produced by BERT's greedy segmentation for at least one word of `counts`; the others
    (such as "##eatmen", a stage on the way to "##eatment") are passed over. Ids of the general pieces stay.

    Args:
        reuse_unused, pad_to_multiple: see `Learning`; `size` is that before padding.

    Raises:
        InputError: `size` is below the general vocabulary, or `domain` does not hold enough useful pieces.
    """
    learning = Learning(reuse_unused=reuse_unused, pad_to_multiple=pad_to_multiple)
    merged = _merge(as_pieces(general), as_pieces(domain), _as_counts(counts), size, learning)
    if merged.end == "candidates" and _rows(merged) < size:
        raise _too_large(merged, size)
    return merged


def _rows(merged: MergedVocabulary) -> int:
    return len(merged.pieces) - merged.padding


def _too_large(merged: MergedVocabulary, size: int) -> InputError:
    rows = _rows(merged)
    taken = sum(row < merged.general_size for row in merged.added_rows)
    reused = f", {taken} of them [unused] rows with new pieces," if taken else ""
    return InputError(
        f"vocabulary size {size} is more than the corpus supports: {rows} pieces "
        f"({merged.general_size} to begin with{reused} and {rows - merged.general_size} new); "
        "give at most that, or more text"
    )


def extend_vocabulary(
    general: Vocabulary,
    counts: Mapping[str, int],
    size: Size,
    *,
    learning: Learning | None = None,
    progress: bool = False,
) -> MergedVocabulary:
    """Learn as many domain pieces as it takes for a merged vocabulary of exactly `size` pieces.

    Args:
        size: pieces before padding, or `auto` (see `Learning`). Where text runs out before `auto` is content,
            all useful pieces there are are taken; `MergedVocabulary.end` says so. With `reuse_unused` the
            general vocabulary's own size, too, asks for pieces: as many as it has rows [unusedN], or fewer
            where text runs out.

    Raises:
        InputError: `size` is below the general vocabulary or more than the corpus supports; an option out of
            range.
    """
    learning = learning or Learning()
    learning.check()
    pieces, table = as_pieces(general), _as_counts(counts)
    _check_size(pieces, learning.max_size if size == "auto" else size)
    wanted = max(learning.max_size if size == "auto" else size, 1)
    grows = size == "auto" or size > len(pieces) or learning.reuse_unused
    while True:
        learned = _learn(table, wanted, learning, progress) if grows else []
        merged = _merge(pieces, learned, table, size, learning, progress)
        if merged.end != "candidates":
            return merged
        if len(learned) < wanted:
            if size == "auto" or _rows(merged) == size:
                return merged
            raise _too_large(merged, size)
        wanted *= 2


def count_words(
    base_tokenizer: PreTrainedTokenizerFast,
    sources: Sequence[Source],
    *,
    text_field: str = "text",
    encoding_errors: EncodingErrors = "strict",
    max_line_mib: int = 64,
    n_threads: int | None = None,
    progress: bool = False,
) -> WordCounts:
    """Count the words of a corpus with the normaliser of `base_tokenizer`; see `WordCounts.from_files`."""
    return WordCounts.from_files(
        sources,
        normalization=Normalization.of(base_tokenizer),
        text_field=text_field,
        encoding_errors=encoding_errors,
        max_line_mib=max_line_mib,
        n_threads=n_threads,
        progress=progress,
    )


def build_vocabulary(
    base_tokenizer: PreTrainedTokenizerFast,
    sources: Sequence[Source],
    *,
    size: Size | None = None,
    vocab_file: str | os.PathLike[str] | None = None,
    text_field: str = "text",
    encoding_errors: EncodingErrors = "strict",
    max_line_mib: int = 64,
    learning: Learning | None = None,
    progress: bool = False,
) -> MergedVocabulary:
    """Return the vocabulary of a run: a ready file, `size` pieces learned from `sources`, or the base's own.

    A ready file is taken as it is, unreachable pieces included, with a warning: a published vocabulary stays
    what was published.

    Raises:
        InputError: as `extend_vocabulary`, `read_vocab` and `iter_documents`; or `vocab_file` does not start
            with the base tokenizer's pieces.
    """
    general = vocabulary_of(base_tokenizer)
    if vocab_file is not None:
        return _ready_vocabulary(base_tokenizer, general, vocab_file)
    learning = learning or Learning()
    if size is None or (size == len(general) and not learning.reuse_unused):
        return MergedVocabulary.ready(general, len(general))
    learning.check()
    check_word_limit(base_tokenizer)
    _check_size(general, learning.max_size if size == "auto" else size)
    counts = count_words(
        base_tokenizer,
        sources,
        text_field=text_field,
        encoding_errors=encoding_errors,
        max_line_mib=max_line_mib,
        progress=progress,
    )
    return extend_vocabulary(general, counts, size, learning=learning, progress=progress)


def _ready_vocabulary(
    base_tokenizer: PreTrainedTokenizerFast, general: Sequence[str], vocab_file: str | os.PathLike[str]
) -> MergedVocabulary:
    pieces = read_vocab(vocab_file)
    if len(pieces) < len(general):
        raise InputError(
            f"{vocab_file}: {len(pieces)} pieces, fewer than the teacher's {len(general)}; "
            "the teacher's pieces come first, unchanged, and new ones behind them"
        )
    for number, (piece, expected) in enumerate(zip(pieces, general, strict=False), start=1):
        if piece != expected:
            raise InputError(
                f"{vocab_file}: line {number} is {piece!r}, the teacher's vocabulary has {expected!r} there; "
                "the teacher's pieces come first, unchanged, and new ones behind them"
            )
    tokenizer = build_tokenizer(base_tokenizer, pieces)
    warn_of_unreachable(tokenizer, vocab_file, range(len(general), len(pieces)))
    return MergedVocabulary.ready(pieces, len(general))


def warn_of_unreachable(
    tokenizer: PreTrainedTokenizerFast, vocab_file: str | os.PathLike[str], rows: Sequence[int]
) -> None:
    """Warn of pieces, among the new `rows` of `vocab_file`, that no text produces."""
    fast = FastWordPieceTokenizer.from_tokenizer(tokenizer, split_special_tokens=True)
    dead = find_unreachable(fast, rows).unreachable
    if dead:
        logger.warning(
            "%s: no text produces %s of the %s new pieces, such as %r on line %d; their rows stay untrained "
            "(python -m edad_fast.vocab --check %s lists them)",
            vocab_file,
            f"{len(dead):,}",
            f"{len(rows):,}",
            fast.pieces[dead[0]],
            dead[0] + 1,
            vocab_file,
        )


def decompose(added: Sequence[str], general: Vocabulary) -> list[list[int]]:
    """Return for each new piece the ids of the general pieces that it splits into.

    Their mean is where its embedding starts. A piece "##x" is split as the inside of a word. A piece that the
    general vocabulary cannot spell gives the single id of [UNK]; no list is empty.
    """
    general = as_pieces(general)
    segmenter = _segmenter(general)
    result: list[list[int]] = [[] for _ in added]
    for continuation in (False, True):
        numbers = [n for n, piece in enumerate(added) if piece.startswith(PREFIX) == continuation]
        texts = [added[n][len(PREFIX) :] if continuation else added[n] for n in numbers]
        ids, offsets = segmenter.segment(texts, as_continuation=continuation)
        for place, number in enumerate(numbers):
            result[number] = ids[offsets[place] : offsets[place + 1]].tolist() or [general.index(UNKNOWN)]
    return result
