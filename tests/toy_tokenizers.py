# ruff: noqa: RUF001  (characters that look alike are what is tested)
"""Vocabularies and hard texts for the tests of FastWordPieceTokenizer, and its peer of transformers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import transformers
from toy_vocabulary import CASED_TEXT, HARD, TEXT, TINY
from transformers import BertTokenizerFast

from edad_fast.vocabulary import FastWordPieceTokenizer, write_vocab

PIECES = [
    *TINY,
    "é",
    "##é",
    "中",
    "i̇",
    "ı",
    "##ß",
    "ß",
    "σ",
    "##σ",
    "##ς",
    "[unused0]",
    "!",
    "hep",
    "##atitis",
]
CASED_PIECES = [*PIECES, "A", "B", "T", "The", "##A", "É"]
HOSTILE = [
    *HARD,
    "\u200b \u00ad\ufeff\x00\x01 a\x07b \ufffd",
    "[CLS] [SEP][MASK][mask] [UNK]x[PAD] [MASK",
    "e\u0301e\u0327\u0301 \u1e9b\u0323 \uac00\u1100\u1161 ﬁ Å Ω ſ",
    "a\u2028b\u2029c\u0085d\u00a0e\u3000f\tg\r\nh",
    "\U0001f600\U0001f468\u200d\U0001f469 \U0002b820\U0002b920 \ue000 \U000e0001",
    "ΑΣ Σ ΟΔΟΣ İI ı ß ẞ ﬀ K",
    "（ｆｕｌｌ）１２ ｶﾞ 中文ab!!,,¿¡«»“”…‰",
    "x" * 99 + " " + "x" * 100 + " " + "x" * 101 + " " + "é" * 60,
    " ",
    "the " * 70,
]
SHORT = [TEXT[:60], "the treating", *(text[:24] for text in HOSTILE)]
SENTENCES = [TEXT, CASED_TEXT, *HOSTILE, "hepatitis"]


def peer(pieces: list[str], lowercase: bool = True) -> Any:
    options: dict[str, Any] = {"do_lower_case": lowercase, "model_max_length": 48}
    if transformers.__version__.startswith("4."):
        with tempfile.TemporaryDirectory() as folder:
            write_vocab(Path(folder) / "vocab.txt", pieces)
            return BertTokenizerFast(vocab_file=str(Path(folder) / "vocab.txt"), **options)
    return BertTokenizerFast(vocab={piece: number for number, piece in enumerate(pieces)}, **options)


def with_peer(lowercase: bool) -> tuple[FastWordPieceTokenizer, Any]:
    pieces = PIECES if lowercase else CASED_PIECES
    return FastWordPieceTokenizer(pieces, lowercase, model_max_length=48), peer(pieces, lowercase)


def check_same(ours: Any, theirs: Any) -> None:
    """Same keys in the same order, same values of the same types, same words, sequences and tokens."""
    assert list(ours) == list(theirs)
    for key in theirs:
        if hasattr(theirs[key], "shape"):
            assert type(ours[key]) is type(theirs[key])
            assert (ours[key].dtype, ours[key].shape) == (theirs[key].dtype, theirs[key].shape)
            assert ours[key].tolist() == theirs[key].tolist(), key
        else:
            assert ours[key] == theirs[key], key
    assert ours.n_sequences in (theirs.n_sequences, 2)  # a pair cut to nothing counts as one sequence there
    for row, encoding in enumerate(theirs.encodings):
        assert ours.word_ids(row) == encoding.word_ids
        assert ours.sequence_ids(row) == encoding.sequence_ids
        assert ours.tokens(row) == encoding.tokens


ALL = {"return_offsets_mapping": True, "return_special_tokens_mask": True, "return_length": True}


def compare(both: tuple[FastWordPieceTokenizer, Any], *texts: Any, **options: Any) -> None:
    ours, theirs = both
    check_same(ours(*texts, **options, **ALL), theirs(*texts, **options, **ALL))
