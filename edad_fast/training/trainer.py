"""The training loop: stages of optimiser steps, resumable after any step."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from ..errors import InputError
from . import random_state
from .checkpoints import MODEL, OPTIMIZER, RNG, Checkpoint, CheckpointStore, load_module, module_tensors
from .ledger import Ledger, peak_memory
from .optimizer import GroupedAdamW, schedule_factor
from .profiling import StepProfiler
from .progress import MetricsLog, ProgressDisplay, TensorBoardLog
from .signals import Interrupted, StopRequest, stop_on_signal
from .stage import Objective, Stage
from .steps import NonFiniteLoss, StepRecord, StepRunner


@dataclass(frozen=True)
class TrainerSettings:
    """How to train, whatever is trained.

    Args:
        warmup_fraction: part of a stage's steps in which the learning rate rises; it then falls to 0.
        weight_decay: on matrices only. betas, eps: of AdamW.
        max_grad_norm: largest gradient norm of each parameter group; 0 never clips.
        precision: "bf16" (autocast, float32 master weights) or "fp32".
        device: where to train.
        checkpoint_every: steps between checkpoints; 0: only at the end of a stage or on a signal.
        keep_checkpoints: how many of the newest stay, besides those at the ends of stages.
        log_every: steps between records of metrics.jsonl; the only steps at which the losses are read back.
        seed: of dropout and of whatever the stages initialise at random.
        tensorboard: also log to output_dir/tensorboard.
        check_finite_every: steps between looks at the device's non-finite flag. Updates stop on the device at
            the first bad step, so a larger value delays the message but spoils no weights.
        profile: write profile-STAGE.md for each stage trained, see `StepProfiler`.
    """

    warmup_fraction: float = 0.1
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    max_grad_norm: float = 1.0
    precision: str = "fp32"
    device: torch.device | str = "cpu"
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    log_every: int = 10
    seed: int = 0
    tensorboard: bool = False
    check_finite_every: int = 10
    profile: bool = False

    def __post_init__(self) -> None:
        if self.precision not in ("bf16", "fp32"):
            raise InputError(f"precision is {self.precision!r}; it must be 'bf16' or 'fp32'")
        for name in ("log_every", "check_finite_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0.0 <= self.warmup_fraction <= 1.0:
            raise InputError(f"warmup_fraction is {self.warmup_fraction}; it must be between 0 and 1")


class Trainer:
    """Runs stages one after the other with checkpoints, a ledger and metrics.

    It seeds the process's random generators before each stage is built and before it is trained, and restores
    them from the checkpoint on resume, so that an interrupted run ends as an uninterrupted one: on CPU with
    the same number of threads, in the same bits.

    Args:
        output_dir: checkpoints/, metrics.jsonl and tensorboard/ are written in it.
        settings: see `TrainerSettings`.
        run_state: JSON values that must be the same on resume (a hash of the configuration, say).
    """

    def __init__(self, output_dir: Path, settings: TrainerSettings, *, run_state: Mapping[str, Any]) -> None:
        self.output_dir = Path(output_dir)
        self.settings = settings
        self.device = torch.device(settings.device)
        self.run_state: dict[str, Any] = json.loads(json.dumps(dict(run_state)))
        self.store = CheckpointStore(self.output_dir / "checkpoints", settings.keep_checkpoints)
        self.metrics = MetricsLog(self.output_dir / "metrics.jsonl")

    def run(
        self,
        stages: Sequence[Callable[[], Stage]],
        *,
        resume: bool,
        on_stage_end: Callable[[str], None] | None = None,
    ) -> Ledger:
        """Train `stages`, each built when its turn comes; return what they cost.

        On resume, finished stages are built, given the weights they ended with, and not trained; the stage of
        the newest checkpoint goes on where it stood. `on_stage_end` is called with the name of each stage
        after its last checkpoint, and, as it may have been cut short, again when a run resumes from there.

        Raises:
            InputError: checkpoints exist without `resume`, belong to another run, or are all broken; no space
                left.
            NonFiniteLoss: a loss or gradient was NaN or infinite; the state before that step is saved.
            Interrupted: SIGINT or SIGTERM; the state after the step is saved.
        """
        with self.store.locked():
            checkpoint = self._resume_point(resume)
            state = checkpoint.state() if checkpoint else {}
            ledger = Ledger.from_json(state["ledger"]) if state else Ledger()
            done: list[str] = []
            self.metrics.cut(state["stage_names"] if state else [], state.get("step", 0))
            for index, build in enumerate(stages):
                random_state.seed_all(self.settings.seed, index, "build")
                stage = build()
                if stage.name in done:
                    raise ValueError(f"two stages are named {stage.name!r}")
                done.append(stage.name)
                stage.objective.to(self.device)
                current = checkpoint if checkpoint is not None and checkpoint.stage == index else None
                if checkpoint is not None and index <= checkpoint.stage:
                    self._restore_models(stage, done, current or self.store.end_of_stage(index))
                    if index < checkpoint.stage:
                        continue
                if current is None or not state["finished"]:
                    _StageLoop(self, index, stage, list(done), ledger, current).run()
                # The stage's models must not stay in memory beside the next stage's.
                del stage
                if on_stage_end is not None:
                    on_stage_end(done[-1])
        return ledger

    def _resume_point(self, resume: bool) -> Checkpoint | None:
        if not resume:
            existing = self.store.list()
            if existing:
                raise InputError(
                    f"{existing[-1].path}: the folder holds the checkpoints of a run. Go on with --resume, "
                    "start anew with --overwrite, or give another --output_dir."
                )
            return None
        checkpoint = self.store.newest_valid()
        if checkpoint is not None:
            theirs = checkpoint.state()["run_state"]
            ours = self.run_state
            differing = sorted(key for key in theirs.keys() | ours if theirs.get(key) != ours.get(key))
            if differing:
                changes = "; ".join(f"{key} was {theirs.get(key)}, now {ours.get(key)}" for key in differing)
                raise InputError(
                    f"{checkpoint.path}: written by a run with other settings ({changes}). Resume with the "
                    "settings of that run, or start anew with --overwrite."
                )
        return checkpoint

    def _restore_models(self, stage: Stage, names: Sequence[str], checkpoint: Checkpoint) -> None:
        state = checkpoint.state()
        expected = {"stage_names": list(names), "steps": stage.steps}
        for key, value in expected.items():
            if state[key] != value:
                raise InputError(
                    f"{checkpoint.path}: written by a run with other stages ({key} was {state[key]}, now "
                    f"{value}). Resume with the settings of that run, or start anew with --overwrite."
                )
        load_module(stage.objective, checkpoint.tensors(MODEL), checkpoint.path)


class _StageLoop:
    """One stage from its start, or from `checkpoint` (whose models are restored already), to its end."""

    def __init__(
        self,
        trainer: Trainer,
        index: int,
        stage: Stage,
        names: list[str],
        ledger: Ledger,
        checkpoint: Checkpoint | None,
    ) -> None:
        settings = trainer.settings
        self._trainer, self._index, self._stage = trainer, index, stage
        self._names, self._ledger, self._checkpoint = names, ledger, checkpoint
        self._step = checkpoint.step if checkpoint else 0
        stage.objective.train()
        self._optimizer = GroupedAdamW(
            stage.objective,
            cast(Objective, stage.objective).parameter_groups(),
            weight_decay=settings.weight_decay,
            betas=settings.betas,
            eps=settings.eps,
            max_grad_norm=settings.max_grad_norm,
        )
        if checkpoint is not None:
            self._optimizer.load_state(checkpoint.tensors(OPTIMIZER))
        self._runner = StepRunner(stage, self._optimizer, trainer.device, settings.precision)
        self._warmup_steps = round(settings.warmup_fraction * stage.steps)
        self._cost = ledger.stage(stage.name)
        self._peak_before = self._cost.peak_memory_bytes
        self._seconds_before = self._cost.device_seconds
        self._tokens = self._cost.tokens
        self._began = self._logged = time.monotonic()
        self._tokens_logged = self._tokens
        self._profiler: StepProfiler | None = None
        if settings.profile and stage.steps - self._step >= StepProfiler.steps:
            dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
            self._profiler = StepProfiler(stage.name, trainer.device, dtype, trainer.output_dir)

    def run(self) -> None:
        trainer, stage, settings = self._trainer, self._stage, self._trainer.settings
        if trainer.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(trainer.device)
        displays: list[ProgressDisplay | TensorBoardLog] = []
        if settings.tensorboard:
            displays.append(TensorBoardLog(trainer.output_dir / "tensorboard" / stage.name, self._step))
        self._progress = ProgressDisplay(stage.name, self._step, stage.steps)
        self._displays = [self._progress, *displays]
        stream = iter(stage.batches.iterate(self._step, stage.steps))
        try:
            with stop_on_signal() as request:
                self._began = self._logged = time.monotonic()
                batches = self._next(stream)
                # Only now: a loader that starts workers draws from torch's generator.
                if self._checkpoint is not None:
                    random_state.restore(self._checkpoint.tensors(RNG), trainer.device)
                else:
                    random_state.seed_all(settings.seed, self._index, "train")
                while True:
                    self._train_step(batches, request)
                    if self._step == stage.steps:
                        break
                    batches = self._next(stream)
                if request.signum is not None:
                    raise Interrupted.after(request.signum, stage.name, self._step, self._saved().path)
        finally:
            close = getattr(stream, "close", None)
            if close is not None:
                close()
            for display in self._displays:
                display.close()

    def _next(self, stream: Iterator[Sequence[Any]]) -> Sequence[Any]:
        profiler = self._profiler
        batches = profiler.load(lambda: next(stream, None)) if profiler else next(stream, None)
        if not batches:
            raise ValueError(
                f"stage {self._stage.name}: no batches for step {self._step} of {self._stage.steps}"
            )
        return batches

    def _train_step(self, batches: Sequence[Any], request: StopRequest) -> None:
        stage, settings = self._stage, self._trainer.settings
        self._optimizer.set_factor(schedule_factor(self._step, stage.steps, self._warmup_steps))
        if self._profiler:
            record = self._profiler.step(lambda: self._runner.step(self._step, batches, self._tokens))
            self._profiler = None if self._profiler.done else self._profiler
        else:
            record = self._runner.step(self._step, batches, self._tokens)
        self._step += 1
        self._tokens = record.tokens_after
        self._progress.advance()
        last = self._step == stage.steps
        log = last or self._step == 1 or self._step % settings.log_every == 0
        periodic = settings.checkpoint_every > 0 and self._step % settings.checkpoint_every == 0
        signum = request.signum
        save = last or periodic or signum is not None
        if log or save or self._step % settings.check_finite_every == 0:
            bad = self._runner.first_bad()
            if bad is not None:
                self._stop_at(bad)
        if log:
            entry = self._entry(record)
            self._trainer.metrics.append(entry)
            for display in self._displays:
                display.show(entry)
        if save:
            self._save(self._step, self._tokens, random_state.capture(self._trainer.device))
        if signum is not None and not last:
            raise Interrupted.after(signum, stage.name, self._step, self._saved().path)

    def _entry(self, record: StepRecord) -> dict[str, Any]:
        now = time.monotonic()
        speed = (self._tokens - self._tokens_logged) / max(1e-9, now - self._logged)
        self._logged, self._tokens_logged = now, self._tokens
        total, terms, norms = record.figures()
        return {
            "stage": self._stage.name,
            "step": self._step,
            "tokens": self._tokens,
            "alpha": record.alpha,
            "learning_rate": self._optimizer.learning_rates,
            "loss": total,
            "terms": terms,
            "grad_norm": norms,
            "tokens_per_second": speed,
        }

    def _book(self) -> None:
        """Bring the ledger up to now."""
        if self._trainer.device.type == "cuda":
            torch.cuda.synchronize(self._trainer.device)
        cost = self._cost
        cost.device_seconds = self._seconds_before + (time.monotonic() - self._began) * cost.devices
        peak, cost.peak_memory_kind = peak_memory(self._trainer.device)
        cost.peak_memory_bytes = max(self._peak_before, peak)

    def _save(self, step: int, tokens: int, rng: Mapping[str, torch.Tensor]) -> None:
        self._cost.steps, self._cost.tokens = step, tokens
        self._book()
        self._trainer.metrics.sync()
        stage = self._stage
        finished = step == stage.steps
        self._checkpoint = self._trainer.store.save(
            self._index,
            step,
            model=module_tensors(stage.objective),
            optimizer=None if finished else self._optimizer.state(),
            rng=rng,
            state={
                "stage": stage.name,
                "stage_names": self._names,
                "step": step,
                "steps": stage.steps,
                "finished": finished,
                "tokens": tokens,
                "alpha": stage.alpha(step / stage.steps),
                "ledger": self._ledger.to_json(),
                "run_state": self._trainer.run_state,
            },
        )

    def _saved(self) -> Checkpoint:
        assert self._checkpoint is not None
        return self._checkpoint

    def _stop_at(self, bad: StepRecord) -> None:
        if self._checkpoint is None or self._checkpoint.step != bad.step:
            self._save(bad.step, bad.tokens_before, bad.rng)
        path = self._saved().path
        raise NonFiniteLoss(self._stage.name, bad.step, bad.rows_of_fault(), bad.fault(), path)
