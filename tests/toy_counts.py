"""Tables of counts, made up, that the tests of the native core share."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
from hypothesis import strategies as st

from edad_fast._native import WordCounts, learn


def native(counts: Mapping[str, int], long_words: int = 0) -> WordCounts:
    return WordCounts.from_items(list(counts), np.array(list(counts.values()), np.int64), long_words)


def tables(alphabet: str, most: int = 40, longest: int = 8) -> st.SearchStrategy[dict[str, int]]:
    words = st.text(alphabet, min_size=1, max_size=longest)
    return st.dictionaries(words, st.integers(1, 20), max_size=most)


def english(seed: int = 1, distinct: int = 1500) -> dict[str, int]:
    """Words made of recurring syllables, with counts that fall as those of a language do."""
    rng = random.Random(seed)
    syllables = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(1, 3))) for _ in range(80)]
    words: dict[str, int] = {}
    for rank in range(1, distinct + 1):
        word = "".join(rng.choice(syllables) for _ in range(rng.randint(1, 4)))
        words[word] = words.get(word, 0) + 1 + 3000 // rank
    return words


def learned(
    counts: Mapping[str, int], size: int, criterion: str = "frequency", **options: int
) -> tuple[list[str], list[int]]:
    pieces, piece_counts = learn(native(counts), size, criterion, **options)
    assert piece_counts.dtype == np.int64
    return pieces, piece_counts.tolist()
