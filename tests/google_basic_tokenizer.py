"""Google's word splitting of BERT (2018), restated: the oracle of compat="slow".

The data are this Python's: `unicodedata` and `str.lower`. Written for clearness, one character after another.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass

# Both ends belong to a range. Hangul, kana and later extensions are no Chinese characters to BERT.
CHINESE = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)


@dataclass(frozen=True)
class BasicWord:
    text: str  # at most max_chars + 1 characters
    characters: int  # of the whole word
    spans: list[tuple[int, int]]  # per character of `text`: the characters of the input it stems from


def is_white(char: str) -> bool:
    """White space to the cleaning; splitting goes by str.isspace()."""
    return char in "\t\n\r" or unicodedata.category(char) == "Zs"


def is_removed(char: str) -> bool:
    return char == "\ufffd" or (unicodedata.category(char).startswith("C") and char not in "\t\n\r")


def is_punctuation(char: str) -> bool:
    # All of ASCII that is neither letter, digit, white space nor control counts: "$" and "^", too.
    if "!" <= char <= "/" or ":" <= char <= "@" or "[" <= char <= "`" or "{" <= char <= "~":
        return True
    return unicodedata.category(char).startswith("P")


def is_chinese(char: str) -> bool:
    return any(first <= ord(char) <= last for first, last in CHINESE)


Traced = list[tuple[str, int]]  # characters and their places in the input


def _split(traced: Traced, at: Callable[[str], bool], keep: bool) -> Iterator[Traced]:
    """Yields the runs between the characters `at` holds for, and with `keep` those characters."""
    run: Traced = []
    for item in traced:
        if not at(item[0]):
            run.append(item)
            continue
        if run:
            yield run
        run = []
        if keep:
            yield [item]
    if run:
        yield run


def _lower(token: Traced) -> Traced:
    """str.lower() of the whole token, as its sigmas need; U+0130 alone becomes two characters."""
    lower = "".join(char for char, _ in token).lower()
    places = [place for char, place in token for _ in char.lower()]
    return list(zip(lower, places, strict=True))


def _strip_accents(token: Traced) -> Traced:
    """NFD without nonspacing marks.

    As `tokenizers` traces characters, the k-th one in canonical order takes the place of the k-th one before
    sorting; those that lower case or a decomposition adds share the place of the one before.
    """
    parts = [(part, place) for char, place in token for part in unicodedata.normalize("NFD", char)]
    before = [-1, *(place for _, place in parts)]
    unsorted = [(part, place, place == last) for (part, place), last in zip(parts, before, strict=False)]
    ordered: list[tuple[str, int, bool]] = []
    marks: list[tuple[str, int, bool]] = []
    for item in unsorted:
        if unicodedata.combining(item[0]):
            marks.append(item)
            continue
        ordered += sorted(marks, key=lambda mark: unicodedata.combining(mark[0]))
        marks = []
        ordered.append(item)
    ordered += sorted(marks, key=lambda mark: unicodedata.combining(mark[0]))
    whole = unicodedata.normalize("NFD", "".join(char for char, _ in token))
    assert "".join(char for char, _, _ in ordered) == whole
    places = iter([place for _, place, added in unsorted if not added])
    traced: Traced = []
    for char, _, added in ordered:
        traced.append((char, traced[-1][1] if added else next(places)))
    return [item for item in traced if unicodedata.category(item[0]) != "Mn"]


def basic_words(
    text: str,
    *,
    lowercase: bool = True,
    strip_accents: bool | None = None,
    handle_chinese_chars: bool = True,
    clean_text: bool = True,
    max_chars: int = 100,
) -> list[BasicWord]:
    """Returns the words of a text. Google has but two modes: lowercase True or False, the rest as it is."""
    traced: Traced = [(char, place) for place, char in enumerate(text)]
    if clean_text:
        traced = [(" " if is_white(char) else char, place) for char, place in traced if not is_removed(char)]
    if handle_chinese_chars:
        spaced: Traced = []
        for char, place in traced:
            spaced += [(" ", place), (char, place), (" ", place)] if is_chinese(char) else [(char, place)]
        traced = spaced
    words = []
    for token in _split(traced, str.isspace, keep=False):
        if lowercase:
            token = _lower(token)
        if lowercase if strip_accents is None else strip_accents:
            token = _strip_accents(token)
        for part in _split(token, is_punctuation, keep=True):
            for word in _split(part, str.isspace, keep=False):
                kept = word[: max_chars + 1]
                spans = [(place, place + 1) for _, place in kept]
                words.append(BasicWord("".join(char for char, _ in kept), len(word), spans))
    return words
