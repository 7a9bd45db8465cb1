"""Tagging schemes of named entities: which one it is, and from each to IOB2, the one used inside.

IOB1: I- throughout, B- only between two entities of one type that touch. IOB2: B- begins every entity.
IOBES = BIOES: E- ends an entity of several words, S- is one of one word. BILOU: L- and U- in their place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

SCHEMES = ("iob1", "iob2", "iobes", "bioes", "bilou")
TAG = re.compile(r"O|[BIESLU]-\S.*")
_IOBES_LETTERS = str.maketrans("LU", "ES")


class SchemeError(ValueError):
    """A tag that its scheme does not allow, at `position` in its sentence."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(reason)
        self.position = position


def detect_scheme(sentences: Iterable[Sequence[str]]) -> str:
    """The scheme of tags that match `TAG`.

    IOB1 is taken where some I- begins an entity and every B- follows the same type, as IOB1 alone demands;
    a file of both readings, or with I- in a wrong place, counts as IOB2.

    Raises:
        ValueError: letters of IOBES and of BILOU.
    """
    letters: set[str] = set()
    begins_with_i = b_after_same_type = b_elsewhere = False
    for tags in sentences:
        before = ""
        for tag in tags:
            letters.add(tag[0])
            if tag[0] == "I" and before != tag[2:]:
                begins_with_i = True
            if tag[0] == "B":
                b_after_same_type |= before == tag[2:]
                b_elsewhere |= before != tag[2:]
            before = tag[2:]
    if letters & set("ES") and letters & set("LU"):
        raise ValueError("tags of two schemes: E-, S- of IOBES and L-, U- of BILOU; write them in one")
    if letters & set("LU"):
        return "bilou"
    if letters & set("ES"):
        return "iobes"
    return "iob1" if begins_with_i and not b_elsewhere else "iob2"


def to_iob2(tags: Sequence[str], scheme: str) -> list[str]:
    """Tags of one sentence in IOB2.

    Raises:
        SchemeError: a tag that `scheme` does not allow there.
    """
    if scheme in ("iob1", "iob2"):
        return _from_iob(tags, scheme)
    letters = "BILOU" if scheme == "bilou" else "BIOES"
    result: list[str] = []
    open_type = ""  # of an entity that has to go on
    for position, tag in enumerate(tags):
        letter, name = tag[0].translate(_IOBES_LETTERS) if letters == "BILOU" else tag[0], tag[2:]
        if tag[0] not in letters:
            raise SchemeError(position, f"{tag} is no tag of {scheme}")
        previous = tags[position - 1] if position else "nothing"
        if (letter in "IE") != bool(open_type) or (open_type and name != open_type):
            raise SchemeError(position, f"{tag} cannot follow {previous}")
        result.append("O" if letter == "O" else f"{'B' if letter in 'BS' else 'I'}-{name}")
        open_type = name if letter in "BI" else ""
    if open_type:
        raise SchemeError(len(tags) - 1, f"{tags[-1]} cannot end a sentence")
    return result


def _from_iob(tags: Sequence[str], scheme: str) -> list[str]:
    result: list[str] = []
    before = ""
    for position, tag in enumerate(tags):
        follows = before == tag[2:]
        if tag[0] not in "BIO":
            raise SchemeError(position, f"{tag} is no tag of {scheme}")
        previous = tags[position - 1] if position else "nothing"
        if tag[0] == ("I" if scheme == "iob2" else "B") and not follows:
            raise SchemeError(position, f"{tag} cannot follow {previous}")
        result.append(f"B-{tag[2:]}" if tag[0] == "I" and not follows else tag)
        before = tag[2:]
    return result


def repair_iob2(tags: Sequence[str]) -> list[str]:
    """IOB2 in which an I- that continues nothing begins an entity, as in conlleval and seqeval's default."""
    before = ""
    result = []
    for tag in tags:
        result.append(f"B-{tag[2:]}" if tag[0] == "I" and before != tag[2:] else tag)
        before = tag[2:]
    return result
