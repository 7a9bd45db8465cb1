"""What the encoder is compared with: `tokenizers` for mode hf, plain Python after Google's rules for slow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
from google_basic_tokenizer import basic_words
from hostile import SPECIAL
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from edad_fast._native import Encoder

MAX_CHARS = 100


@dataclass(frozen=True)
class Encoded:
    """Flat: ids [N], row_offsets [B + 1]; and, where they are known, spans [N, 2] and word ids [N]."""

    ids: NDArray[np.int32]
    row_offsets: NDArray[np.int64]
    spans: NDArray[np.int32] | None = None
    words: NDArray[np.int32] | None = None

    def row(self, number: int) -> list[tuple[Any, ...]]:
        """The tokens of a text: ids, and spans and words where known."""
        part = slice(self.row_offsets[number], self.row_offsets[number + 1])
        columns: list[list[Any]] = [self.ids[part].tolist()]
        if self.spans is not None and self.words is not None:
            columns += [[tuple(span) for span in self.spans[part].tolist()], self.words[part].tolist()]
        return list(zip(*columns, strict=True))

    def matches(self, other: Encoded) -> bool:
        pairs = [(self.row_offsets, other.row_offsets), (self.ids, other.ids)]
        if self.spans is not None and other.spans is not None:
            pairs += [(self.spans, other.spans), (self.words, other.words)]  # type: ignore[list-item]
        return all(np.array_equal(mine, its) for mine, its in pairs)


Encode = Callable[[Sequence[str]], Encoded]


def differing(texts: Sequence[str], found: Encoded, expected: Encoded) -> list[int]:
    """Numbers of the texts whose tokens differ."""
    if found.matches(expected):
        return []
    if found.spans is None or expected.spans is None:
        found, expected = (Encoded(e.ids, e.row_offsets) for e in (found, expected))
    return [number for number in range(len(texts)) if found.row(number) != expected.row(number)]


def shortest_difference(text: str, ours: Encode, oracle: Encode) -> str:
    """Cut parts out of a text that is encoded differently for as long as it still is."""
    step = max(1, len(text) // 2)
    while True:
        for start in range(0, len(text), step):
            shorter = text[:start] + text[start + step :]
            if not ours([shorter]).matches(oracle([shorter])):
                text = shorter
                break
        else:
            if step == 1:
                return text
            step = max(1, step // 2)


def native(pieces: Sequence[str], *, literals: bool = True, n_threads: int = 1, **options: Any) -> Encode:
    """EDAD-fast's own encoder with offsets; the ids without offsets are checked to be the same."""
    ids = {piece: number for number, piece in enumerate(pieces)}
    found = [(token, ids[token]) for token in SPECIAL] if literals else []
    encoder = Encoder(list(pieces), unk_id=ids["[UNK]"], literals=found, **options)

    def encode(texts: Sequence[str]) -> Encoded:
        result = Encoded(*encoder.encode_with_offsets(list(texts), n_threads))
        plain = Encoded(*encoder.encode(list(texts), n_threads))
        assert plain.matches(result), "ids differ with and without offsets"
        return result

    return encode


def _flat(rows: Iterable[Iterable[Any]], dtype: type = np.int32) -> NDArray[Any]:
    return np.fromiter(chain.from_iterable(rows), dtype)


def _row_offsets(lengths: Iterable[int]) -> NDArray[np.int64]:
    return np.cumsum([0, *lengths], dtype=np.int64)


def tokenizers_oracle(pieces: Sequence[str], *, literals: bool = True, **options: Any) -> Encode:
    """`tokenizers` with BertNormalizer(**options)."""
    ids = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(**options)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    if literals:
        tokenizer.add_special_tokens(SPECIAL)

    def encode(texts: Sequence[str]) -> Encoded:
        rows = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        offsets = _row_offsets(map(len, rows))
        spans = _flat(chain.from_iterable(row.offsets for row in rows)).reshape(-1, 2)
        return Encoded(_flat(row.ids for row in rows), offsets, spans, _flat(row.word_ids for row in rows))

    return encode


def slow_oracle(pieces: Sequence[str], **options: Any) -> Encode:
    """Google's basic tokenizer and greedy longest match, restated in Python; no special tokens."""
    ids = {piece: number for number, piece in enumerate(pieces)}
    longest = max(map(len, pieces))

    @lru_cache(maxsize=100_000)
    def pieces_of(word: str) -> tuple[tuple[int, int, int], ...]:
        """(id, first character, last character) of each piece."""
        whole = ((ids["[UNK]"], 0, len(word) - 1),)
        if len(word) > MAX_CHARS:
            return whole
        found = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            for end in range(min(len(word), start + longest), start, -1):
                if (piece := ids.get(prefix + word[start:end])) is not None:
                    found.append((piece, start, end - 1))
                    start = end
                    break
            else:
                return whole
        return tuple(found)

    def tokens(text: str) -> list[tuple[int, int, int, int]]:
        words = basic_words(text, max_chars=len(text) * 20, **options)  # none is cut off
        return [
            (piece, word.spans[first][0], word.spans[last][1], number)
            for number, word in enumerate(words)
            for piece, first, last in pieces_of(word.text)
        ]

    def encode(texts: Sequence[str]) -> Encoded:
        rows = [tokens(text) for text in texts]
        flat = _flat(chain.from_iterable(rows)).reshape(-1, 4)
        return Encoded(flat[:, 0], _row_offsets(map(len, rows)), flat[:, 1:3], flat[:, 3])

    return encode
