"""Domain WordPieces: learned from word counts, merged behind a general vocabulary, all of them reachable."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.trainers import WordPieceTrainer
from transformers import PreTrainedTokenizerFast

from ..corpus import EncodingErrors, iter_documents
from ..corpus.files import Source
from ..errors import InputError
from .counts import WordCounts
from .tokenizer import read_vocab, vocabulary_of

Criterion = Literal["frequency"]
UNKNOWN = "[UNK]"
try:
    from .._native import Segmenter
except ImportError as error:
    raise ImportError(
        "edad_fast._native is missing: install a C++20 compiler and install edad-fast again "
        "(the losses work without)"
    ) from error

PREFIX = "##"
MAX_WORD_CHARACTERS = 100
# The trainer takes words one by one, some 2 million a second, so that counts above this total are scaled
# down.
_MAX_WORDS_FED = 100_000_000


@dataclass(frozen=True)
class MergedVocabulary:
    """A general vocabulary (ids unchanged) followed by domain pieces.

    `removed_unreachable` counts the candidates that were left out because no word of the corpus makes use of
    them.
    """

    pieces: list[str]
    general_size: int
    removed_unreachable: int

    @property
    def added(self) -> list[str]:
        """The domain pieces, in the order of their ids."""
        return self.pieces[self.general_size :]


def learn_wordpieces(
    counts: Mapping[str, int],
    size: int,
    *,
    criterion: str = "frequency",
    min_frequency: int = 2,
    limit_alphabet: int = 1000,
) -> list[str]:
    """Learn WordPieces from word counts; the same counts give the same pieces in the same order.

    Pairs are merged by falling frequency (the trainer of `tokenizers`). Words of more than 100 characters,
    which BERT never splits, and words with a character outside the alphabet are left out.

    Args:
        size: most pieces to learn, single characters included.
        min_frequency: least count of a pair to be merged and of a character.
        limit_alphabet: most characters kept, by falling frequency.

    Returns:
        at most `size` pieces: single characters first, then merged pieces in learning order. Special tokens
            are
        never among them.

    Raises:
        InputError: unknown criterion.
    """
    if criterion != "frequency":
        raise InputError(f"criterion {criterion!r} is unknown; the one there is: frequency")
    scale = min(1.0, _MAX_WORDS_FED / max(1, sum(counts.values())))
    words = sorted((word, count) for word, count in counts.items() if 0 < len(word) <= MAX_WORD_CHARACTERS)
    characters: Counter[str] = Counter()
    for word, count in words:
        for character in word:
            characters[character] += count
    ranked = sorted(
        (c for c in characters if characters[c] >= min_frequency), key=lambda c: (-characters[c], c)
    )
    alphabet = set(ranked[:limit_alphabet])
    kept = [(word, round(count * scale)) for word, count in words if alphabet.issuperset(word)]
    kept = [(word, count) for word, count in kept if count]
    # The trainer numbers characters in hash order and breaks ties by number, so that its result would differ
    # from run to run. Special tokens are numbered first and in order: given as such, characters have fixed
    # numbers.
    starts = sorted({word[0] for word, _ in kept})
    inner = sorted({character for word, _ in kept for character in word[1:]})
    letters = [*starts, *(PREFIX + character for character in inner)]
    # Every character must be known by itself, or the trainer would drop it from its words.
    hidden = sorted(set(inner).difference(starts))
    trainer = WordPieceTrainer(
        vocab_size=size + len(hidden),
        min_frequency=max(1, round(min_frequency * scale)),
        special_tokens=[*letters, *hidden],
        continuing_subword_prefix=PREFIX,
        show_progress=False,
    )
    backend = Tokenizer(WordPiece(unk_token=UNKNOWN))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.train_from_iterator(_repeat(kept), trainer)
    ids = backend.get_vocab(with_added_tokens=False)
    skip = set(hidden)
    return [piece for piece in sorted(ids, key=ids.__getitem__) if piece not in skip][:size]


def _repeat(words: Sequence[tuple[str, int]], block: int = 1000) -> Iterator[str]:
    for word, count in words:
        for start in range(0, count, block):
            yield " ".join([word] * min(block, count - start))


def piece_counts(pieces: Sequence[str], counts: Mapping[str, int]) -> NDArray[np.int64]:
    """Return how often each piece occurs in the segmentation of the counted words: int64 [len(pieces)].

    Raises:
        InputError: `pieces` has no [UNK].
    """
    return _Proof(counts)(pieces)


class _Proof:
    """Counts pieces over all words with BERT's greedy longest-match-first segmentation."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        self._words = list(counts)
        self._counts = np.fromiter(counts.values(), np.int64, len(counts))

    def __call__(self, pieces: Sequence[str]) -> NDArray[np.int64]:
        ids, offsets = _segmenter(pieces).segment(self._words)
        # Float weights are exact up to 2**53 words.
        weights = np.repeat(self._counts, np.diff(offsets)).astype(np.float64)
        return np.bincount(ids, weights, minlength=len(pieces)).astype(np.int64)


