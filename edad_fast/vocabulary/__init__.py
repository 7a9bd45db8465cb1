"""Word counts, domain WordPieces, merged vocabularies, and tokenizers made of them."""

from __future__ import annotations

try:
    from .. import _native  # noqa: F401
except ImportError as error:
    raise ImportError(
        "edad_fast._native is missing: install a C++20 compiler and install edad-fast again "
        "(the losses work without)"
    ) from error

from .build import (
    build_vocabulary,
    count_words,
    decompose,
    extend_vocabulary,
    learn_wordpieces,
    merge_vocabularies,
    piece_counts,
)
from .counts import WordCounts, usable_cpus
from .domain import build_domain_vocabulary, learn_domain_vocabulary
from .encoded_batch import EncodedBatch
from .fast_tokenizer import FastWordPieceTokenizer, encode_documents
from .learning import CRITERIA, Criterion, Learning
from .merged import Curve, MergedVocabulary
from .normalization import Compat, Normalization
from .reach import Reach, find_unreachable
from .tokenizer import (
    build_tokenizer,
    load_tokenizer,
    read_vocab,
    save_tokenizer,
    vocabulary_of,
    write_vocab,
)

__all__ = [
    "CRITERIA",
    "Compat",
    "Criterion",
    "Curve",
    "EncodedBatch",
    "FastWordPieceTokenizer",
    "Learning",
    "MergedVocabulary",
    "Normalization",
    "Reach",
    "WordCounts",
    "build_domain_vocabulary",
    "build_tokenizer",
    "build_vocabulary",
    "count_words",
    "decompose",
    "encode_documents",
    "extend_vocabulary",
    "find_unreachable",
    "learn_domain_vocabulary",
    "learn_wordpieces",
    "load_tokenizer",
    "merge_vocabularies",
    "piece_counts",
    "read_vocab",
    "save_tokenizer",
    "usable_cpus",
    "vocabulary_of",
    "write_vocab",
]
