"""A tiny general vocabulary, texts, and checks that the tests of vocabularies share."""

from __future__ import annotations

from pathlib import Path

from edad_fast.vocabulary import MergedVocabulary, WordCounts, write_vocab

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,-()[]"
TINY = [*SPECIAL, *LETTERS, *(f"##{c}" for c in LETTERS if c.isalnum()), "the", "##ing", "treat"]
TEXT = (
    "The treatment of hepatitis and of nephritis: treating hepatitis (in 12 patients) with interleukin-2. "
    "Nephritis, hepatitis and gastritis are treated with interleukin. Patients with gastritis were treated. "
) * 5
CASED_TEXT = TEXT + "BRCA1 and TP53 are genes; BRCA1 is mutated. " * 5
HARD = [
    "The treatment of Hépatitis-B (p < 0.05) 中文 [MASK] [SEP]x  \t\u00a0 naïve e\u0301 ﬁ İstanbul ẞ "
    + "z" * 101,
    "",
    "treating hepatitis",
]


def greedy(word: str, pieces: set[str]) -> list[str]:
    """BERT's greedy longest-match-first segmentation as published: an independent check of the native one."""
    if len(word) > 100:
        return ["[UNK]"]
    result, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in pieces:
                result.append(piece)
                start = end
                break
        else:
            return ["[UNK]"]
    return result


def counts_of(*texts: str, lowercase: bool = True) -> WordCounts:
    return WordCounts.from_documents(texts, lowercase=lowercase)


def write_base(folder: Path) -> Path:
    """Write the vocabulary `TINY` as that of a teacher; returns `folder`."""
    folder.mkdir()
    write_vocab(folder / "vocab.txt", TINY)
    return folder


def check_merged(merged: MergedVocabulary, general: list[str], counts: WordCounts, size: int) -> None:
    assert merged.pieces[: len(general)] == general
    assert len(merged.pieces) == len(set(merged.pieces)) == size
    known = set(merged.pieces)
    produced = {piece for word in counts for piece in greedy(word, known)}
    assert set(merged.added) <= produced


def same_ids(first: object, second: object, texts: list[str]) -> None:
    for text in texts:
        one, two = first(text, text[::-1]), second(text, text[::-1])  # type: ignore[operator]
        assert dict(one) == dict(two)
        assert set(one) == {"input_ids", "token_type_ids", "attention_mask"}
