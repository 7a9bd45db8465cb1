"""What device_hours.py trains: the shape, the text, and every system as parts ready to be timed."""

from __future__ import annotations

import dataclasses
import itertools
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from baselines import composed, naive
from baselines.common import Part, Settings, needs_attention_interface
from transformers import BertConfig, BertForPreTraining, PreTrainedTokenizerFast

from edad_fast.batches import Batch
from edad_fast.batches.packing import best_fit
from edad_fast.config import TrainConfig
from edad_fast.corpus import iter_documents, write_demo_data
from edad_fast.errors import InputError
from edad_fast.losses import layer_map
from edad_fast.methods import METHODS, Ingredients
from edad_fast.methods.prepare import build_student, build_teacher, load_data, train_stream
from edad_fast.methods.stages import execution_of
from edad_fast.models import build_pretraining_model, read_model_config, save_model, student_config
from edad_fast.options import load_config_file
from edad_fast.training import Objective
from edad_fast.training.optimizer import GroupedAdamW, schedule_factor
from edad_fast.training.steps import StepRunner
from edad_fast.vocabulary import (
    FastWordPieceTokenizer,
    WordCounts,
    build_tokenizer,
    encode_documents,
    extend_vocabulary,
    load_tokenizer,
    read_vocab,
    save_tokenizer,
    write_vocab,
)

# A run of so many passes, timed around its middle: no step at the start of a schedule, where EDAD skips L_DT.
EPOCHS = 1000
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@dataclass(frozen=True)
class Shape:
    """Sizes of a comparison. rows: of 128 tokens. steps: optimiser steps of one pass of our own systems."""

    rows: int
    steps: int
    warm_up: int


SHAPES = {"paper": Shape(256, 20, 3), "minilm": Shape(32, 4, 1), "tiny": Shape(8, 3, 1)}
TINY_TEACHER: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 512,
}
TINY_STUDENT = BertConfig(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, vocab_size=1
)


