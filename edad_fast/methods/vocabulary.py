"""The vocabulary of a run: learned, read or the teacher's own, and kept with what it was made from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from pathlib import Path
from typing import Literal

from transformers import PreTrainedTokenizerFast

from ..config import TrainConfig
from ..corpus import corpus_fingerprint, expand_globs
from ..errors import InputError
from ..files import atomic_dir, write_json
from ..vocabulary import (
    Learning,
    MergedVocabulary,
    build_domain_vocabulary,
    build_tokenizer,
    build_vocabulary,
    load_tokenizer,
    save_tokenizer,
    vocabulary_of,
)
from ..vocabulary.report_files import write_vocabulary_report
from ..vocabulary.summary import describe

logger = logging.getLogger(__name__)


def learning(config: TrainConfig) -> Learning:
    """How the run learns its domain pieces."""
    return Learning(
        config.criterion,
        config.min_frequency,
        threshold=config.vocab_threshold,
        interval=config.vocab_interval,
        max_size=config.vocab_max_size,
    )


def vocabulary_size(config: TrainConfig) -> int | Literal["auto"] | None:
    """--vocab_size as a number, `auto`, or None for the teacher's own."""
    if config.vocab_size == "auto":
        return "auto"
    return int(config.vocab_size) if config.vocab_size else None


def _vocabulary_key(config: TrainConfig, base: PreTrainedTokenizerFast) -> str:
    """Hash of all that decides the vocabulary."""
    parts = {
        "general": vocabulary_of(base),
        "corpus": corpus_fingerprint(expand_globs(config.corpus)) if config.vocab_size else None,
        "vocab": Path(config.vocab).read_text(encoding="utf-8") if config.vocab else None,
        "options": [
            config.vocab_size,
            dataclasses.asdict(learning(config)),
            config.text_field,
            config.encoding_errors,
        ],
        **({} if config.vocab_scope == "merged" else {"scope": config.vocab_scope}),
    }
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def pieces_of(config: TrainConfig, base: PreTrainedTokenizerFast) -> MergedVocabulary:
    """The pieces that the run asks for, of the general and the domain vocabulary or of the domain alone."""
    build = build_domain_vocabulary if config.vocab_scope == "domain" else build_vocabulary
    return build(
        base,
        expand_globs(config.corpus),
        size=vocabulary_size(config),
        vocab_file=Path(config.vocab) if config.vocab else None,
        text_field=config.text_field,
        encoding_errors=config.encoding_errors,
        max_line_mib=config.max_line_mib,
        learning=learning(config),
        progress=True,
    )


def run_tokenizer(
    config: TrainConfig, base: PreTrainedTokenizerFast, folder: Path, *, rebuild: bool = True
) -> PreTrainedTokenizerFast:
    """The run's tokenizer: the one in `folder` if it was made from the same input, else learned or read.

    With pieces that were learned, `folder` gets the report and the curve that edad_fast.vocab writes.
    """
    key, stamp = _vocabulary_key(config, base), folder / "fingerprint.json"
    if stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")) == key:
        return load_tokenizer(folder)
    if stamp.is_file() and not rebuild:
        raise InputError(
            f"{folder}: made from other text or another general vocabulary than --corpus and --teacher hold "
            "now; put back what the run was started with, or start anew with --overwrite"
        )
    merged, general = pieces_of(config, base), vocabulary_of(base)
    tokenizer = build_tokenizer(base, merged.pieces)
    with atomic_dir(folder) as temporary:
        save_tokenizer(tokenizer, temporary)
        if merged.words is not None:
            report = describe(merged, merged.words, general if config.vocab_scope == "domain" else None)
            write_vocabulary_report(temporary, {**report, "criterion": config.criterion})
        write_json(temporary / stamp.name, key)
    new = len(set(merged.pieces).difference(general))
    logger.info("vocabulary: %s pieces, %s of them new (%s)", f"{len(merged.pieces):,}", f"{new:,}", folder)
    return tokenizer
