"""One run from configuration to saved student: prepare, train, measure, save."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
import transformers
from transformers import BertForPreTraining

from ..config import TrainConfig
from ..corpus import corpus_fingerprint, expand_globs
from ..errors import InputError
from ..files import atomic_dir, atomic_write
from ..method_defaults import CLASSIFIER_METHODS
from ..models import count_saved_parameters, has_weights, save_model
from ..report import earlier_evaluation, format_table, model_card, read_metrics, write_report
from ..tasks.device import device_name, resolve_device, resolve_precision
from ..tasks.masked_lm import masked_lm_loss_on
from ..training import (
    NonFiniteLoss,
    Trainer,
    World,
    join,
    local_device,
    stop_at_once,
)
from ..vocabulary import save_tokenizer
from .adapt import Execution
from .classifier_run import run_classifiers
from .cost import step_cost
from .output_dir import check_output_dir, has_results, staging_dir, take_output_dir
from .preflight import preflight
from .prepare import (
    Data,
    build_student,
    build_teacher,
    held_out_stream,
    load_data,
    open_data,
    rows_per_step,
    stage_steps,
    start_new_rows,
    train_stream,
)
from .settings import costs, trainer_settings
from .stages import GeneralText, Ingredients, LoadedStream, build_stages, execution_of, uses_teacher

logger = logging.getLogger(__name__)

_NO_COMPARISON = (
    "per piece of the domain's own vocabulary: not comparable with the general model or a merged vocabulary"
)


def run(config: TrainConfig) -> dict[str, Any]:
    """Train as `config` says; return what report.json holds (with --dry_run only `dry_run`, a text).

    Started by torchrun, this is one of several processes: process 0 prepares, measures, writes all files and
    returns the report, the others {}.

    Raises:
        InputError: bad input or options. NonFiniteLoss, Interrupted: see `edad_fast.training.Trainer.run`.
        LostProcess: another process died or hangs.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    begin = time.perf_counter()
    device = local_device(resolve_device(config.device))
    precision = resolve_precision(config.precision, device)
    with join(device, config.process_timeout) as world:
        if config.distributed == "fsdp" and world.size == 1:
            logger.warning(
                "--distributed fsdp shards nothing in one process; torchrun starts several "
                "(docs/many_devices.md)"
            )

        if config.method in CLASSIFIER_METHODS:
            return run_classifiers(config, world, device, precision)

        def prepare() -> tuple[Data, Ingredients]:
            with stop_at_once("preparing", "run the same command again", ends=world.size > 1):
                return _prepare(config, world, device)

        prepared = world.on_main(prepare)
        if config.dry_run:
            table = "" if prepared is None else dry_run_table(prepared[1], precision)
            return {"dry_run": config.to_yaml() + table} if world.main else {}
        preparation = time.perf_counter() - begin
        if prepared is None:
            data = open_data(config, Path(config.output_dir))
            prepared = data, _ingredients(config, data, world, device)
        return _train(config, world, device, precision, *prepared, preparation)


def _prepare(config: TrainConfig, world: World, device: torch.device) -> tuple[Data, Ingredients]:
    """Make vocabulary, shards and models; then, but for a dry run, the output folder is this run's."""
    output_dir = check_output_dir(config)
    preflight(config, world.size)
    with staging_dir(config, output_dir) as folder:
        data = load_data(config, folder, rebuild=not (config.resume and has_results(output_dir)))
        parts = _ingredients(config, data, world, device)
        if config.dry_run:
            return data, parts
        take_output_dir(config, output_dir, folder)
    if folder != output_dir:
        data = open_data(config, output_dir)
        general = _general_text(config, data, world, device)
        parts = dataclasses.replace(parts, stream=_streams(config, data, world, device), general=general)
    return data, parts


def _streams(
    config: TrainConfig, data: Data, world: World, device: torch.device
) -> Callable[[float], LoadedStream]:
    rows, pinned = rows_per_step(config, data.shards), device.type == "cuda"
    return lambda probability: train_stream(config, data, rows, probability, pinned, world)


