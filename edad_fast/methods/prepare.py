"""From a configuration to what training needs: vocabulary, token shards, teacher, student, batches."""

from __future__ import annotations

import dataclasses
import logging
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import BertConfig, BertForPreTraining, PreTrainedTokenizerFast

from ..batches import BatchStream, TokenShards, build_shards, part_dir
from ..config import TrainConfig
from ..corpus import expand_globs, files_of_shard
from ..errors import InputError
from ..models import (
    add_extension,
    build_pretraining_model,
    copy_layers,
    differing_sizes,
    exbert_config,
    expand_embeddings,
    fill_rows,
    has_weights,
    load_pretraining_model,
    prepare_for_training,
    read_model_config,
    replace_vocabulary,
    set_dropout,
    student_config,
)
from ..training import World
from ..vocabulary import build_tokenizer, decompose, load_tokenizer, vocabulary_of
from .adapt import make_trainable
from .preflight import check_rows
from .stages import LoadedStream, distils, has_general_stage
from .vocabulary import pieces_of, run_tokenizer

logger = logging.getLogger(__name__)

_LEAST_STEPS = 250  # fewer and larger steps would spend a small budget before the student has learned
_ROWS = (16, 256)  # sequences a step, at least and at most, where --batch_tokens is not given


@dataclass(frozen=True)
class Data:
    """Text of a run as tokens.

    Attributes:
        tokenizer: with the vocabulary of the run.
        general: the general vocabulary; in a merged one its ids come first.
        shards: the corpus. held_out: shards and split for the held-out MLM loss, None without held-out text.
        general_text: --general_corpus and the tokenizer it was read with, None without.
    """

    tokenizer: PreTrainedTokenizerFast
    general: list[str]
    shards: TokenShards
    held_out: tuple[TokenShards, str] | None
    general_text: tuple[PreTrainedTokenizerFast, TokenShards] | None = None

    @property
    def added(self) -> list[str]:
        """The new pieces, in id order."""
        known = set(self.general)
        return [piece for piece in vocabulary_of(self.tokenizer) if piece not in known]

    @property
    def fingerprint(self) -> dict[str, str]:
        """Of the text that is trained on; a resumed run goes on with the same."""
        general = {} if self.general_text is None else {"general": self.general_text[1].fingerprint}
        return {"shards": self.shards.fingerprint, **general}

    def of_general(self) -> Data:
        """The text of the general stage in the place of the domain's, where it has its own."""
        if self.general_text is None:
            return self
        tokenizer, shards = self.general_text
        return dataclasses.replace(self, tokenizer=tokenizer, shards=shards)


def load_data(config: TrainConfig, output_dir: Path, *, rebuild: bool = True) -> Data:
    """Build or reuse vocabulary/ and shards/ in `output_dir`.

    Raises:
        InputError: bad text; or what is there was made from other input and `rebuild` is off.
    """
    sources = expand_globs(config.corpus)
    base = load_tokenizer(config.teacher)
    tokenizer = run_tokenizer(config, base, output_dir / "vocabulary", rebuild=rebuild)
    build = partial(
        build_shards,
        text_field=config.text_field,
        encoding_errors=config.encoding_errors,
        max_line_mib=config.max_line_mib,
        rebuild=rebuild,
    )
    shards = build(
        tokenizer,
        sources,
        output_dir / "shards" / "corpus",
        held_out_fraction=_held_out_share(config),
        parts_dir=_parts_dir(config),
    )
    held_out: tuple[TokenShards, str] | None = None
    if config.validation:
        folder = output_dir / "shards" / "validation"
        held_out = (build(tokenizer, expand_globs(config.validation), folder), "train")
    elif len(shards.held_out):
        held_out = (shards, "held_out")
    else:
        logger.warning("no document is held out: the report will have no MLM loss (give --validation FILE)")
    logger.info("corpus: %s tokens in %s documents", f"{shards.n_tokens:,}", f"{shards.n_documents:,}")
    general_text = None
    if config.general_corpus:
        # As the general model reads it: its text has few of the domain's pieces.
        reader = base if config.vocab_scope == "merged" else tokenizer
        folder = output_dir / "shards" / "general"
        general_text = (reader, build(reader, expand_globs(config.general_corpus), folder))
    elif has_general_stage(config):
        logger.warning(
            "no --general_corpus: the stage that makes a small general model reads the domain's text"
        )
    return Data(tokenizer, vocabulary_of(base), shards, held_out, general_text)


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
        build_tokenizer(base, pieces_of(config, base).pieces),
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
    base, tokenizer = load_tokenizer(config.teacher), load_tokenizer(output_dir / "vocabulary")
    general_text = None
    if config.general_corpus:
        reader = base if config.vocab_scope == "merged" else tokenizer
        general_text = (reader, TokenShards(output_dir / "shards" / "general", held_out_fraction=0.0))
    return Data(tokenizer, vocabulary_of(base), shards, held_out, general_text)


