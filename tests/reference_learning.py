"""Learning and merging vocabularies re-stated plainly: what the native core is compared with.

Everything is counted afresh at every step. `tokenizers_pieces` learns with the trainer of `tokenizers`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.trainers import WordPieceTrainer

PREFIX = "##"
UNKNOWN = "[UNK]"


# Learning


def usable_words(
    counts: Mapping[str, int], min_frequency: int, alphabet_limit: int, max_word_chars: int = 100
) -> dict[str, int]:
    """Words that are short enough and made of kept characters only, sorted."""
    words = {word: counts[word] for word in sorted(counts) if len(word) <= max_word_chars}
    characters: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            characters[character] += count
    frequent = [character for character in characters if characters[character] >= min_frequency]
    kept = set(sorted(frequent, key=lambda c: (-characters[c], c))[:alphabet_limit])
    return {word: count for word, count in words.items() if kept.issuperset(word)}


def letters_of(words: Mapping[str, int]) -> list[str]:
    """The letters that begin words, then the prefixed ones inside, by code point each."""
    inside = sorted({character for word in words for character in word[1:]})
    return [*sorted({word[0] for word in words}), *(PREFIX + character for character in inside)]


def naive_pieces(
    counts: Mapping[str, int],
    size: int,
    criterion: str = "frequency",
    min_frequency: int = 2,
    max_piece_chars: int = 0,
    alphabet_limit: int = 1000,
    max_word_chars: int = 100,
) -> tuple[list[str], list[int]]:
    """Pieces and their counts; all pairs and symbols are counted again before every merge."""
    words = usable_words(counts, min_frequency, alphabet_limit, max_word_chars)
    pieces = letters_of(words)
    ids = {piece: number for number, piece in enumerate(pieces)}
    lengths = [1] * len(pieces)
    split = {word: [ids[word[0]], *(ids[PREFIX + c] for c in word[1:])] for word in words}
    singles = _symbol_counts(split, words)
    piece_counts = [singles[number] for number in range(len(pieces))]
    while len(pieces) < size:
        singles = _symbol_counts(split, words)
        pairs: Counter[tuple[int, int]] = Counter()
        for word, symbols in split.items():
            for pair in pairwise(symbols):
                pairs[pair] += words[word]

        def score(pair: tuple[int, int], pairs: Counter[tuple[int, int]] = pairs) -> Fraction:
            if criterion == "frequency":
                return Fraction(pairs[pair])
            return Fraction(pairs[pair], singles[pair[0]] * singles[pair[1]])  # noqa: B023

        allowed = [
            (left, right)
            for (left, right), count in pairs.items()
            if count >= min_frequency
            and (not max_piece_chars or lengths[left] + lengths[right] <= max_piece_chars)
        ]
        if not allowed:
            break
        left, right = min(allowed, key=lambda pair: (-score(pair), pair))
        spelled = pieces[left] + pieces[right].removeprefix(PREFIX)
        if spelled not in ids:
            ids[spelled] = len(pieces)
            pieces.append(spelled)
            lengths.append(lengths[left] + lengths[right])
            piece_counts.append(pairs[left, right])
        for word in split:
            split[word] = _merged(split[word], left, right, ids[spelled])
    return pieces[:size], piece_counts[:size]


def _symbol_counts(split: Mapping[str, list[int]], words: Mapping[str, int]) -> Counter[int]:
    singles: Counter[int] = Counter()
    for word, symbols in split.items():
        for symbol in symbols:
            singles[symbol] += words[word]
    return singles


def _merged(symbols: list[int], left: int, right: int, new: int) -> list[int]:
    result: list[int] = []
    place = 0
    while place < len(symbols):
        if symbols[place : place + 2] == [left, right]:
            result.append(new)
            place += 2
        else:
            result.append(symbols[place])
            place += 1
    return result


def tokenizers_pieces(
    counts: Mapping[str, int], size: int, min_frequency: int = 2, alphabet_limit: int = 1000
) -> list[str]:
    """Pieces by frequency, learned by the trainer of `tokenizers`, made deterministic.

    The trainer numbers characters in hash order and breaks ties by number. Special tokens are numbered first
    and in order: given as such, characters have fixed numbers. Every character must be known by itself, or
    the trainer would drop it from its words: those that never begin a word are given too, then taken out.
    """
    words = usable_words(counts, min_frequency, alphabet_limit)
    letters = letters_of(words)
    hidden = sorted({c for word in words for c in word[1:]}.difference(word[0] for word in words))
    trainer = WordPieceTrainer(
        vocab_size=size + len(hidden),
        min_frequency=min_frequency,
        special_tokens=[*letters, *hidden],
        continuing_subword_prefix=PREFIX,
        show_progress=False,
    )
    backend = Tokenizer(WordPiece(unk_token=UNKNOWN))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.train_from_iterator(_repeat(words), trainer)
    ids = backend.get_vocab(with_added_tokens=False)
    return [piece for piece in sorted(ids, key=ids.__getitem__) if piece not in set(hidden)][:size]


def _repeat(words: Mapping[str, int], block: int = 1000) -> Iterator[str]:
    for word, count in words.items():
        for start in range(0, count, block):
            yield " ".join([word] * min(block, count - start))


# Merging


def greedy(word: str, pieces: set[str], max_chars: int = 100) -> list[str]:
    """Greedy longest-match-first segmentation, as BERT does it."""
    if len(word) > max_chars:
        return [UNKNOWN]
    result, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = (PREFIX if start else "") + word[start:end]
            if piece in pieces:
                result.append(piece)
                start = end
                break
        else:
            return [UNKNOWN]
    return result


def histogram(
    pieces: Sequence[str], counts: Mapping[str, int], long_words: int = 0, max_chars: int = 100
) -> Counter[str]:
    """How often each piece occurs in the segmentation of all words."""
    known = set(pieces)
    tokens: Counter[str] = Counter({UNKNOWN: long_words}) if long_words else Counter()
    for word, count in counts.items():
        for piece in greedy(word, known, max_chars):
            tokens[piece] += count
    return tokens


def log_likelihood(tokens: Mapping[str, int]) -> float:
    """|D| P(D) of AdaLM: the sum over tokens of c ln(c / C)."""
    total = sum(tokens.values())
    return math.fsum(count * math.log(count / total) for count in tokens.values() if count)


@dataclass
class NaiveMerge:
    """What `naive_merge` finds; `steps` holds rows, tokens, log-likelihood and gain of each look."""

    pieces: list[str]
    added: list[str]
    passed_over: int
    end: str
    curve: list[tuple[int, int, float]] = field(default_factory=list)
    steps: list[tuple[int, int, float, float]] = field(default_factory=list)


def naive_merge(
    general: Sequence[str],
    candidates: Sequence[str],
    counts: Mapping[str, int],
    size: int | None,
    *,
    threshold: float = 0.01,
    interval: int = 10_000,
    max_size: int = 10**9,
    reuse_unused: bool = False,
    long_words: int = 0,
    max_chars: int = 100,
) -> NaiveMerge:
    """Add candidates one by one; all words are split again after each. `size` None: AdaLM's rule."""
    tokens = histogram(general, counts, long_words, max_chars)
    free = [
        row
        for row, piece in enumerate(general)
        if reuse_unused and piece.startswith("[unused") and piece[7:-1].isdigit() and not tokens[piece]
    ]

    def rows() -> int:
        return len(general) + max(0, len(added) - len(free))

    added: list[str] = []
    result = NaiveMerge([], added, 0, "size" if size is not None else "max_size")
    result.curve.append((rows(), tokens.total(), log_likelihood(tokens)))
    result.steps.append((rows(), tokens.total(), log_likelihood(tokens), math.nan))
    look_at = len(general) + interval
    goal = (size if size is not None else max_size) - len(general) + len(free)
    new = [piece for piece in dict.fromkeys(candidates) if piece not in set(general)]
    tried = 0
    while len(added) < goal:
        if tried == len(new):
            result.end = "candidates"
            break
        piece, tried = new[tried], tried + 1
        tokens = histogram([*general, *added, piece], counts, long_words, max_chars)
        is_used = bool(tokens[piece])
        most = len(added) + 1
        added[:] = [one for one in [*added, piece] if tokens[one]]
        if len(added) < most:  # a dropped piece may have kept words from being split
            tokens = histogram([*general, *added], counts, long_words, max_chars)
        if is_used:
            result.curve.append((rows(), tokens.total(), log_likelihood(tokens)))
        if size is None and rows() == look_at:
            value, last = log_likelihood(tokens), result.steps[-1][2]
            gain = 1 - value / last if last else 0.0
            result.steps.append((rows(), tokens.total(), value, gain))
            look_at += interval
            if gain <= threshold:
                result.end = "threshold"
                break
    if size is not None:
        result.steps.clear()
    result.passed_over = tried - len(added)
    result.pieces = list(general)
    for row, piece in zip(free, added, strict=False):
        result.pieces[row] = piece
    result.pieces += added[len(free) :]
    return result
