"""One run of a method on text classifiers: read the texts, train, save."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import BertForSequenceClassification, PreTrainedTokenizerFast

from ..batches import EncodedTexts
from ..config import TrainConfig
from ..corpus import corpus_fingerprint
from ..errors import InputError
from ..files import atomic_dir, atomic_write
from ..losses import layer_map
from ..models import (
    classifier_labels,
    copy_layers,
    count_parameters,
    differing_sizes,
    has_weights,
    load_text_classifier,
    prepare_for_training,
    save_classifier,
    set_dropout,
    student_config,
)
from ..report import earlier_evaluation, format_table, model_card, read_metrics, write_report
from ..tasks.device import device_name
from ..tasks.labelled_text import TextData, class_ids, encode_texts, load_texts
from ..training import NonFiniteLoss, Trainer, World, stop_at_once, told_by_main
from ..vocabulary import load_tokenizer, save_tokenizer
from .classifier_preflight import preflight_classifiers
from .classifier_stages import ClassifierParts, build_classifier_stages, rows_per_step, stage_steps
from .output_dir import check_output_dir, take_output_dir
from .settings import costs, trainer_settings

logger = logging.getLogger(__name__)

_ADAPTS = ("fine_tune", "source_free", "source_free_two_stage", "aad")  # methods that change the teacher
_FEW_TEXTS = 100_000


@dataclass(frozen=True)
class _Texts:
    """The texts of a run; None where the method has none."""

    labelled: TextData | None
    target: TextData | None

    @property
    def read(self) -> dict[str, TextData]:
        found = {"labelled": self.labelled, "target": self.target}
        return {name: data for name, data in found.items() if data is not None}


def run_classifiers(
    config: TrainConfig, world: World, device: torch.device, precision: str
) -> dict[str, Any]:
    """Train as `config` says; the report, in process 0. See `edad_fast.methods.run.run`."""
    begin = time.perf_counter()
    output_dir = Path(config.output_dir)

    def check() -> None:
        check_output_dir(config)
        preflight_classifiers(config, world.size)

    world.on_main(check)
    # Every process reads the same.
    with told_by_main(), stop_at_once("preparing", "run the same command again", ends=world.size > 1):
        texts = _read(config)
        parts = _parts(config, texts, world)
    if config.dry_run:
        return {"dry_run": config.to_yaml() + _dry_run_table(parts)} if world.main else {}
    world.on_main(lambda: take_output_dir(config, output_dir, output_dir))
    preparation = time.perf_counter() - begin
    state = {
        "config": config.fingerprint(),
        **{name: data.fingerprint for name, data in texts.read.items()},
    }
    settings = trainer_settings(config, device, precision, stage_steps(parts))
    trainer = Trainer(output_dir, settings, run_state=state, world=world)
    try:
        ledger = trainer.run(build_classifier_stages(parts), resume=config.resume)
    except NonFiniteLoss as error:
        file = output_dir / "bad_rows.txt"
        _write_rows(error, parts, file)
        raise InputError(f"{error} Their text is in {file}.") from error

    def conclude() -> dict[str, Any]:
        models = _saved_models(parts)
        report = {
            "method": config.method,
            "task": "text-classification",
            "seed": config.seed,
            "config_hash": config.fingerprint(),
            "teacher": config.teacher,
            "corpus": [
                {"name": str(file["name"]), "size": file["size"]}
                for data in texts.read.values()
                for file in corpus_fingerprint(data.files)
            ],
            "texts": {name: len(data.splits["train"]) for name, data in texts.read.items()},
            "labels": parts.labels,
            "vocabulary": {"size": len(parts.tokenizer), "added": 0},
            "parameters": {role: count_parameters(model) for role, model in models.items()},
            "tokens_seen": ledger.tokens,
            "steps": ledger.steps,
            "batch_texts": rows_per_step(config),
            "seq_len": config.seq_len,
            "precision": precision,
            "device_name": device_name(device),
            "devices": world.size,
            "preparation_seconds": preparation,
            **costs(ledger),
            "losses": {
                record["stage"]: record["terms"] for record in read_metrics(output_dir / "metrics.jsonl")
            },
            "evaluation": earlier_evaluation(output_dir, config.fingerprint()),
        }
        with stop_at_once(
            "saving the results", "give the same command with --resume to go on", ends=world.size > 1
        ):
            for role, model in models.items():
                _save(output_dir / role, role, model, parts, report)
            write_report(output_dir, report)
        return report

    return world.on_main(conclude) or {}


def _read(config: TrainConfig) -> _Texts:
    """The texts that the method may look at; classes only where it learns from them."""

    def load(path: str, labels: bool) -> TextData:
        # "text" is the default for running text; here it is one of the usual names.
        field = "" if config.text_field == "text" else config.text_field
        return load_texts(
            path,
            text_field=field,
            label_field=config.label_field,
            labels=labels,
            encoding_errors=config.encoding_errors,
        )

    labels = config.method == "fine_tune"
    return _Texts(
        load(config.labelled, labels) if config.labelled else None,
        load(config.target, False) if config.target else None,
    )


def _parts(config: TrainConfig, texts: _Texts, world: World) -> ClassifierParts:
    tokenizer = load_tokenizer(config.teacher)
    labels = classifier_labels(config.teacher)
    if config.method == "fine_tune":
        assert texts.labelled is not None
        labels = texts.labelled.labels
    torch.manual_seed(config.seed)
    teacher = load_text_classifier(config.teacher, labels)

    def encoded(data: TextData | None) -> EncodedTexts | None:
        if data is None:
            return None
        train = data.splits["train"]
        classes = class_ids(train, labels) if data.labels else None
        return EncodedTexts(
            encode_texts(tokenizer, train, config.seq_len), int(tokenizer.pad_token_id), classes
        )

    student, from_layers = None, False
    if config.method != "fine_tune":
        student, from_layers = _student(config, teacher, labels, tokenizer)
        student = _ready(config, student)
    parts = ClassifierParts(
        config=config,
        tokenizer=tokenizer,
        labels=labels,
        teacher=_ready(config, teacher),
        student=student,
        from_layers=from_layers,
        labelled=encoded(texts.labelled),
        target=encoded(texts.target),
        world=world,
    )
    fresh = student is not None and not from_layers and not has_weights(config.student)
    if fresh and len(parts.trained_on) < _FEW_TEXTS:
        logger.warning(
            "a student with fresh weights learns little from %s texts; start it as the teacher's layers "
            "(--student minilm3 and the like, of its widths) or from a distilled one (--student DIR)",
            f"{len(parts.trained_on):,}",
        )
    return parts


def _student(
    config: TrainConfig,
    teacher: BertForSequenceClassification,
    labels: list[str],
    tokenizer: PreTrainedTokenizerFast,
) -> tuple[BertForSequenceClassification, bool]:
    """The student, and whether it starts as layers of the teacher."""
    torch.manual_seed(config.seed + 1)
    if has_weights(config.student):
        return load_text_classifier(config.student, labels), False
    shape = student_config(config.student, vocab_size=len(tokenizer), max_positions=config.seq_len)
    shape.num_labels = len(labels)
    shape.id2label, shape.label2id = teacher.config.id2label, teacher.config.label2id
    student = BertForSequenceClassification(shape)
    from_layers = config.student_init == "teacher_layers" or (
        config.student_init is None and not differing_sizes(shape, teacher.config)
    )
    if from_layers:
        pairs = layer_map(config.layer_map, shape.num_hidden_layers, teacher.config.num_hidden_layers)
        copy_layers(student, teacher, [layer for _, layer in sorted(pairs)])
    return student, from_layers


def _ready(config: TrainConfig, model: BertForSequenceClassification) -> BertForSequenceClassification:
    set_dropout(model, config.dropout)
    return prepare_for_training(model)


def _saved_models(
    parts: ClassifierParts,
) -> dict[Literal["teacher", "student"], BertForSequenceClassification]:
    models: dict[Literal["teacher", "student"], BertForSequenceClassification] = {}
    if parts.config.method in _ADAPTS:
        models["teacher"] = parts.teacher
    if parts.student is not None:
        models["student"] = parts.student
    return models


def _save(
    folder: Path,
    role: Literal["teacher", "student"],
    model: BertForSequenceClassification,
    parts: ClassifierParts,
    report: dict[str, Any],
) -> None:
    with atomic_dir(folder) as temporary:
        save_classifier(model, temporary)
        parts.tokenizer.model_max_length = model.config.max_position_embeddings
        save_tokenizer(parts.tokenizer, temporary)
        kind: Literal["bert", "exbert"] = "bert" if model.config.model_type == "bert" else "exbert"
        card = model_card(report, role=role, architecture=kind)
        (temporary / "README.md").write_text(card, encoding="utf-8")


def _write_rows(error: NonFiniteLoss, parts: ClassifierParts, file: Path) -> None:
    texts = parts.trained_on
    lines = [
        f"text {row}: {parts.tokenizer.decode(texts.ids[row], skip_special_tokens=True)}\n"
        for row in error.rows
    ]
    with atomic_write(file) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def _dry_run_table(parts: ClassifierParts) -> str:
    """Parameters, and the texts and steps of every stage."""
    lines = [("teacher parameters", f"{count_parameters(parts.teacher):,}")]
    if parts.student is not None:
        lines.append(("student parameters", f"{count_parameters(parts.student):,}"))
    for build in build_classifier_stages(parts):
        stage = build()
        lines.append((f"{stage.name}: steps", f"{stage.steps:,} of {rows_per_step(parts.config)} texts"))
    lines.append(("texts", f"{len(parts.trained_on):,}"))
    return format_table(["dry run", "value"], lines)
