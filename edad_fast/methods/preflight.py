"""Checks before anything costs time, from configurations and file headers alone."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import BertConfig

from ..config import TrainConfig
from ..corpus import expand_globs
from ..errors import InputError
from ..kernels import match_heads
from ..losses import layer_map
from ..models import (
    LAYER_SIZES,
    exbert_config,
    has_weights,
    lacks_mlm_head,
    read_model_config,
    spread_layers,
    student_config,
)
from ..vocabulary import load_tokenizer, vocabulary_of
from .minilmv2 import check_relations
from .stages import alpha_schedule, distils, has_general_stage, head_match

logger = logging.getLogger(__name__)

# Options that one L_DT alone reads.
_OF_DISTILLATION = {
    "tinybert": ("layer_map", "head_match", "attention_mode", "attention_weight", "hidden_weight"),
    "minilmv2": ("relation_heads", "relation_layer"),
    "distilbert": ("kl_weight", "student_mlm_weight", "cosine_weight", "kl_temperature"),
}
_OF_ALPHA = ("schedule", "alpha", "alpha_start", "alpha_end", "alpha_scope")  # of the one pass alone


def preflight(config: TrainConfig, processes: int = 1) -> None:
    """Check all that can be checked without reading the corpus or the weights.

    Args:
        processes: that train together.

    Raises:
        InputError: naming the option, file or value and the way out.
    """
    for name in ("teacher", "corpus"):
        if not getattr(config, name):
            raise InputError(f"--{name} is missing (without any argument the program runs the demo)")
    if config.batch_tokens is not None:
        check_rows(config, config.batch_tokens // config.seq_len, processes)
    _check_options(config)
    for globs in (config.corpus, config.validation, config.general_corpus):
        if globs:
            expand_globs(globs)
    if config.vocab and not Path(config.vocab).is_file():
        raise InputError(f"--vocab {config.vocab}: no such file")
    check_tensorboard(config)
    if not Path(config.teacher).is_dir():
        load_tokenizer(config.teacher)  # says soonest that there is no such id, or no network
    teacher = read_model_config(config.teacher)
    general = vocabulary_of(load_tokenizer(config.teacher))
    if teacher.vocab_size != len(general):
        raise InputError(
            f"--teacher {config.teacher}: {teacher.vocab_size} embedding rows but {len(general)} pieces in "
            "its tokenizer; the two must agree"
        )
    student = student_config(config.student, vocab_size=len(general), max_positions=config.seq_len)
    if has_weights(config.student):
        _check_weights_are_wanted(config)
        read_model_config(config.student)
        check_student_vocabulary(config, general)
    named = {f"--teacher {config.teacher}": teacher, f"--student {config.student}": student}
    for name, model in named.items():
        positions = model.max_position_embeddings
        if config.seq_len > positions:
            raise InputError(
                f"--seq_len {config.seq_len} is above the {positions} positions of {name}; "
                f"give at most {positions}"
            )
    for architecture, model, widths in (
        (config.teacher_arch, teacher, config.teacher_extension),
        (config.student_arch, student, config.student_extension),
    ):
        if architecture == "exbert" and model.model_type == "bert":
            exbert_config(model, (widths[0], widths[1]), config.gate_bias)
    if distils(config):
        _check_distillation(config, student, teacher)
    if config.student_init == "teacher_layers":
        _check_layers_fit(student, teacher, "--student_init teacher_layers", LAYER_SIZES)
        spread_layers(student.num_hidden_layers, teacher.num_hidden_layers)
    alpha_schedule(config)


def check_tensorboard(config: TrainConfig) -> None:
    """Check that --tensorboard can write.

    Raises:
        InputError: the package is not there.
    """
    if config.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise InputError("--tensorboard needs the package tensorboard: pip install 'edad-fast[tensorboard]'")


def check_rows(config: TrainConfig, rows: int, processes: int) -> None:
    """Check that a step of `rows` sequences has one for every micro-batch of every process.

    Raises:
        InputError: it has not.
    """
    needed = config.accumulation_steps * processes
    if rows >= needed:
        return
    given = "" if config.batch_tokens is None else f" {config.batch_tokens}"
    raise InputError(
        f"--batch_tokens{given} gives a step {rows} sequence(s) of --seq_len {config.seq_len}, too few for "
        f"{processes} process(es) with {config.accumulation_steps} micro-batch(es) each; give at least "
        f"--batch_tokens {needed * config.seq_len}"
    )


def check_student_vocabulary(config: TrainConfig, general: list[str]) -> None:
    """Check that a student with weights has the pieces `general`.

    Raises:
        InputError: the first difference.
    """
    pieces = vocabulary_of(load_tokenizer(config.student))
    if pieces == general:
        return
    first = next((i for i, (a, b) in enumerate(zip(pieces, general, strict=False)) if a != b), None)
    where = (
        f"{len(pieces)} pieces against {len(general)}"
        if first is None
        else (f"piece {first} is {pieces[first]!r}, the teacher's {general[first]!r}")
    )
    raise InputError(
        f"--student {config.student}: its vocabulary is not the teacher's ({where}); use a student over the "
        "same pieces, or its config.json alone to start from fresh weights"
    )


def _check_weights_are_wanted(config: TrainConfig) -> None:
    """Check that no option asks for a student that has yet to get its weights."""
    for given, what in (
        (config.method == "from_scratch", "--method from_scratch"),
        (bool(config.general_corpus), "--general_corpus (the stage that makes a small general model)"),
        (config.student_init is not None, f"--student_init {config.student_init}"),
    ):
        if given:
            raise InputError(
                f"--student {config.student} has weights, and {what} is for a student without; give its "
                f"config.json to start without them, or leave {what.split()[0]} out"
            )


def _check_distillation(config: TrainConfig, student: BertConfig, teacher: BertConfig) -> None:
    """Check that L_DT can compare the two models."""
    if config.distillation == "tinybert":
        layer_map(config.layer_map, student.num_hidden_layers, teacher.num_hidden_layers)
        check_heads(config, student, teacher)
    elif config.distillation == "minilmv2":
        widths = {"teacher": teacher.hidden_size, "student": student.hidden_size}
        check_relations(config.relation_heads, config.relation_layer, widths, teacher.num_hidden_layers)
    else:
        if config.cosine_weight > 0.0:
            _check_layers_fit(student, teacher, "--distillation distilbert", ["hidden_size"])
        unadapted = config.method == "general_distillation" or has_general_stage(config)
        if unadapted and config.kl_weight > 0.0 and lacks_mlm_head(config.teacher):
            raise InputError(
                f"--distillation distilbert learns the teacher's predictions, and {config.teacher} has no "
                "MLM head; adapt it first (--method edad or adapt_then_distill), or give --kl_weight 0"
            )


def _check_layers_fit(student: BertConfig, teacher: BertConfig, option: str, sizes: Sequence[str]) -> None:
    for name in sizes:
        mine, theirs = (getattr(model, name) for model in (student, teacher))
        if mine != theirs:
            way_out = "or --cosine_weight 0" if option.endswith("distilbert") else "or --student_init fresh"
            raise InputError(
                f"{option}: the student's {name} is {mine}, the teacher's {theirs}; the two must be "
                f"equal: give such a student (--student distilbert6 for a teacher of width 768), {way_out}"
            )


def check_heads(config: TrainConfig, student: BertConfig, teacher: BertConfig) -> None:
    """Check that --head_match can match the heads of the two models.

    Raises:
        InputError: it cannot.
    """

    def states(model: BertConfig) -> torch.Tensor:
        heads = model.num_attention_heads
        return torch.empty(1, heads, 1, model.hidden_size // heads, device="meta")

    try:
        match_heads(states(student), states(student), states(teacher), states(teacher), head_match(config))
    except ValueError as error:
        raise InputError(f"--head_match {config.head_match}: {error}") from error


def _warn_of_unread(config: TrainConfig) -> None:
    """Name options that were given and that the run will not read: suites give them to many methods."""
    unread = [] if config.method == "edad" else list(_OF_ALPHA)
    read = config.distillation if distils(config) else None
    unread += [name for kind, names in _OF_DISTILLATION.items() if kind != read for name in names]
    if read is None:
        unread.append("distillation")
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    given = [f"--{name}" for name in unread if getattr(config, name) != defaults[name]]
    if given:
        kind = "" if read is None else f" --distillation {read}"
        logger.warning("%s: not read by --method %s%s", ", ".join(given), config.method, kind)


def _check_options(config: TrainConfig) -> None:
    """Check the options that belong to one method, one L_DT or one kind of vocabulary."""
    _warn_of_unread(config)
    for name in ("labelled", "target"):
        if getattr(config, name):
            raise InputError(
                f"--{name} has no part in --method {config.method}; it is for fine_tune, task_distillation, "
                "source_free and aad"
            )
    if config.general_corpus and config.method not in ("distill_then_adapt", "adapt_and_distill"):
        raise InputError(
            f"--general_corpus is for --method distill_then_adapt and adapt_and_distill; --method "
            f"{config.method} has no stage on general text, so leave it out"
        )
    if config.method == "from_scratch" and config.student_init == "teacher_layers":
        raise InputError(
            "--method from_scratch draws the student's weights; leave --student_init teacher_layers out"
        )
    if config.vocab_scope == "domain" and config.vocab_size is None and config.vocab is None:
        raise InputError(
            "--vocab_scope domain needs --vocab_size N (or auto) to learn the pieces, or --vocab FILE"
        )
    if config.relation_layer is not None and config.distillation != "minilmv2":
        raise InputError(
            f"--relation_layer {config.relation_layer} is for --distillation minilmv2; "
            f"--distillation {config.distillation} does not read it"
        )
    for name in ("relation_heads", "relation_layer"):
        if getattr(config, name) is not None and getattr(config, name) < 1:
            raise InputError(f"--{name} is {getattr(config, name)}; give 1 or more")
    weights = (config.kl_weight, config.student_mlm_weight, config.cosine_weight)
    if config.distillation == "distilbert" and not any(weights):
        raise InputError(
            "--kl_weight, --student_mlm_weight and --cosine_weight are all 0: nothing would be distilled"
        )
