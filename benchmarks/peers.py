"""The contenders beside EDAD-fast, each called the fastest way its documentation shows, with one thread.

Every encoder gives flat ids; every trainer gives the number of pieces it has learned.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from data import SPECIAL, Text
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer

# The libraries read them when they start to work, after they are imported.
ONE_THREAD = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
os.environ.update(ONE_THREAD)

Encode = Callable[[Text], NDArray[np.integer[Any]]]
Train = Callable[[Text, int], int]
# Lines a call: small enough that what a call returns is still in the cache when it is copied.
_BATCH = 64
# Words, numbers and single marks: about what BERT splits text into.
_BERT_LIKE = r"\p{L}+|\p{N}+|[^\s\p{L}\p{N}]"


class AbsentError(Exception):
    """A peer is not installed."""


def version_of(package: str) -> str:
    """The installed version.

    Raises:
        AbsentError: there is none.
    """
    try:
        return version(package)
    except PackageNotFoundError:
        raise AbsentError(f"{package} is not installed") from None


def _batches(lines: list[str]) -> list[list[str]]:
    return [lines[start : start + _BATCH] for start in range(0, len(lines), _BATCH)]


class Vocabulary:
    """One vocabulary in every form that a peer wants: a list, vocab.txt, tokenizer.json."""

    def __init__(self, pieces: Sequence[str], folder: Path) -> None:
        self.pieces = list(pieces)
        self.txt = folder / "vocab.txt"
        self.txt.write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8", newline="\n")
        self.json = folder / "tokenizer.json"
        tokenizer = Tokenizer(WordPiece({p: n for n, p in enumerate(pieces)}, unk_token="[UNK]"))
        tokenizer.normalizer = BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = BertPreTokenizer()
        tokenizer.add_special_tokens([token for token in SPECIAL if token in self.pieces])
        definition = json.loads(tokenizer.to_str())
        self.json.write_text(json.dumps(definition, ensure_ascii=False), encoding="utf-8")


def tokenizers_fast(vocabulary: Vocabulary) -> Encode:
    """`encode_batch_fast`: ids without offsets."""
    encode = Tokenizer.from_file(str(vocabulary.json)).encode_batch_fast
    return lambda text: np.concatenate(
        [
            np.array(e.ids, np.int32)
            for lines in _batches(text.lines)
            for e in encode(lines, add_special_tokens=False)
        ]
    )


def tokenizers_offsets(vocabulary: Vocabulary) -> Encode:
    """`encode_batch`: offsets are computed, but not even fetched here."""
    encode = Tokenizer.from_file(str(vocabulary.json)).encode_batch
    return lambda text: np.concatenate(
        [
            np.array(e.ids, np.int32)
            for lines in _batches(text.lines)
            for e in encode(lines, add_special_tokens=False)
        ]
    )


def tokie_files(vocabulary: Vocabulary) -> Encode:
    """`encode_files`: lines of a file into one array, without Python objects."""
    version_of("tokie")
    import tokie

    encode = tokie.Tokenizer.from_json(str(vocabulary.json)).encode_files
    return lambda text: encode([str(text.file)], separator=b"\n", add_special_tokens=False)[0]


def tokie_batch(vocabulary: Vocabulary) -> Encode:
    """`encode_batch`: list of str into objects."""
    version_of("tokie")
    import tokie

    encode = tokie.Tokenizer.from_json(str(vocabulary.json)).encode_batch
    return lambda text: np.fromiter(
        chain.from_iterable(
            e.ids for lines in _batches(text.lines) for e in encode(lines, add_special_tokens=False)
        ),
        np.int32,
    )


def flash_tokenizer(vocabulary: Vocabulary) -> Encode:
    """The batch call; it always adds [CLS] and [SEP]."""
    version_of("flash-tokenizer")
    from flash_tokenizer import BertTokenizerFlash

    no_limit = 1 << 30
    tokenizer = BertTokenizerFlash(str(vocabulary.txt), do_lower_case=True, model_max_length=no_limit)
    encode = tokenizer.tokenizer.batch_encode
    return lambda text: np.fromiter(
        chain.from_iterable(
            chain.from_iterable(encode(lines, "longest", no_limit, False) for lines in _batches(text.lines))
        ),
        np.int32,
    )


ENCODERS: dict[str, tuple[str, Callable[[Vocabulary], Encode]]] = {
    "tokenizers encode_batch_fast": ("tokenizers", tokenizers_fast),
    "tokenizers encode_batch": ("tokenizers", tokenizers_offsets),
    "tokie encode_files": ("tokie", tokie_files),
    "tokie encode_batch": ("tokie", tokie_batch),
    "flash-tokenizer": ("flash-tokenizer", flash_tokenizer),
}


def train_tokenizers(text: Text, size: int) -> int:
    """WordPieceTrainer: the same words as EDAD-fast's, hence the rival proper."""
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    trainer = WordPieceTrainer(vocab_size=size, min_frequency=2, limit_alphabet=1000, show_progress=False)
    tokenizer.train_from_iterator(text.lines, trainer, length=len(text.lines))
    return tokenizer.get_vocab_size()


def train_rustbpe(text: Text, size: int) -> int:
    """Byte BPE on words as GPT-4 splits them, without normalisation."""
    version_of("rustbpe")
    import rustbpe

    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(iter(text.lines), vocab_size=size)
    return int(tokenizer.vocab_size)


def train_rustbpe_like_bert(text: Text, size: int) -> int:
    """As `train_rustbpe`, on words about as BERT splits them, still without normalisation."""
    version_of("rustbpe")
    import rustbpe

    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(iter(text.lines), vocab_size=size, pattern=_BERT_LIKE)
    return int(tokenizer.vocab_size)


def train_sentencepiece(text: Text, size: int) -> int:
    """BPE on white-space words after NFKC."""
    version_of("sentencepiece")
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    model = io.BytesIO()
    SentencePieceTrainer.train(
        input=str(text.file),
        model_writer=model,
        model_type="bpe",
        vocab_size=size,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    return int(SentencePieceProcessor(model_proto=model.getvalue()).get_piece_size())


TRAINERS: dict[str, tuple[str, Train]] = {
    "tokenizers WordPieceTrainer": ("tokenizers", train_tokenizers),
    "rustbpe": ("rustbpe", train_rustbpe),
    "rustbpe, BERT-like words": ("rustbpe", train_rustbpe_like_bert),
    "sentencepiece BPE": ("sentencepiece", train_sentencepiece),
}