class Workload:
    """Text, vocabulary and models of a shape.

    Args:
        name: of the shape.
        folder: text, shards and tokenizers are written there, and taken from there the next time.
        shared: root of the shared data (unused by `tiny`).
        settings: the baselines' settings without `pairs` and `steps`, which are set here.
        steps: of one pass over the text.
        options: further options of `TrainConfig` for our own systems, as YAML would have them.

    Raises:
        InputError: the shared data are absent, or hold less text than asked for.
    """

    def __init__(
        self, name: str, folder: Path, shared: Path, settings: Settings, steps: int, options: dict[str, str]
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.steps = steps
        if name == "tiny":
            sources, made = _tiny(folder)
        else:
            sources, made = _real(name, folder, shared)
        common: dict[str, Any] = {
            **made,
            "seq_len": settings.seq_len,
            "batch_tokens": settings.rows * settings.seq_len,
            "held_out_fraction": 0.0,
            "loader_workers": settings.workers,
            "precision": settings.precision,
            "learning_rate": settings.teacher_learning_rate,
            "student_learning_rate": settings.student_learning_rate,
            "weight_decay": settings.weight_decay,
            "max_grad_norm": settings.max_grad_norm,
            "mlm_probability": settings.mlm_probability,
            "dropout": 0.0,
        }
        file = folder / "options.yaml"
        file.write_text("".join(f"{key}: {value}\n" for key, value in options.items()), encoding="utf-8")
        self.config = TrainConfig(**{**common, **load_config_file(file)})
        text = folder / f"text-{settings.rows}x{settings.seq_len}x{steps}.txt"
        if not text.is_file():
            tokenizer = build_tokenizer(load_tokenizer(self.config.teacher), read_vocab(made["vocab"]))
            documents = _whole_rows(tokenizer, sources, settings.rows * steps, settings.seq_len)
            text.write_text("\n\n".join(documents) + "\n", encoding="utf-8")
        self.config = dataclasses.replace(self.config, corpus=[str(text)])
        self.data = load_data(self.config, folder / text.stem)
        teacher = read_model_config(self.config.teacher)
        student = student_config(
            self.config.student, vocab_size=len(self.data.tokenizer), max_positions=settings.seq_len
        )
        pairs = layer_map(self.config.layer_map, student.num_hidden_layers, teacher.num_hidden_layers)
        self.settings = dataclasses.replace(settings, pairs=pairs, steps=EPOCHS * steps)

    def teacher(self) -> BertForPreTraining:
        """A fresh copy of the expanded teacher."""
        return build_teacher(self.config, self.data)

    def student(self) -> BertForPreTraining:
        """A fresh copy of the student."""
        return build_student(self.config, self.data)

    @property
    def systems(self) -> dict[str, list[Callable[[], Part]]]:
        """The stages of each system; every stage has models of its own."""
        tokenizer, shards, settings = self.data.tokenizer, self.data.shards, self.settings
        return {
            "naive": [
                lambda: naive.adapt(self.teacher(), tokenizer, shards, settings),
                lambda: naive.distil(self.teacher(), self.student(), tokenizer, shards, settings),
            ],
            "composed": [
                lambda: composed.adapt(self.teacher(), tokenizer, shards, settings),
                lambda: composed.distil(self.teacher(), self.student(), tokenizer, shards, settings),
            ],
            "adapt_then_distill": self._ours("adapt_then_distill"),
            "edad": self._ours("edad"),
        }

    def _ours(self, method: str) -> list[Callable[[], Part]]:
        return [lambda i=i: self._stage(method, i) for i in range(len(METHODS[method]))]

    def _stage(self, method: str, index: int) -> Part:
        """Stage `index` of a method as the trainer runs it: its objective, optimiser, step and loader."""
        config = dataclasses.replace(self.config, method=method)
        settings = self.settings
        device, pinned = settings.device, settings.device.type == "cuda"
        parts = Ingredients(
            config,
            self.teacher(),
            self.student(),
            lambda probability: train_stream(config, self.data, settings.rows, probability, pinned),
            steps=settings.steps,
            execution=execution_of(config, device),
        )
        stage = METHODS[method][index](parts)
        stage.objective.to(device)
        stage.objective.train()
        objective: Objective = stage.objective  # type: ignore[assignment]
        optimizer = GroupedAdamW(
            stage.objective,
            objective.parameter_groups(),
            weight_decay=config.weight_decay,
            betas=(0.9, 0.999),
            eps=1e-8,
            max_grad_norm=config.max_grad_norm,
        )
        runner = StepRunner(stage, optimizer, device, settings.precision)
        epochs = itertools.count(EPOCHS // 2)
        warm_up = round(config.warmup_fraction * settings.steps)

        def batches() -> Iterator[list[Batch]]:
            start = next(epochs) * self.steps
            return iter(stage.batches.iterate(start, start + self.steps))

        def step(step_batches: Sequence[Batch]) -> None:
            number = step_batches[0].step
            optimizer.set_factor(schedule_factor(number, settings.steps, warm_up))
            runner.step(number, step_batches, 0)

        def check() -> None:
            bad = runner.first_bad()
            if bad is not None:
                raise ValueError(f"{method}, stage {stage.name}: {bad.fault()} is not finite")

        return Part(stage.name, batches, step, _size, _shape, check)


def _size(batches: Sequence[Batch]) -> tuple[int, int]:
    return sum(b.tokens for b in batches), sum(b.input_ids.numel() for b in batches)


def _shape(batches: Sequence[Batch]) -> object:
    # The number of masked positions differs by a few from batch to batch; nothing is sized by it.
    return tuple((tuple(b.input_ids.shape), b.full_rows) for b in batches)


def _whole_rows(
    tokenizer: PreTrainedTokenizerFast, sources: Sequence[Path], rows: int, seq_len: int
) -> list[str]:
    """The first documents of `sources`, the last of them cut so that all pack into exactly `rows` rows."""
    fast = FastWordPieceTokenizer.from_tokenizer(tokenizer, split_special_tokens=True)
    documents: list[str] = []
    pieces: list[int] = []
    for document in iter_documents(sources):
        words = document.text.split()
        ends = np.diff(encode_documents(fast, words)[1]).cumsum()  # a word's tokens are its own affair
        if not len(ends) or not ends[-1]:
            continue
        if _packed(_cut(pieces, ends[-1], seq_len), seq_len) >= rows:
            fitting = bisect_right(ends, rows, key=lambda end: _packed(_cut(pieces, end, seq_len), seq_len))
            return [*documents, " ".join(words[:fitting])]
        documents.append(" ".join(words))
        pieces = _cut(pieces, ends[-1], seq_len)
    raise InputError(f"{', '.join(map(str, sources))}: less text than {rows} rows; lower --steps")


def _cut(pieces: Sequence[int], tokens: int, seq_len: int) -> list[int]:
    """`pieces` and those of one more document of `tokens` tokens."""
    whole, rest = divmod(int(tokens), seq_len - 2)
    return [*pieces, *[seq_len - 2] * whole, *[rest] * (rest > 0)]


def _packed(pieces: Sequence[int], seq_len: int) -> int:
    """Rows that pieces take, `[CLS] piece [SEP]` each."""
    return best_fit(np.array(pieces, np.int64) + 2, seq_len)[2]


def _tiny(folder: Path) -> tuple[list[Path], dict[str, Any]]:
    """Generated text and a small random teacher."""
    needs_attention_interface()
    data = write_demo_data(folder / "text", general_words=8000, domain_words=30_000)
    counts = WordCounts.from_documents(iter_documents([data.general]), lowercase=True)
    vocabulary = extend_vocabulary(SPECIAL, counts, 180).pieces
    teacher = _random_teacher(folder / "teacher", vocabulary, BertConfig(**TINY_TEACHER))
    domain = WordCounts.from_documents(iter_documents([data.domain]), lowercase=True)
    merged = folder / "merged.txt"
    write_vocab(merged, extend_vocabulary(vocabulary, domain, 600).pieces)
    student = folder / "student.json"
    TINY_STUDENT.to_json_file(student, use_diff=False)
    return [data.domain], {"teacher": str(teacher), "vocab": str(merged), "student": str(student)}


def _real(name: str, folder: Path, shared: Path) -> tuple[list[Path], dict[str, Any]]:
    """The shared biomedical text, exBERT's vocabulary, and the teacher of the shape."""
    sources = sorted((shared / "corpus").glob("bio-*.txt.xz"))
    if not sources:
        raise InputError(f"{shared}: no corpus/bio-*.txt.xz there; give --shared DIR, or take --shape tiny")
    general = read_vocab(shared / "vocab" / "bert_base_uncased_vocab.txt")
    # Line 30,523 of the published list is empty: an [unused] row stands in, so that there are 48,180.
    merged = folder / "exbert_vocab.txt"
    write_vocab(merged, read_vocab(shared / "vocab" / "exbert_vocab.txt", fill_empty=True))
    if name == "minilm":
        teacher = shared / "models" / "minilm-l6-h384-uncased"
    else:
        teacher = _random_teacher(folder / "teacher", general, BertConfig())
    return sources, {"teacher": str(teacher), "vocab": str(merged), "student": "tinybert4"}


def _random_teacher(folder: Path, vocabulary: Sequence[str], config: BertConfig) -> Path:
    """A BERT with random weights and its tokenizer in `folder`; weights do not decide the time of a step."""
    if not (folder / "config.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_vocab(folder / "vocab.txt", vocabulary)
        save_tokenizer(load_tokenizer(folder / "vocab.txt"), folder)
        config.vocab_size = len(vocabulary)
        torch.manual_seed(0)
        save_model(build_pretraining_model(config), folder, keep_sentence_head=True)
    return folder