def _segmenter(pieces: Sequence[str]) -> Segmenter:
    try:
        unknown = pieces.index(UNKNOWN)
    except ValueError:
        raise InputError(f"the vocabulary has no {UNKNOWN}; a BERT vocabulary is needed") from None
    return Segmenter(list(pieces), unknown, PREFIX, MAX_WORD_CHARACTERS)


def _merge(
    general: Sequence[str], domain: Sequence[str], counts: Mapping[str, int], size: int
) -> MergedVocabulary:
    """As `merge_vocabularies`, but as many pieces as there are when `domain` does not suffice."""
    if size < len(general):
        raise InputError(
            f"vocabulary size {size} is below the general vocabulary's {len(general)} pieces, "
            f"whose ids must stay; give {len(general)} or more"
        )
    known = set(general)
    candidates = [piece for piece in dict.fromkeys(domain) if piece not in known]
    proof = _Proof(counts)
    added: list[str] = []
    position = removed = 0
    # A piece that no word is split into can go without changing any word's pieces; a new piece can take over
    # the words of others. So prove all of them again after every addition; each candidate is added once,
    # hence this ends.
    while len(general) + len(added) < size and position < len(candidates):
        room = size - len(general) - len(added)
        added += candidates[position : position + room]
        position += room
        used = proof([*general, *added])[len(general) :] > 0
        removed += int(np.count_nonzero(~used))
        added = [piece for piece, is_used in zip(added, used, strict=True) if is_used]
    return MergedVocabulary([*general, *added], len(general), removed)


def merge_vocabularies(
    general: Sequence[str], domain: Sequence[str], counts: Mapping[str, int], *, size: int
) -> MergedVocabulary:
    """Put domain pieces behind the general vocabulary, in learning order, up to exactly `size` pieces.

    Every added piece is produced by BERT's greedy segmentation for at least one word of `counts`; the others
    (such as "##eatmen", a stage on the way to "##eatment") are passed over. Ids of the general pieces stay.

    Raises:
        InputError: `size` is below the general vocabulary, or `domain` does not hold enough useful pieces.
    """
    merged = _merge(general, domain, counts, size)
    if len(merged.pieces) < size:
        raise _too_large(merged, size)
    return merged


def _too_large(merged: MergedVocabulary, size: int) -> InputError:
    return InputError(
        f"vocabulary size {size} is more than the corpus supports: {len(merged.pieces)} pieces "
        f"({merged.general_size} general and {len(merged.added)} new); give at most that, or more text"
    )