def _general_text(config: TrainConfig, data: Data, world: World, device: torch.device) -> GeneralText | None:
    """Text of the general stage; None where it is the domain's."""
    if data.general_text is None:
        return None
    streams = _streams(config, data.of_general(), world, device)
    stream = streams(0.0).stream
    steps = stage_steps(config, stream.rows_per_step, stream.steps_per_epoch)
    if config.vocab_scope == "domain":
        return GeneralText(streams, steps)
    return GeneralText(streams, steps, lambda student: start_new_rows(config, student, data))


def _ingredients(config: TrainConfig, data: Data, world: World, device: torch.device) -> Ingredients:
    teacher = build_teacher(config, data)
    student = build_student(config, data)
    sharded = config.distributed == "fsdp" and world.size > 1
    streams = _streams(config, data, world, device)
    stream = streams(0.0).stream
    # Fake tensors, which --dry_run counts with, are not compiled.
    execution = Execution(recompute=config.recompute_layers)
    if not config.dry_run:
        execution = execution_of(config, device, sharded=sharded)
    steps = stage_steps(config, stream.rows_per_step, stream.steps_per_epoch)
    general = _general_text(config, data, world, device)
    return Ingredients(config, teacher, student, streams, steps, execution, general)


def _train(
    config: TrainConfig,
    world: World,
    device: torch.device,
    precision: str,
    data: Data,
    parts: Ingredients,
    preparation: float,
) -> dict[str, Any]:
    """Train, measure and save; `preparation` is in seconds. The report, in process 0."""
    output_dir, steps = Path(config.output_dir), parts.steps
    models: dict[Literal["teacher", "student"], BertForPreTraining] = {
        "teacher": parts.teacher,
        "student": parts.student,
    }
    if not uses_teacher(config):
        del models["teacher"]
    measure = _held_out_loss(config, data, models, device, precision)

    def start() -> dict[str, float]:
        with stop_at_once("preparing", "run the same command again", ends=world.size > 1):
            return measure()

    # Of a vocabulary that the model has only just been given, and with other tokens than it was trained on,
    # a loss is none to compare with.
    before = {} if config.vocab_scope == "domain" else world.on_main(start)
    settings = trainer_settings(config, device, precision, steps)
    state = {"config": config.fingerprint(), **data.fingerprint}
    trainer = Trainer(output_dir, settings, run_state=state, world=world)
    try:
        ledger = trainer.run(build_stages(parts), resume=config.resume)
    except NonFiniteLoss as error:
        file = output_dir / "bad_rows.txt"
        _write_rows(error, config, data, file)
        raise InputError(f"{error} Their text is in {file}.") from error

    def finish() -> dict[str, Any]:
        with stop_at_once(
            "saving the results", "give the same command with --resume to go on", ends=world.size > 1
        ):
            return conclude()

    def conclude() -> dict[str, Any]:
        after, found = measure(), before or {}
        report = {
            "method": config.method,
            "seed": config.seed,
            "config_hash": config.fingerprint(),
            "teacher": config.teacher,
            "corpus": [
                {"name": str(f["name"]), "size": f["size"]}
                for f in corpus_fingerprint(expand_globs(config.corpus))
            ],
            "vocabulary": {
                "size": len(data.tokenizer),
                "added": len(data.added),
                "scope": config.vocab_scope,
            },
            "parameters": {
                role: count_saved_parameters(model, keep_sentence_head=config.nsp)
                for role, model in models.items()
            },
            "tokens_seen": ledger.tokens,
            "steps": ledger.steps,
            "batch_tokens": rows_per_step(config, data.shards) * config.seq_len,
            "seq_len": config.seq_len,
            "precision": precision,
            "device_name": device_name(device),
            "devices": world.size,
            "preparation_seconds": preparation,
            **costs(ledger),
            "losses": {
                record["stage"]: record["terms"] for record in read_metrics(output_dir / "metrics.jsonl")
            },
            "mlm_loss": {name: {"before": found.get(name), "after": after.get(name)} for name in after},
            **({"mlm_loss_note": _NO_COMPARISON} if config.vocab_scope == "domain" else {}),
            "evaluation": earlier_evaluation(output_dir, config.fingerprint()),
        }
        _save(config, output_dir, data, models, report)
        write_report(output_dir, report)
        return report

    return world.on_main(finish) or {}


