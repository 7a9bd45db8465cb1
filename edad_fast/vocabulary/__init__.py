"""Word counts, domain WordPieces, merged vocabularies, and Hugging Face tokenizers made of them."""

from .build import (
    Criterion,
    MergedVocabulary,
    build_vocabulary,
    count_words,
    decompose,
    extend_vocabulary,
    learn_wordpieces,
    merge_vocabularies,
    piece_counts,
)
from .counts import WordCounts
from .tokenizer import (
    build_tokenizer,
    encode_documents,
    load_tokenizer,
    read_vocab,
    save_tokenizer,
    vocabulary_of,
    write_vocab,
)

__all__ = [
    "Criterion",
    "MergedVocabulary",
    "WordCounts",
    "build_tokenizer",
    "build_vocabulary",
    "count_words",
    "decompose",
    "encode_documents",
    "extend_vocabulary",
    "learn_wordpieces",
    "load_tokenizer",
    "merge_vocabularies",
    "piece_counts",
    "read_vocab",
    "save_tokenizer",
    "vocabulary_of",
    "write_vocab",
]