def extend_vocabulary(
    general: Sequence[str],
    counts: Mapping[str, int],
    size: int,
    *,
    criterion: str = "frequency",
    min_frequency: int = 2,
    limit_alphabet: int = 1000,
) -> MergedVocabulary:
    """Learn as many domain pieces as it takes for a merged vocabulary of exactly `size` pieces.

    Raises:
        InputError: `size` is below the general vocabulary or more than the corpus supports; unknown
            criterion.
    """
    wanted = max(size, 1)
    while True:
        learned = (
            learn_wordpieces(
                counts,
                wanted,
                criterion=criterion,
                min_frequency=min_frequency,
                limit_alphabet=limit_alphabet,
            )
            if size > len(general)
            else []
        )
        merged = _merge(general, learned, counts, size)
        if len(merged.pieces) == size:
            return merged
        if len(learned) < wanted:
            raise _too_large(merged, size)
        wanted *= 2


def count_words(
    base_tokenizer: PreTrainedTokenizerFast,
    sources: Sequence[Source],
    *,
    text_field: str = "text",
    encoding_errors: EncodingErrors = "strict",
    max_line_mib: int = 64,
    progress: bool = False,
) -> WordCounts:
    """Count the words of a corpus with the normaliser of `base_tokenizer`; options as in `iter_documents`."""
    documents = iter_documents(
        sources, text_field=text_field, encoding_errors=encoding_errors, max_line_mib=max_line_mib
    )
    normalizer = base_tokenizer.backend_tokenizer.normalizer
    return WordCounts.from_documents(
        documents, lowercase=normalizer.lowercase, normalizer=normalizer, progress=progress
    )


def build_vocabulary(
    base_tokenizer: PreTrainedTokenizerFast,
    sources: Sequence[Source],
    *,
    size: int | None = None,
    vocab_file: str | os.PathLike[str] | None = None,
    text_field: str = "text",
    encoding_errors: EncodingErrors = "strict",
    max_line_mib: int = 64,
    criterion: str = "frequency",
    min_frequency: int = 2,
    limit_alphabet: int = 1000,
    progress: bool = False,
) -> MergedVocabulary:
    """Return the vocabulary of a run: a ready file, `size` pieces learned from `sources`, or the base's own.

    A ready file is taken as it is, unreachable pieces included: a published vocabulary stays what was
        published.

    Raises:
        InputError: as `extend_vocabulary`, `read_vocab` and `iter_documents`; or `vocab_file` does not start
            with the base tokenizer's pieces.
    """
    general = vocabulary_of(base_tokenizer)
    if vocab_file is not None:
        return _ready_vocabulary(general, vocab_file)
    if size is None or size == len(general):
        return MergedVocabulary(general, len(general), 0)
    if size < len(general):
        _merge(general, [], {}, size)
    counts = count_words(
        base_tokenizer,
        sources,
        text_field=text_field,
        encoding_errors=encoding_errors,
        max_line_mib=max_line_mib,
        progress=progress,
    )
    return extend_vocabulary(
        general, counts, size, criterion=criterion, min_frequency=min_frequency, limit_alphabet=limit_alphabet
    )


def _ready_vocabulary(general: Sequence[str], vocab_file: str | os.PathLike[str]) -> MergedVocabulary:
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
    return MergedVocabulary(pieces, len(general), 0)


def decompose(added: Sequence[str], general: Sequence[str]) -> list[list[int]]:
    """Return for each new piece the ids of the general pieces that it splits into.

    Their mean is where its embedding starts. A piece "##x" is split as the inside of a word. A piece that the
    general vocabulary cannot spell gives the single id of [UNK]; no list is empty.
    """
    segmenter = _segmenter(general)
    result: list[list[int]] = [[] for _ in added]
    for continuation in (False, True):
        numbers = [n for n, piece in enumerate(added) if piece.startswith(PREFIX) == continuation]
        texts = [added[n][len(PREFIX) :] if continuation else added[n] for n in numbers]
        ids, offsets = segmenter.segment(texts, as_continuation=continuation)
        for place, number in enumerate(numbers):
            result[number] = ids[offsets[place] : offsets[place + 1]].tolist() or [general.index(UNKNOWN)]
    return result
