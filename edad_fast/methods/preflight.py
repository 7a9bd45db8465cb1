"""Checks before anything costs time, from configurations and file headers alone."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from transformers import BertConfig

from ..config import TrainConfig
from ..corpus import expand_globs
from ..errors import InputError
from ..kernels import match_heads
from ..losses import layer_map
from ..models import exbert_config, has_weights, read_model_config, student_config
from ..vocabulary import load_tokenizer, vocabulary_of
from .stages import alpha_schedule, head_match


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
    expand_globs(config.corpus)
    if config.validation:
        expand_globs(config.validation)
    if config.vocab and not Path(config.vocab).is_file():
        raise InputError(f"--vocab {config.vocab}: no such file")
    if config.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise InputError("--tensorboard needs the package tensorboard: pip install 'edad-fast[tensorboard]'")
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
        read_model_config(config.student)
        _check_student_vocabulary(config, general)
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
    layer_map(config.layer_map, student.num_hidden_layers, teacher.num_hidden_layers)
    _check_heads(config, student, teacher)
    alpha_schedule(config)


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


def _check_student_vocabulary(config: TrainConfig, general: list[str]) -> None:
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


def _check_heads(config: TrainConfig, student: BertConfig, teacher: BertConfig) -> None:
    def states(model: BertConfig) -> torch.Tensor:
        heads = model.num_attention_heads
        return torch.empty(1, heads, 1, model.hidden_size // heads, device="meta")

    try:
        match_heads(states(student), states(student), states(teacher), states(teacher), head_match(config))
    except ValueError as error:
        raise InputError(f"--head_match {config.head_match}: {error}") from error