def _write_rows(error: NonFiniteLoss, config: TrainConfig, data: Data, file: Path) -> None:
    """Write the text of the rows that the error names, unmasked, one row a line."""
    data = data.of_general() if error.stage == "general_distil" else data
    # The whole step, not this process's part of it.
    batches = _streams(config, data, World(), torch.device("cpu"))(0.0).stream.step(error.step)
    found = {row: ids for batch in batches for row, ids in zip(batch.rows, batch.input_ids, strict=True)}
    with atomic_write(file) as temporary:
        temporary.write_text(
            "".join(
                f"row {row}: {data.tokenizer.decode(found[row], skip_special_tokens=True)}\n"
                for row in error.rows
            ),
            encoding="utf-8",
        )


def dry_run_table(parts: Ingredients, precision: str) -> str:
    """Parameters, and steps, FLOPs and memory (in one process) of every stage, as a table."""
    config = parts.config
    rows = parts.stream(0.0).stream.rows_per_step
    lines: list[tuple[str, str]] = [
        (f"{role} parameters", f"{count_saved_parameters(model, keep_sentence_head=config.nsp):,}")
        for role, model in (("teacher", parts.teacher), ("student", parts.student))
        if role == "student" or uses_teacher(config)
    ]
    for build in build_stages(parts):
        stage = build()
        cost = step_cost(
            stage,
            rows=rows,
            seq_len=config.seq_len,
            mlm_probability=cast(LoadedStream, stage.batches).stream.mlm_probability,
            accumulation_steps=config.accumulation_steps,
            bf16=precision == "bf16",
        )
        lines += [
            (f"{cost.stage}: steps", f"{stage.steps:,} of {rows * config.seq_len:,} tokens"),
            (f"{cost.stage}: TFLOP a step", f"{cost.flops / 1e12:.3f}"),
            (f"{cost.stage}: TFLOP in all", f"{cost.flops * stage.steps / 1e12:,.0f}"),
            (f"{cost.stage}: weights, gradients, AdamW", f"{cost.weight_bytes / 1e6:,.0f} MB"),
            (f"{cost.stage}: kept for backward", f"{cost.activation_bytes / 1e6:,.0f} MB"),
        ]
    return format_table(["dry run", precision], lines)


def _held_out_loss(
    config: TrainConfig,
    data: Data,
    models: Mapping[Literal["teacher", "student"], BertForPreTraining],
    device: torch.device,
    precision: str,
) -> Callable[[], dict[str, float]]:
    stream = held_out_stream(config, data)

    def measure() -> dict[str, float]:
        if stream is None:
            return {}
        batches = max(1, config.evaluation_tokens // (stream.rows_per_step * config.seq_len))
        return {
            name: masked_lm_loss_on(model, stream, max_batches=batches, device=device, precision=precision)[
                "loss"
            ]
            for name, model in models.items()
        }

    return measure


def _save(
    config: TrainConfig,
    output_dir: Path,
    data: Data,
    models: dict[Literal["teacher", "student"], BertForPreTraining],
    report: dict[str, Any],
) -> None:
    for role, model in models.items():
        with atomic_dir(output_dir / role) as folder:
            save_model(model, folder, keep_sentence_head=config.nsp)
            # Positions that a fresh student was never trained on are in its table, but not to be used.
            fresh = role == "student" and not has_weights(config.student)
            data.tokenizer.model_max_length = (
                config.seq_len if fresh else model.config.max_position_embeddings
            )
            save_tokenizer(data.tokenizer, folder)
            architecture = config.teacher_arch if role == "teacher" else config.student_arch
            card = model_card(report, role=role, architecture=architecture)
            (folder / "README.md").write_text(card, encoding="utf-8")