def _held_out_share(config: TrainConfig) -> float:
    return 0.0 if config.validation else config.held_out_fraction


def build_teacher(config: TrainConfig, data: Data) -> BertForPreTraining:
    """The general model with the run's vocabulary, and with an extension for exBERT."""
    teacher = _general_model(config, data)
    if config.teacher_arch == "exbert":
        hidden, intermediate = config.teacher_extension
        teacher = add_extension(teacher, (hidden, intermediate), config.gate_bias)
    return _ready(config, teacher)


def _general_model(config: TrainConfig, data: Data) -> BertForPreTraining:
    torch.manual_seed(config.seed)
    model = load_pretraining_model(config.teacher)
    _give_vocabulary(config, model, data)
    return model


def _starts_from_teacher(config: TrainConfig, shape: BertConfig) -> bool:
    """Whether a student without weights starts from layers of the teacher; see --student_init."""
    if config.student_init is not None or config.distillation != "distilbert" or not distils(config):
        return config.student_init == "teacher_layers"
    teacher = read_model_config(config.teacher)
    return shape.num_hidden_layers <= teacher.num_hidden_layers and not differing_sizes(shape, teacher)


def build_student(config: TrainConfig, data: Data) -> BertForPreTraining:
    """A student for the run's vocabulary, fresh, from a directory or from layers of the teacher."""
    torch.manual_seed(config.seed + 1)
    shape = student_config(config.student, vocab_size=len(data.tokenizer), max_positions=config.seq_len)
    shape.pad_token_id = data.tokenizer.pad_token_id
    hidden, intermediate = config.student_extension
    if has_weights(config.student) or _starts_from_teacher(config, shape):
        if has_weights(config.student):
            student = load_pretraining_model(config.student)
            _give_vocabulary(config, student, data)
        else:
            student = build_pretraining_model(shape)
            copy_layers(student, _general_model(config, data))
        if config.student_arch == "exbert":
            student = add_extension(student, (hidden, intermediate), config.gate_bias)
    else:
        if config.student_arch == "exbert":
            shape = exbert_config(shape, (hidden, intermediate), config.gate_bias)
        student = build_pretraining_model(shape)
    return _ready(config, student)


def _give_vocabulary(config: TrainConfig, model: BertForPreTraining, data: Data) -> None:
    """Replace the general vocabulary of `model` by the run's."""
    generator = torch.Generator().manual_seed(config.seed)
    if config.vocab_scope == "merged":
        added = decompose(data.added, data.general)
        expand_embeddings(model, added, init=config.embedding_init, generator=generator)
        return
    ids = {piece: number for number, piece in enumerate(data.general)}
    pieces = vocabulary_of(data.tokenizer)
    split = iter(decompose(data.added, data.general))
    replace_vocabulary(
        model,
        [[ids[piece]] if piece in ids else next(split) for piece in pieces],
        kept=[piece in ids for piece in pieces],
        pad_id=data.tokenizer.pad_token_id,
        init=config.embedding_init,
        generator=generator,
    )


def start_new_rows(config: TrainConfig, student: BertForPreTraining, data: Data) -> None:
    """Start the student's rows of new pieces anew, from the rows it has learned on general text alone."""
    generator = torch.Generator().manual_seed(config.seed)
    fill_rows(student, decompose(data.added, data.general), init=config.embedding_init, generator=generator)


def _ready(config: TrainConfig, model: BertForPreTraining) -> BertForPreTraining:
    set_dropout(model, config.dropout)
    return prepare_for_training(make_trainable(model, sentence_head=config.nsp))


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
