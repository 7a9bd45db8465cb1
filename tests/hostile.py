# ruff: noqa: RUF001 (letters that look alike are the point)
"""Strings made to break tokenizers: the same seed gives the same strings (with the same Python)."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_WORDS_TEXT = """
the The THE treatment hepatitis-B interleukin-2 p53 (NF-kB) don't e.g. naïve café Müller Ångström 10µm [MASK]
İstanbul straße STRASSE ΣΊΣΥΦΟΣ ὈΔΥΣΣΕΎΣ ΑΣ. ΑΣ\u0301Α σ Σ ΣΣ ǅ ﬁne Ǆ ŉ ǰ ΐ ᾳ ẞ Å K x\u00ad1 a__b [UNK] [SEP]
कि हिन्दी ไทย ที่ العربيّة שָׁלוֹם 한국어 각 日本語 中文字 ｆｕｌｌ ｶﾞ ㍿ Ⅷ ½ 👩🏽‍🔬 🇪🇺 🫠 a\u0338 \u1ebf\u0323 ệ
ộ\u0302 unaffable ing ##ing ##s ## # [CLS] [PAD] [mask] [MASK MASK] [[MASK]] [MASK][SEP] x[MASK]y [MA\u0301SK]
[M\u200bASK] ［MASK］ http://a.b/c?d=e&f --- ... \u2026 “quoted” «x» ¡¿
"""
_WORDS = _WORDS_TEXT.split()
_CASES = "İıßẞΣσςſKÅΩǅǆǄĿŉǰΐΰᾳᾼῼȺȾꞍᏸꭰᲐაϴµΆᾈ"


def _near_the_limit() -> list[str]:
    """Words about 100 characters long, before or only after normalisation."""
    words = []
    for n in (98, 99, 100, 101, 102):
        words += [
            "a" * n,
            "é" * n,
            "e\u0301" * n,
            "ß" * n,
            "İ" * n,
            "\u200b" * 3 + "b" * n,
            "x" * n + "\u0301",
        ]
        words += ["a" * (n // 2) + "\u00ad" + "b" * (n - n // 2), "각" * (n // 3) + "a" * (n % 3)]
        words += ["İ" * (n // 2) + "z" * (n % 2), "a" * n + "中" + "b" * n, "A" * n + "-" + "é" * n, "각" * n]
        words += ["\u0301" * n, "\u0344" * (n // 2), "ﬃ" * n, "Σ" * n, "𝒜" * n, "\u09be" * n, "##" + "a" * n]
    return words


def _of(*ranges: tuple[int, int] | int) -> list[str]:
    points: list[int] = []
    for item in ranges:
        points += range(item[0], item[1] + 1) if isinstance(item, tuple) else [item]
    return [chr(point) for point in points if not 0xD800 <= point <= 0xDFFF]


@cache
def _by_category() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for point in range(sys.maxunicode + 1):
        if not 0xD800 <= point <= 0xDFFF:
            found.setdefault(unicodedata.category(chr(point)), []).append(chr(point))
    return found


def _category(*names: str) -> list[str]:
    return [character for name in names for character in _by_category().get(name, [])]


def _cjk_edges() -> list[str]:
    """Both sides of every border of the CJK blocks, and of the one that `tokenizers` draws elsewhere."""
    borders = (0x4E00, 0x9FFF, 0x3400, 0x4DBF, 0x20000, 0x2A6DF, 0x2A700, 0x2B73F, 0x2B740, 0x2B81F, 0x2B820)
    borders += (0x2B920, 0x2CEAF, 0xF900, 0xFAFF, 0x2F800, 0x2FA1F)
    return [chr(border + step) for border in borders for step in (-1, 0, 1)]


@cache
def _kinds() -> list[tuple[float, int, list[str]]]:
    """(weight, longest run, entries) of every kind of text."""
    return [
        (10, 6, _of((0x61, 0x7A))),
        (3, 4, _of((0x41, 0x5A))),
        (2, 3, _of((0x30, 0x39))),
        (4, 2, _of((0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E))),
        (10, 1, [" "]),
        (
            4,
            2,
            [*_of((0x09, 0x0D), (0x1C, 0x20), 0x85, 0x180E, 0x200B, 0xFEFF), *_category("Zs", "Zl", "Zp")],
        ),
        (3, 2, _category("Cc", "Cf")),
        (3, 4, _of((0x300, 0x36F), (0x483, 0x489), (0x591, 0x5C7), (0x64B, 0x65F), (0x1AB0, 0x1ACE))),
        (3, 4, _category("Mn", "Mc", "Me")),
        (5, 3, _of((0xC0, 0x24F), (0x1E00, 0x1EFF))),
        (5, 3, list(_CASES) + _of((0x1F00, 0x1FFE), (0x2160, 0x217F))),
        (3, 3, _of((0xAC00, 0xD7A3))),
        (2, 4, _of((0x1100, 0x11FF), (0x3131, 0x318E), (0xA960, 0xA97C), (0xD7B0, 0xD7FB))),
        (4, 2, _cjk_edges()),
        (2, 3, _of((0x4E00, 0x9FFF), (0x3041, 0x30FF))),
        (3, 2, _category("Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po")),
        (2, 2, _category("Sc", "Sk", "Sm", "So")),
        (3, 3, _of((0xFF00, 0xFFEF))),
        (3, 4, _of((0x1F300, 0x1FAFF), (0x1F1E6, 0x1F1FF), (0x1F3FB, 0x1F3FF), (0xE0020, 0xE007F))),
        (2, 2, ["\u200d", "\ufe0f", "\ufe0e", "\u20e3", "\u200c", "\u2060", "\u00ad", "\u034f", "\u115f"]),
        (4, 5, _of((0x370, 0x5FF), (0x600, 0x6FF), (0x900, 0x97F), (0xE01, 0xE5B), (0x10A0, 0x10FF))),
        (2, 3, _of((0x10400, 0x1044F), (0x1D100, 0x1D1FF), (0x1D400, 0x1D7FF), (0x11080, 0x110CD))),
        (1, 2, _of((0xF900, 0xFAFF), (0x2F800, 0x2FA1F))),
        (1, 2, _of((0xE000, 0xE0FF), (0xF0000, 0xF00FF), (0xFDD0, 0xFDEF), 0xFFFE, 0xFFFF, 0x10FFFF)),
        (1, 2, _category("Cn")[::97]),
        (1, 1, ["\0", "\ufffd", "\x7f", "\x80", "\u2028", "\u2029"]),
        (3, 2, _of((0, 0x10FFFF))),
        (9, 1, _WORDS),
        (0.2, 1, _near_the_limit()),
    ]


class _Pool:
    """Every entry of every kind, one behind the other, as code points."""

    def __init__(self, more_words: Sequence[str]) -> None:
        kinds = [*_kinds(), *([(9.0, 1, list(more_words))] if more_words else [])]
        weights = np.array([weight for weight, _, _ in kinds])
        self.bounds = np.cumsum(weights / weights.sum())
        self.longest = np.array([longest for _, longest, _ in kinds])
        self.sizes = np.array([len(entries) for _, _, entries in kinds])
        self.first = np.cumsum(self.sizes) - self.sizes
        entries = [entry for _, _, items in kinds for entry in items]
        self.lengths = np.fromiter(map(len, entries), np.int64, len(entries))
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.points = np.frombuffer("".join(entries).encode("utf-32-le"), np.uint32)


@cache
def _pool(more_words: tuple[str, ...]) -> _Pool:
    return _Pool(more_words)


def _gather(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places start, start + 1, ... of every run, one run behind the other."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)


def hostile_strings(
    count: int, seed: int | Sequence[int], *, more_words: Iterable[str] = (), parts: int = 8
) -> list[str]:
    """Return `count` strings of up to `parts` pieces of text each, some of them empty.

    Args:
        seed: a number, or several.
        more_words: further words to mix in, such as the pieces of a vocabulary.
    """
    pool = _pool(tuple(more_words))
    rng = np.random.default_rng(seed)
    n_parts = rng.integers(0, parts + 1, count)
    kind = np.searchsorted(pool.bounds, rng.random(int(n_parts.sum())), side="right").clip(
        0, len(pool.sizes) - 1
    )
    runs = rng.integers(1, pool.longest[kind] + 1)
    kind = np.repeat(kind, runs)
    entry = pool.first[kind] + rng.integers(0, pool.sizes[kind])
    lengths = pool.lengths[entry]
    points = pool.points[_gather(pool.starts[entry], lengths)]
    text = points.astype("<u4").tobytes().decode("utf-32-le")
    owner = np.repeat(np.repeat(np.arange(count), n_parts), runs)
    ends = np.cumsum(np.bincount(owner, lengths, count).astype(np.int64)).tolist()
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def hostile_bytes(count: int, seed: int) -> list[bytes]:
    """Return `count` byte strings: UTF-8 of hostile strings with bytes cut out, changed and doubled."""
    rng = np.random.default_rng(seed)
    result = []
    for text in hostile_strings(count, seed):
        data = bytearray(text.encode())
        for _ in range(int(rng.integers(0, 4))):
            if data:
                place = int(rng.integers(0, len(data)))
                match int(rng.integers(0, 4)):
                    case 0:
                        del data[place]
                    case 1:
                        data[place] = int(rng.integers(0, 256))
                    case 2:
                        data.insert(
                            place, int(rng.choice([0x80, 0xBF, 0xC0, 0xC3, 0xE2, 0xED, 0xF0, 0xF4, 0xFF]))
                        )
                    case _:
                        del data[place:]
        result.append(bytes(data))
    return result


def witness_pieces(*, everything: bool = False) -> list[str]:
    """A vocabulary that spells words out: every character is a piece, so that no difference hides in [UNK].

    Args:
        everything: all assigned characters, not only those that the kinds of hostile text name.
    """
    characters: set[str] = set()
    if everything:
        sources: Iterable[str] = (
            c for name, cs in _by_category().items() if name not in ("Cn", "Co") for c in cs
        )
    else:
        sources = (
            c for _, _, entries in _kinds() if len(entries) < 12_000 for entry in entries for c in entry
        )
    for character in sources:
        for form in (character, character.lower(), character.upper()):
            characters.update(form)
            characters.update(unicodedata.normalize("NFD", form))
    characters = {c for c in characters if not c.isspace()}
    ordered = sorted(characters)
    return [*SPECIAL, *ordered, *("##" + character for character in ordered)]
