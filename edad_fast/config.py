"""Every option of a training run: typed, documented, in one place; options.py reads them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import yaml

from .method_defaults import defaults_of

Method = Literal[
    "edad",
    "general_distillation",
    "adapt_then_distill",
    "from_scratch",
    "distill_then_adapt",
    "adapt_and_distill",
    "fine_tune",
    "task_distillation",
    "source_free",
    "source_free_two_stage",
    "aad",
]
Distillation = Literal["tinybert", "minilmv2", "distilbert"]
Architecture = Literal["bert", "exbert"]
ScheduleKind = Literal["linear", "linear_reverse", "cosine", "cosine_reverse", "constant"]
Strategy = Literal["ddp", "fsdp"]
AlphaScope = Literal["student", "teacher_student", "per_model"]


def _option(default: Any, help_text: str, group: str) -> Any:
    metadata = {"help": help_text, "group": group}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(kw_only=True)
class TrainConfig:
    """Options of `python -m edad_fast.train`. Losses and schedules: Section 3 of the EDAD paper."""

    # Options that may change on resume.
    FREE: ClassVar[frozenset[str]] = frozenset(
        (
            *("output_dir", "resume", "overwrite", "dry_run", "tensorboard", "keep_checkpoints", "log_every"),
            *("checkpoint_every", "loader_workers", "device", "evaluation_tokens", "profile"),
            *("learning_rate", "student_learning_rate", "max_grad_norm"),  # the way out of a diverged run
            *("distributed", "process_timeout", "accumulation_steps"),  # other machines, the same result
        )
    )

    # What to train
    method: Method = _option(
        "edad",
        "system to run, as stages over one trainer: edad (one pass); general_distillation (from the general "
        "teacher); adapt_then_distill; from_scratch (the student alone, MLM); distill_then_adapt; "
        "adapt_and_distill (both adapted, then distilled). These two begin with a student that has "
        "weights, or with a stage that distils a fresh one from the general teacher. On text classifiers: "
        "fine_tune; task_distillation; source_free (one pass) and source_free_two_stage (a classifier and "
        "unlabelled text); aad (with source data)",
        "method",
    )
    teacher: str = _option("", "general BERT: a directory or a Hugging Face hub id", "models")
    teacher_arch: Architecture = _option(
        "bert", "exbert adds an extension module and a gate to each layer", "models"
    )
    teacher_extension: list[int] = _option(
        [252, 1024], "exBERT teacher: hidden and intermediate width", "models"
    )
    student: str = _option(
        "tinybert4",
        "tinybert4, minilm6, minilm3, distilbert6, a BERT config.json, or a BERT directory",
        "models",
    )
    student_init: Literal["fresh", "teacher_layers"] | None = _option(
        None,
        "weights of a student that has none: fresh, or teacher_layers (evenly spread layers of a teacher "
        "of equal widths); default: teacher_layers with --distillation distilbert and on labelled texts, "
        "where the widths agree",
        "models",
    )
    student_arch: Architecture = _option(
        "bert", "bert loads everywhere; exbert is the paper's 22M student", "models"
    )
    student_extension: list[int] = _option(
        [120, 512], "exBERT student: hidden and intermediate width", "models"
    )
    gate_bias: float = _option(
        0.0, "exBERT gate bias at the start; 0 = paper, 4 keeps most of the old path", "models"
    )
    embedding_init: Literal["mean", "random"] = _option(
        "mean", "rows of new pieces: mean of the old pieces they split into, or random", "models"
    )

    # Text and vocabulary
    corpus: list[str] = _option(
        [], "domain text: files or globs (.txt .jsonl .csv .parquet, .gz .xz .zst)", "text"
    )
    validation: list[str] = _option([], "held-out text; without it a share of the corpus is held out", "text")
    held_out_fraction: float = _option(
        0.005, "share of the documents held out when there is no --validation", "text"
    )
    text_field: str = _option("text", "field of .jsonl, column of .csv and .parquet", "text")
    encoding_errors: Literal["strict", "replace"] = _option(
        "strict", "what to do with bytes that are not UTF-8", "text"
    )
    max_line_mib: int = _option(64, "longest line accepted, MiB", "text")
    general_corpus: list[str] = _option(
        [],
        "general text of the first stage of distill_then_adapt and adapt_and_distill; without it that stage "
        "reads the domain text",
        "text",
    )
    vocab_size: str | None = _option(
        None,
        "size of the vocabulary, or auto (AdaLM's rule); default: the teacher's own (oiBioBERT)",
        "text",
    )
    vocab: str | None = _option(
        None,
        "ready vocabulary, one piece a line; --vocab_scope merged: the teacher's pieces come first",
        "text",
    )
    vocab_scope: Literal["merged", "domain"] = _option(
        "merged",
        "merged: domain pieces behind the teacher's; domain: pieces of the corpus alone (oiSciBERT), with "
        "the rows of those that the teacher has",
        "text",
    )
    criterion: Literal["frequency", "likelihood"] = _option(
        "frequency", "how merges are chosen when learning WordPieces", "text"
    )
    min_frequency: int = _option(2, "least count of a learned piece", "text")
    vocab_threshold: float = _option(
        0.01, "--vocab_size auto: relative gain of P(D) at which growth ends", "text"
    )
    vocab_interval: int = _option(10_000, "--vocab_size auto: pieces between two looks", "text")
    vocab_max_size: int = _option(150_000, "--vocab_size auto: most pieces", "text")

    # Labelled texts
    labelled: str = _option(
        "",
        "fine_tune, task_distillation, aad: labelled texts, a folder or file (.csv .tsv .jsonl LABEL.review)",
        "labelled texts",
    )
    target: str = _option(
        "",
        "source_free, source_free_two_stage, aad: texts of the target domain (also .txt, one a line); "
        "classes are not read",
        "labelled texts",
    )
    label_field: str = _option(
        "", "field or column of the class; default: label, labels or sentiment", "labelled texts"
    )
    label_smoothing: float = _option(0.1, "fine_tune: weight of the uniform distribution", "labelled texts")
    pseudo_label_weight: float = _option(
        0.3, "weight of the cross-entropy against pseudo-labels (SHOT: 0.3)", "labelled texts"
    )
    temperature: float = _option(
        None,
        "T of T^2 KL(p_T/T || p_S/T) from teacher to student; default 1 (source_free and aad: 2)",
        "labelled texts",
    )
    aad_temperature: float = _option(20.0, "aad: T between source encoder and adapting one", "labelled texts")

    # Batches
    seq_len: int = _option(128, "tokens a sequence, with [CLS] and [SEP]", "batches")
    batch_tokens: int | None = _option(
        None,
        "tokens an optimiser step; default: between 16 and 256 sequences, to give 250 steps or more",
        "batches",
    )
    accumulation_steps: int = _option(1, "micro-batches a process cuts a step into", "batches")
    mlm_probability: float = _option(0.15, "share of the tokens to predict", "batches")
    whole_word_masking: bool = _option(False, "mask whole words", "batches")
    nsp: bool = _option(False, "sentence pairs and the NSP loss instead of packed documents", "batches")
    loader_workers: int = _option(1, "threads that prepare batches; 0: the training thread does", "batches")

    # Losses
    schedule: ScheduleKind = _option(
        "linear", "how alpha runs from domain adaptation to distillation", "losses"
    )
    alpha: float | None = _option(None, "alpha of --schedule constant; default 0.5", "losses")
    alpha_start: float | None = _option(
        None, "alpha at the start of a schedule; default 1, reverse kinds 0", "losses"
    )
    alpha_end: float | None = _option(
        None, "alpha at the end of a schedule; default 0, reverse kinds 1", "losses"
    )
    alpha_scope: AlphaScope = _option(
        "student",
        "what alpha weighs: student (teacher: L_DA; student: alpha L_DA + (1-alpha) L_DT), teacher_student "
        "(teacher: alpha L_DA too), per_model (teacher: alpha L_DA; student: (1-alpha) L_DT)",
        "losses",
    )
    distillation: Distillation = _option(
        "tinybert",
        "what L_DT is: tinybert (hidden states and attention scores over a layer map), minilmv2 (relations "
        "of Q, K and V at one layer), distilbert (KL and MLM at the masked positions, cosine of the last "
        "hidden states)",
        "losses",
    )
    layer_map: str = _option("uniform", "uniform, last, or teacher layers such as 3,6,9,12", "losses")
    head_match: str = _option(
        "auto", "unequal head counts: auto, equal, mean, regroup, or a list such as 0,2,4", "losses"
    )
    attention_mode: Literal["tinybert", "valid_pairs"] = _option(
        "tinybert", "mean over all pairs as TinyBERT takes it, or over valid pairs only", "losses"
    )
    attention_weight: float = _option(1.0, "weight of the attention-score MSE", "losses")
    hidden_weight: float = _option(1.0, "weight of the hidden-state MSE", "losses")
    relation_heads: int = _option(48, "minilmv2: relation heads; they divide both models' widths", "losses")
    relation_layer: int | None = _option(
        None, "minilmv2: the teacher's layer, from 1; default: its last", "losses"
    )
    kl_weight: float = _option(5.0, "distilbert: weight of T^2 KL", "losses")
    kl_temperature: float = _option(2.0, "distilbert: temperature T", "losses")
    student_mlm_weight: float = _option(2.0, "distilbert: weight of the MLM loss within L_DT", "losses")
    cosine_weight: float = _option(1.0, "distilbert: weight of 1 - cosine; needs equal widths", "losses")
    mlm_weight: float = _option(1.0, "weight of the MLM loss", "losses")
    nsp_weight: float = _option(1.0, "weight of the NSP loss", "losses")
    loss_backend: Literal["auto", "reference", "chunked"] = _option(
        "auto", "implementation of the losses", "losses"
    )

    # Optimisation
    max_tokens: int | None = _option(None, "tokens to train on, in each stage", "optimisation")
    max_steps: int | None = _option(None, "optimiser steps, in each stage", "optimisation")
    epochs: float | None = _option(None, "passes over the corpus, in each stage (default 1)", "optimisation")
    learning_rate: float = _option(
        None,
        "peak learning rate of the teacher; default 1e-4 (on labelled texts see docs/methods)",
        "optimisation",
    )
    student_learning_rate: float = _option(
        None,
        "peak learning rate of the student; default 5e-4 (on labelled texts 3e-4)",
        "optimisation",
    )
    warmup_fraction: float = _option(0.1, "share of the steps with rising learning rate", "optimisation")
    weight_decay: float = _option(0.01, "AdamW weight decay, not on biases and LayerNorm", "optimisation")
    max_grad_norm: float = _option(1.0, "gradient clipping, per model", "optimisation")
    dropout: float = _option(
        None, "dropout of both models during training; default 0 (on labelled texts 0.1)", "optimisation"
    )
    precision: Literal["auto", "bf16", "fp32"] = _option(
        "auto",
        "bf16 autocast over fp32 weights, or fp32; auto: bf16 where the device computes it",
        "optimisation",
    )
    device: Literal["auto", "cpu", "cuda"] = _option("auto", "where to train", "optimisation")
    attention: Literal["sdpa", "varlen"] = _option(
        "sdpa",
        "sdpa (a mask parts the segments of a row), or varlen (flash attention over segments laid end to "
        "end; CUDA)",
        "optimisation",
    )
    compile: Literal["auto", "on", "off"] = _option(
        "auto", "torch.compile both encoders; auto: on CUDA (on CPUs it gains nothing)", "optimisation"
    )
    recompute_layers: bool = _option(
        False,
        "gradient checkpointing: keep only each layer's input, compute it again in backward",
        "optimisation",
    )
    frozen_teacher: Literal["fp32", "bf16"] = _option(
        "fp32", "weights of a teacher that is not trained (the saved ones stay fp32)", "optimisation"
    )
    seed: int = _option(0, "decides initial weights, order and masks", "optimisation")
    distributed: Strategy = _option(
        "ddp",
        "under torchrun: ddp, or fsdp (weights, gradients and optimiser state sharded, for large teachers)",
        "several processes",
    )
    process_timeout: float = _option(
        600.0, "under torchrun: seconds until a process that does not answer is lost", "several processes"
    )

    # The run
    output_dir: str = _option("runs/edad", "folder of this run", "run")
    resume: bool = _option(False, "go on from the newest whole checkpoint of output_dir", "run")
    overwrite: bool = _option(False, "remove the run that is in output_dir", "run")
    dry_run: bool = _option(False, "print configuration, parameters, memory and FLOPs, then stop", "run")
    checkpoint_every: int | None = _option(
        None, "optimiser steps between checkpoints; 0: only at a stage's end; default: a tenth of it", "run"
    )
    keep_checkpoints: int = _option(2, "newest checkpoints kept", "run")
    log_every: int = _option(10, "optimiser steps between lines of metrics.jsonl", "run")
    evaluation_tokens: int = _option(65536, "held-out tokens for the MLM loss before and after", "run")
    profile: bool = _option(
        False,
        "profile one step of each stage of 10 steps or more: operators, loader wait, share of peak; "
        "profile-STAGE.md",
        "run",
    )
    tensorboard: bool = _option(False, "also write TensorBoard events (extra: tensorboard)", "run")

    def __post_init__(self) -> None:
        """Fill in what depends on the method."""
        for name, value in defaults_of(self.method).items():
            if getattr(self, name) is None:
                setattr(self, name, value)

    def fingerprint(self) -> str:
        """Hash of all options but those in `FREE`."""
        values = {key: value for key, value in dataclasses.asdict(self).items() if key not in self.FREE}
        return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=8).hexdigest()

    def to_yaml(self) -> str:
        """The resolved configuration as YAML, in the order of the fields."""
        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False, allow_unicode=True)
