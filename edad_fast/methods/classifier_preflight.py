"""Checks of the methods on text classifiers, before anything costs time."""

from __future__ import annotations

from pathlib import Path

from ..config import TrainConfig
from ..errors import InputError
from ..losses import layer_map
from ..models import classifier_labels, has_weights, read_model_config, student_config
from ..tasks.labelled_text import files_in
from ..vocabulary import load_tokenizer, vocabulary_of
from .classifier_stages import rows_per_step
from .preflight import check_heads, check_student_vocabulary, check_tensorboard
from .stages import alpha_schedule

# Which of --labelled and --target a method reads.
_READS = {
    "fine_tune": ("labelled",),
    "source_free": ("target",),
    "source_free_two_stage": ("target",),
    "aad": ("labelled", "target"),
}


def preflight_classifiers(config: TrainConfig, processes: int = 1) -> None:
    """Check all that can be checked without reading the texts or the weights.

    Raises:
        InputError: naming the option, file or value and the way out.
    """
    if not config.teacher:
        raise InputError("--teacher is missing")
    _check_texts(config)
    for name, given, way_out in (
        ("corpus", config.corpus, "give --labelled or --target"),
        ("validation", config.validation, "evaluate sentiment scores on devel and test"),
        ("vocab_size", config.vocab_size, "adapt the teacher to a domain vocabulary before"),
        ("vocab", config.vocab, "adapt the teacher to a domain vocabulary before"),
        ("teacher_arch exbert", config.teacher_arch == "exbert", "give an exBERT as --teacher"),
        ("student_arch exbert", config.student_arch == "exbert", "leave it out"),
        ("distributed fsdp", config.distributed == "fsdp", "use ddp"),
        ("attention varlen", config.attention == "varlen", "use sdpa"),
        ("frozen_teacher bf16", config.frozen_teacher == "bf16", "leave it out"),
        ("compile on", config.compile == "on", "leave it out: the widths of the batches differ"),
    ):
        if given:
            raise InputError(f"--{name} has no part in --method {config.method}; {way_out}")
    check_tensorboard(config)
    least = config.accumulation_steps * processes
    if rows_per_step(config) < least:
        raise InputError(
            f"a step of {rows_per_step(config)} texts is too small for {processes} process(es) with "
            f"{config.accumulation_steps} micro-batch(es) each; give at least --batch_tokens "
            f"{least * config.seq_len}"
        )
    teacher = read_model_config(config.teacher)
    vocabulary = vocabulary_of(load_tokenizer(config.teacher))
    _check_length(config, f"--teacher {config.teacher}", teacher.max_position_embeddings)
    if config.method == "fine_tune":
        return
    if not classifier_labels(config.teacher):
        raise InputError(
            f"--teacher {config.teacher}: no text classifier; --method fine_tune makes one from a general "
            "BERT and labelled texts (its output_dir/teacher)"
        )
    student = student_config(config.student, vocab_size=len(vocabulary), max_positions=config.seq_len)
    if has_weights(config.student):
        read_model_config(config.student)
        check_student_vocabulary(config, vocabulary)
    _check_length(config, f"--student {config.student}", student.max_position_embeddings)
    layer_map(config.layer_map, student.num_hidden_layers, teacher.num_hidden_layers)
    check_heads(config, student, teacher)
    alpha_schedule(config)


def _check_texts(config: TrainConfig) -> None:
    given = tuple(name for name in ("labelled", "target") if getattr(config, name))
    if config.method == "task_distillation":
        if len(given) != 1:
            raise InputError("--method task_distillation needs the task's texts: give --labelled or --target")
    elif given != (wanted := _READS[config.method]):
        extra = [name for name in given if name not in wanted]
        if extra:
            raise InputError(f"--{extra[0]} has no part in --method {config.method}, which never opens it")
        missing = next(name for name in wanted if name not in given)
        raise InputError(f"--method {config.method} needs --{missing}")
    for name in given:
        files_in(Path(getattr(config, name)))


def _check_length(config: TrainConfig, model: str, positions: int) -> None:
    if config.seq_len > positions:
        raise InputError(
            f"--seq_len {config.seq_len} is above the {positions} positions of {model}; "
            f"give at most {positions}"
        )
