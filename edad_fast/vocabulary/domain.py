"""A vocabulary of the domain alone (SciBERT's and oiSciBERT's kind), with ids of its own."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerFast

from ..corpus import EncodingErrors
from ..corpus.files import Source
from ..errors import InputError
from .build import PREFIX, Size, count_words, extend_vocabulary, learn_wordpieces, warn_of_unreachable
from .checks import check_int
from .learning import Learning
from .merged import MergedVocabulary
from .normalization import check_word_limit
from .tokenizer import build_tokenizer, read_vocab, reserved_tokens


def learn_domain_vocabulary(
    reserved: Sequence[str],
    counts: Mapping[str, int],
    size: Size,
    *,
    learning: Learning | None = None,
    progress: bool = False,
) -> MergedVocabulary:
    """Learn a vocabulary of exactly `size` pieces from the words alone.

    The special tokens come first, then every character of the words (so that other text of the domain can be
    spelled), then merged pieces in learning order.

    Args:
        reserved: special tokens. size, learning: as in `extend_vocabulary`; `auto` begins at the characters.

    Raises:
        InputError: `size` is below special tokens and characters, or more than the corpus supports.
    """
    learning = learning or Learning()
    learning.check()
    most = 2 * learning.limit_alphabet  # a character begins a word, or goes on with one
    learned = learn_wordpieces(
        counts,
        most,
        criterion=learning.criterion,
        min_frequency=learning.min_frequency,
        limit_alphabet=learning.limit_alphabet,
        max_piece_characters=learning.max_piece_characters,
    )
    characters = [piece for piece in learned if len(piece.removeprefix(PREFIX)) == 1]
    start = [*reserved, *characters]
    if size != "auto":
        check_int("vocabulary size", size, 0)
        if size < len(start):
            raise InputError(
                f"vocabulary size {size} is below the {len(reserved)} special tokens and "
                f"{len(characters)} characters of the corpus; give {len(start)} or more, or raise "
                "--min_frequency"
            )
    return extend_vocabulary(
        start, counts, size, learning=dataclasses.replace(learning, reuse_unused=False), progress=progress
    )


def build_domain_vocabulary(
    base_tokenizer: PreTrainedTokenizerFast,
    sources: Sequence[Source],
    *,
    size: Size | None = None,
    vocab_file: str | os.PathLike[str] | None = None,
    text_field: str = "text",
    encoding_errors: EncodingErrors = "strict",
    max_line_mib: int = 64,
    learning: Learning | None = None,
    progress: bool = False,
) -> MergedVocabulary:
    """As `build_vocabulary`, of the domain alone: a ready list, or `size` pieces learned from `sources`.

    Of the base tokenizer it has the normaliser and the special tokens.

    Raises:
        InputError: as `learn_domain_vocabulary`, `read_vocab` and `iter_documents`; a ready list without a
            special token; or neither `size` nor `vocab_file`.
    """
    reserved = reserved_tokens(base_tokenizer)
    if vocab_file is not None:
        pieces = read_vocab(vocab_file)
        if missing := sorted(set(reserved).difference(pieces)):
            raise InputError(
                f"{vocab_file}: lacks {', '.join(missing)}; a vocabulary of the domain holds the teacher's "
                "special tokens too"
            )
        rows = [row for row, piece in enumerate(pieces) if piece not in reserved]
        warn_of_unreachable(build_tokenizer(base_tokenizer, pieces), vocab_file, rows)
        return MergedVocabulary(pieces, len(reserved), rows)
    if size is None:
        raise InputError("a vocabulary of the domain needs its size, or a ready list")
    check_word_limit(base_tokenizer)
    counts = count_words(
        base_tokenizer,
        sources,
        text_field=text_field,
        encoding_errors=encoding_errors,
        max_line_mib=max_line_mib,
        progress=progress,
    )
    return learn_domain_vocabulary(reserved, counts, size, learning=learning, progress=progress)
