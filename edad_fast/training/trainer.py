"""The training loop: stages of optimiser steps, resumable after any step."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch

from ..errors import InputError
from . import random_state
from .checkpoints import MODEL, OPTIMIZER, RNG, Checkpoint, CheckpointStore, load_module, module_tensors
from .distributed import Replica, StopVote, World, full_tensors, told_by_main
from .ledger import Ledger, peak_memory
from .optimizer import GroupedAdamW, schedule_factor
from .profiling import StepProfiler
from .progress import MetricsLog, ProgressDisplay, TensorBoardLog
from .settings import TrainerSettings
from .signals import Interrupted, StopRequest, stop_on_signal
from .stage import Objective, Stage
from .steps import NonFiniteLoss, StepRecord, StepRunner

logger = logging.getLogger(__name__)


class Trainer:
    """Runs stages one after the other with checkpoints, a ledger and metrics.

    It seeds the process's random generators before each stage is built and before it is trained, and restores
    them from the checkpoint on resume, so that an interrupted run ends as an uninterrupted one: on CPU with
    the same number of threads, in the same bits. With several processes, process r draws from generators of
    its own, seeded with (seed, stage, r); a resume with the same number of processes goes on with all of
    them. With another number, a process that was not there starts from (seed, stage, r, step): dropout then
    is another, as from another seed; without dropout the result is the same but for rounding.

    Process 0 alone writes files and shows progress.

    Args:
        output_dir: checkpoints/, metrics.jsonl and tensorboard/ are written in it.
        settings: see `TrainerSettings`.
        run_state: JSON values that must be the same on resume (a hash of the configuration, say).
        world: the processes that train together; all of them see `output_dir`.
    """

    def __init__(
        self,
        output_dir: Path,
        settings: TrainerSettings,
        *,
        run_state: Mapping[str, Any],
        world: World | None = None,
    ) -> None:
        self.world = world or World()
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
            ToldByMain: in place of either, in processes other than 0.
            Interrupted: SIGINT or SIGTERM; the state after the step is saved.
        """
        world = self.world
        with ExitStack() as stack:
            world.on_main(lambda: stack.enter_context(self.store.locked()))
            checkpoint = world.share(world.on_main(lambda: self._resume_point(resume)))
            state = checkpoint.state() if checkpoint else {}
            ledger = Ledger.from_json(state["ledger"]) if state else Ledger()
            done: list[str] = []
            world.on_main(
                lambda: self.metrics.cut(state["stage_names"] if state else [], state.get("step", 0))
            )
            for index, build in enumerate(stages):
                random_state.seed_all(self.settings.seed, index, "build")
                stage = build()
                if stage.name in done:
                    raise ValueError(f"two stages are named {stage.name!r}")
                done.append(stage.name)
                # A whole copy for FSDP to start from and to end in needs no room on the device.
                whole = world.size > 1 and self.settings.distributed == "fsdp"
                stage.objective.to("cpu" if whole else self.device)
                current = checkpoint if checkpoint is not None and checkpoint.stage == index else None
                if checkpoint is not None and index <= checkpoint.stage:
                    with told_by_main():
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
            state, ours = checkpoint.state(), self.run_state
            theirs = state["run_state"]
            differing = sorted(key for key in theirs.keys() | ours if theirs.get(key) != ours.get(key))
            if differing:
                changes = "; ".join(f"{key} was {theirs.get(key)}, now {ours.get(key)}" for key in differing)
                raise InputError(
                    f"{checkpoint.path}: written by a run with other settings ({changes}). Resume with the "
                    "settings of that run, or start anew with --overwrite."
                )
            before = Ledger.from_json(state["ledger"]).stages[-1].devices
            logger.info(
                "resuming from %s (saved by %d process%s, now %d)",
                *(checkpoint.path.name, before, "es" if before > 1 else "", self.world.size),
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
        self._world = trainer.world
        self._replica = Replica(stage, self._world, settings.distributed, trainer.device)
        self._optimizer = GroupedAdamW(
            self._replica.module,
            cast(Objective, self._replica.module).parameter_groups(),
            weight_decay=settings.weight_decay,
            betas=settings.betas,
            eps=settings.eps,
            max_grad_norm=settings.max_grad_norm,
        )
        if checkpoint is not None:
            self._optimizer.load_state(checkpoint.tensors(OPTIMIZER))
        self._runner = StepRunner(
            stage, self._optimizer, trainer.device, settings.precision, self._replica, self._world
        )
        self._vote = StopVote(self._world)
        self._warmup_steps = round(settings.warmup_fraction * stage.steps)
        self._cost = ledger.stage(stage.name)
        self._peak_before = self._cost.peak_memory_bytes
        self._seconds_before = self._cost.seconds, self._cost.device_seconds
        self._cost.devices = self._world.size
        self._tokens_before = self._cost.tokens
        self._tokens = 0  # of this process, since the start or resume
        self._began = self._logged = time.monotonic()
        self._tokens_logged = self._tokens_before
        self._profiler: StepProfiler | None = None
        if settings.profile and self._world.main:
            self._profiler = self._make_profiler()

    def _make_profiler(self) -> StepProfiler | None:
        trainer, stage, left = self._trainer, self._stage, self._stage.steps - self._step
        if left < StepProfiler.steps:
            logger.warning(
                "--profile: stage %s has %d step(s) to go, and a profile needs %d; none is made",
                *(stage.name, left, StepProfiler.steps),
            )
            return None
        dtype = torch.bfloat16 if trainer.settings.precision == "bf16" else torch.float32
        return StepProfiler(stage.name, trainer.device, dtype, trainer.output_dir, self._world.size)

    def run(self) -> None:
        trainer, stage, settings = self._trainer, self._stage, self._trainer.settings
        if trainer.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(trainer.device)
        self._progress: ProgressDisplay | None = None
        self._displays: list[ProgressDisplay | TensorBoardLog] = []
        if self._world.main:
            self._progress = ProgressDisplay(stage.name, self._step, stage.steps)
            self._displays.append(self._progress)
            if settings.tensorboard:
                events = trainer.output_dir / "tensorboard" / stage.name
                self._displays.append(TensorBoardLog(events, self._step))
        stream = iter(stage.batches.iterate(self._step, stage.steps))
        try:
            with stop_on_signal(repeated=self._world.size > 1) as request:
                self._began = self._logged = time.monotonic()
                batches = self._next(stream)
                # Only now: a loader may draw from torch's generator when it starts.
                self._start_generators()
                while True:
                    self._train_step(batches, request)
                    if self._step == stage.steps:
                        break
                    batches = self._next(stream)
                self._replica.finish()
                signum = self._vote(request.signum, wait=True)
                if signum is not None:
                    raise Interrupted.after(signum, stage.name, self._step, self._saved().path)
        finally:
            close = getattr(stream, "close", None)
            if close is not None:
                close()
            for display in self._displays:
                display.close()
            self._replica.close()

    def _start_generators(self) -> None:
        settings, rank = self._trainer.settings, self._world.rank
        key: tuple[int | str, ...] = (settings.seed, self._index, "train", *([rank] if rank else []))
        if self._checkpoint is None:
            random_state.seed_all(*key)
        elif state := random_state.unpack(self._checkpoint.tensors(RNG), rank):
            random_state.restore(state, self._trainer.device)
        else:
            random_state.seed_all(*key, self._step)

    def _all_tokens(self, own: int) -> int:
        """Tokens of the stage when each process has seen its `own` since the start or resume."""
        return self._tokens_before + sum(self._world.gather(own))

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
        if self._progress is not None:
            self._progress.advance()
        last = self._step == stage.steps
        log = last or self._step == 1 or self._step % settings.log_every == 0
        periodic = settings.checkpoint_every > 0 and self._step % settings.checkpoint_every == 0
        signum = self._vote(request.signum)
        save = last or periodic or signum is not None
        if log or save or self._step % settings.check_finite_every == 0:
            bad = self._runner.first_bad()
            if bad is not None:
                self._stop_at(bad)
        if log:
            entry = self._entry(record)
            self._world.on_main(lambda: self._trainer.metrics.append(entry))
            for display in self._displays:
                display.show(entry)
        if save:
            self._save(self._step, self._tokens, random_state.capture(self._trainer.device))
        if signum is not None and not last:
            raise Interrupted.after(signum, stage.name, self._step, self._saved().path)

    def _entry(self, record: StepRecord) -> dict[str, Any]:
        now, tokens = time.monotonic(), self._all_tokens(self._tokens)
        speed = (tokens - self._tokens_logged) / max(1e-9, now - self._logged)
        self._logged, self._tokens_logged = now, tokens
        total, terms, norms = record.figures(self._world)
        return {
            "stage": self._stage.name,
            "step": self._step,
            "tokens": tokens,
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
        now = time.monotonic() - self._began
        seconds, device_seconds = self._seconds_before
        cost.seconds, cost.device_seconds = seconds + now, device_seconds + now * cost.devices
        peak, cost.peak_memory_kind = peak_memory(self._trainer.device)
        cost.peak_memory_bytes = max(self._peak_before, *self._world.gather(peak))

    def _save(self, step: int, own_tokens: int, own_rng: Mapping[str, torch.Tensor]) -> None:
        tokens = self._all_tokens(own_tokens)
        self._cost.steps, self._cost.tokens = step, tokens
        self._book()
        stage, main = self._stage, self._world.main
        finished = step == stage.steps
        model = full_tensors(module_tensors(self._replica.module), keep=main)
        optimizer = None if finished else full_tensors(self._optimizer.state(), keep=main)
        rng = random_state.pack(self._world.gather(own_rng))

        def write() -> Checkpoint:
            self._trainer.metrics.sync()
            return self._trainer.store.save(
                self._index,
                step,
                model=model,
                optimizer=optimizer,
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

        self._checkpoint = self._world.share(self._world.on_main(write))

    def _saved(self) -> Checkpoint:
        assert self._checkpoint is not None
        return self._checkpoint

    def _stop_at(self, bad: StepRecord) -> None:
        if self._checkpoint is None or self._checkpoint.step != bad.step:
            self._save(bad.step, bad.tokens_before, bad.rng)
        term, rows = bad.fault(self._world)
        with told_by_main():
            raise NonFiniteLoss(self._stage.name, bad.step, rows, term, self._saved().path)
