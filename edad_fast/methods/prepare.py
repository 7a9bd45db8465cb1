"""From a configuration to what training needs: vocabulary, token shards, teacher, student, batches."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, cast

import torch
from torch import nn
from transformers import BertForPreTraining, PreTrainedTokenizerFast

from ..batches import BatchStream, TokenShards, build_shards, part_dir
from ..config import TrainConfig
from ..corpus import corpus_fingerprint, expand_globs, files_of_shard
from ..errors import InputError
from ..files import atomic_dir, write_json
from ..models import (
    add_extension,
    build_pretraining_model,
    exbert_config,
    expand_embeddings,
    has_weights,
    load_pretraining_model,
    prepare_for_training,
    set_dropout,
    student_config,
)
from ..training import World
from ..vocabulary import (
    Learning,
    MergedVocabulary,
    build_tokenizer,
    build_vocabulary,
    decompose,
    load_tokenizer,
    save_tokenizer,
    vocabulary_of,
)
from ..vocabulary.report_files import write_vocabulary_report
from ..vocabulary.summary import describe
from .preflight import check_rows
from .stages import LoadedStream

logger = logging.getLogger(__name__)

_LEAST_STEPS = 250  # fewer and larger steps would spend a small budget before the student has learned
_ROWS = (16, 256)  # sequences a step, at least and at most, where --batch_tokens is not given


@dataclass(frozen=True)
class Data:
    """Text of a run as tokens.

    Attributes:
        tokenizer: with the merged vocabulary.
        general: the general vocabulary; its ids come first.
        shards: the corpus. held_out: shards and split for the held-out MLM loss, None without held-out text.
    """

    tokenizer: PreTrainedTokenizerFast
    general: list[str]
    shards: TokenShards
    held_out: tuple[TokenShards, str] | None

    @property
    def added(self) -> list[str]:
        """The new pieces, in id order."""
        return vocabulary_of(self.tokenizer)[len(self.general) :]


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
    """Hash of all that decides the merged vocabulary."""
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
    }
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _merge(config: TrainConfig, base: PreTrainedTokenizerFast) -> MergedVocabulary:
    return build_vocabulary(
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


def merged_tokenizer(
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
    merged = _merge(config, base)
    tokenizer = build_tokenizer(base, merged.pieces)
    with atomic_dir(folder) as temporary:
        save_tokenizer(tokenizer, temporary)
        if merged.words is not None:
            report = describe(merged, merged.words)
            write_vocabulary_report(temporary, {**report, "criterion": config.criterion})
        write_json(temporary / stamp.name, key)
    new = len(merged.pieces) - merged.general_size
    logger.info("vocabulary: %s pieces, %s of them new (%s)", f"{len(merged.pieces):,}", f"{new:,}", folder)
    return tokenizer


def load_data(config: TrainConfig, output_dir: Path, *, rebuild: bool = True) -> Data:
    """Build or reuse vocabulary/ and shards/ in `output_dir`.

    Raises:
        InputError: bad text; or what is there was made from other input and `rebuild` is off.
    """
    sources = expand_globs(config.corpus)
    base = load_tokenizer(config.teacher)
    tokenizer = merged_tokenizer(config, base, output_dir / "vocabulary", rebuild=rebuild)
    build = partial(
        build_shards,
        tokenizer,
        text_field=config.text_field,
        encoding_errors=config.encoding_errors,
        max_line_mib=config.max_line_mib,
        rebuild=rebuild,
    )
    shards = build(
        sources,
        output_dir / "shards" / "corpus",
        held_out_fraction=_held_out_share(config),
        parts_dir=_parts_dir(config),
    )
    held_out: tuple[TokenShards, str] | None = None
    if config.validation:
        folder = output_dir / "shards" / "validation"
        held_out = (build(expand_globs(config.validation), folder), "train")
    elif len(shards.held_out):
        held_out = (shards, "held_out")
    else:
        logger.warning("no document is held out: the report will have no MLM loss (give --validation FILE)")
    logger.info("corpus: %s tokens in %s documents", f"{shards.n_tokens:,}", f"{shards.n_documents:,}")
    return Data(tokenizer, vocabulary_of(base), shards, held_out)


def _parts_dir(config: TrainConfig) -> Path:
    return Path(config.output_dir) / "shards" / "corpus.parts"


def build_part(config: TrainConfig, num_shards: int, shard_id: int) -> TokenShards:
    """Tokenise one part of the corpus for the run that `config` describes; `load_data` joins the parts.

    Raises:
        InputError: no such part, bad text, or a vocabulary that the run has yet to learn.
    """
    if config.vocab_size is not None:
        raise InputError(
            "--vocab_size would learn the vocabulary anew for every part; learn it first with "
            "edad_fast.vocab and give --vocab DIR/vocab.txt, here and to edad_fast.train"
        )
    for name in ("teacher", "corpus"):
        if not getattr(config, name):
            raise InputError(f"--{name} is missing")
    files = files_of_shard(expand_globs(config.corpus), num_shards, shard_id)
    base = load_tokenizer(config.teacher)
    return build_shards(
        build_tokenizer(base, _merge(config, base).pieces),
        files,
        part_dir(_parts_dir(config), num_shards, shard_id),
        text_field=config.text_field,
        encoding_errors=config.encoding_errors,
        max_line_mib=config.max_line_mib,
        empty_is_error=False,
    )


def open_data(config: TrainConfig, output_dir: Path) -> Data:
    """What `load_data` made or found in `output_dir` a moment ago, not compared with the corpus again."""
    shards = TokenShards(output_dir / "shards" / "corpus", held_out_fraction=_held_out_share(config))
    held_out: tuple[TokenShards, str] | None = None
    if config.validation:
        held_out = (TokenShards(output_dir / "shards" / "validation"), "train")
    elif len(shards.held_out):
        held_out = (shards, "held_out")
    general = vocabulary_of(load_tokenizer(config.teacher))
    return Data(load_tokenizer(output_dir / "vocabulary"), general, shards, held_out)


def _held_out_share(config: TrainConfig) -> float:
    return 0.0 if config.validation else config.held_out_fraction


def build_teacher(config: TrainConfig, data: Data) -> BertForPreTraining:
    """The general model with expanded embeddings, and with an extension for exBERT."""
    torch.manual_seed(config.seed)
    teacher = load_pretraining_model(config.teacher)
    _expand(config, teacher, data)
    if config.teacher_arch == "exbert":
        hidden, intermediate = config.teacher_extension
        teacher = add_extension(teacher, (hidden, intermediate), config.gate_bias)
    return _ready(config, teacher)


def build_student(config: TrainConfig, data: Data) -> BertForPreTraining:
    """A student for the merged vocabulary, fresh or from a directory."""
    torch.manual_seed(config.seed + 1)
    shape = student_config(config.student, vocab_size=len(data.tokenizer), max_positions=config.seq_len)
    hidden, intermediate = config.student_extension
    if has_weights(config.student):
        student = load_pretraining_model(config.student)
        _expand(config, student, data)
        if config.student_arch == "exbert":
            student = add_extension(student, (hidden, intermediate), config.gate_bias)
    else:
        if config.student_arch == "exbert":
            shape = exbert_config(shape, (hidden, intermediate), config.gate_bias)
        student = build_pretraining_model(shape)
    return _ready(config, student)


def _expand(config: TrainConfig, model: BertForPreTraining, data: Data) -> None:
    generator = torch.Generator().manual_seed(config.seed)
    expand_embeddings(
        model, decompose(data.added, data.general), init=config.embedding_init, generator=generator
    )


def _ready(config: TrainConfig, model: BertForPreTraining) -> BertForPreTraining:
    set_dropout(model, config.dropout)
    if not config.nsp:
        # Not in any loss. DDP would wait for the device to learn that, in every step.
        cast(nn.Module, model.bert.pooler).requires_grad_(False)
        model.cls.seq_relationship.requires_grad_(False)
    return prepare_for_training(model)


def rows_per_step(config: TrainConfig, shards: TokenShards) -> int:
    """Sequences an optimiser step: --batch_tokens, or a power of two that gives at least about 250 steps."""
    if config.batch_tokens is not None:
        return config.batch_tokens // config.seq_len
    if config.max_steps is not None:
        return _ROWS[1]
    tokens = config.max_tokens or (config.epochs or 1.0) * shards.n_tokens
    rows = tokens / _LEAST_STEPS / config.seq_len
    return min(max(2 ** round(math.log2(max(rows, 1.0))), _ROWS[0]), _ROWS[1])


def stage_steps(config: TrainConfig, rows: int, steps_per_epoch: int) -> int:
    """Optimiser steps of a stage: --max_steps, --max_tokens or --epochs (one epoch by default)."""
    if config.max_steps is not None:
        return config.max_steps
    if config.max_tokens is not None:
        return max(1, config.max_tokens // (rows * config.seq_len))
    return max(1, round((config.epochs or 1.0) * steps_per_epoch))


def train_stream(
    config: TrainConfig,
    data: Data,
    rows: int,
    mlm_probability: float,
    pin_memory: bool,
    world: World | None = None,
) -> LoadedStream:
    """Batches of the corpus, or this process's part of them; `mlm_probability` 0 leaves the text as it is."""
    world = world or World()
    check_rows(config, rows, world.size)
    stream = BatchStream.for_tokenizer(
        data.tokenizer,
        data.shards,
        seq_len=config.seq_len,
        rows_per_step=rows,
        accumulation_steps=config.accumulation_steps,
        mlm_probability=mlm_probability,
        whole_word=config.whole_word_masking,
        nsp=config.nsp,
        seed=config.seed,
        rank=world.rank,
        world_size=world.size,
    )
    return LoadedStream(stream, config.loader_workers, pin_memory)


def held_out_stream(config: TrainConfig, data: Data) -> BatchStream | None:
    """Held-out text with masks that do not depend on the run's seed; None without held-out text."""
    if data.held_out is None:
        return None
    shards, split = data.held_out
    return BatchStream.for_tokenizer(
        data.tokenizer,
        shards,
        seq_len=config.seq_len,
        rows_per_step=32,
        mlm_probability=0.15,
        seed=0,
        split=split,
    )
