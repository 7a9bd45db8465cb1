"""Does the jobs of a plan one after the other: reuses what is done, goes on with what was begun."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from ..errors import InputError
from ..training import Interrupted
from ..training.signals import StopRequest, stop_on_signal
from .children import Ended, last_line, run_child
from .plan import Job, Plan
from .records import Records

_LOCK_SECONDS = 60.0  # a run that an earlier process left saves its checkpoint in that time
_START_SECONDS = 30.0  # no training is begun with less time left than this


class Execute(Protocol):
    """Runs a command; `run_child`, or a stand-in of the tests."""

    def __call__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        request: StopRequest,
        deadline: float | None = None,
        lock: int | None = None,
    ) -> Ended:
        """See `run_child`."""


@dataclass
class Outcome:
    """What came of a plan.

    Attributes:
        done: ids. failed: why, by id. waiting: ids not started, by the failed job that they need.
        out_of_time: --max_minutes ended it.
    """

    total: int
    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, list[str]] = field(default_factory=dict)
    out_of_time: bool = False


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold the lock of a comparison's folder; yields the open file, for children to keep open too.

    Raises:
        InputError: another comparison, or a run that one left behind, works there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        give_up, told = time.monotonic() + _LOCK_SECONDS, False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise InputError(
                        f"{folder}: another comparison is at work there; wait for it, or give --output_dir"
                    ) from None
                if not told:
                    print(f"{folder}: waiting for what is still at work there", file=sys.stderr, flush=True)
                told = True
                time.sleep(0.5)
        yield descriptor
    finally:
        os.close(descriptor)


def run_jobs(
    plan: Plan,
    jobs: Sequence[Job],
    *,
    lock: int | None = None,
    overwrite: bool = False,
    max_seconds: float | None = None,
    execute: Execute = run_child,
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
) -> Outcome:
    """Do `jobs`, in order; a failure stops only what builds on it.

    Args:
        overwrite: do jobs again whose result was made from other options or files.
        max_seconds: start nothing afterwards, and have the running child save and stop. A job that saves
            nothing on the way is begun only if it fits, but as the first of a call it runs to its end.

    Raises:
        InputError: results made from other options or files, without `overwrite`; nothing is started then.
        Interrupted: after a signal; the running child has saved its state.
    """
    records = Records(plan)
    if not overwrite:
        _refuse_changed(records, jobs)
    outcome = Outcome(len(jobs))
    begin = time.monotonic()
    deadline = None if max_seconds is None else begin + max_seconds
    fresh = True
    root_of: dict[str, str] = {}  # job that failed or waits -> the failed one
    with stop_on_signal() as request:
        for number, job in enumerate(jobs):
            if records.state(job) == "done":
                outcome.done.append(job.id)
                continue
            if broken := [root for need in job.needs if (root := root_of.get(need))]:
                root_of[job.id] = broken[0]
                outcome.waiting.setdefault(broken[0], []).append(job.id)
                continue
            estimate = records.estimate(job)
            if deadline is not None and not fresh and not _fits(job, estimate, deadline - time.monotonic()):
                outcome.out_of_time = True
                break
            left = time_left(records, jobs[number:])
            about = "" if estimate is None else f", about {tqdm.format_interval(estimate)}"
            say(f"[{number + 1}/{len(jobs)}] {job.title}{about}; {left}")
            before = _progress(job)
            until = deadline
            if deadline is not None and fresh and job.kind != "train":
                until = None  # it would begin anew, and never end
                if estimate is None or not _fits(job, estimate, deadline - time.monotonic()):
                    long = about or ", time not known yet"
                    say(f"    only trainings are cut: this one runs to its end whatever --max_minutes{long}")
            ended, seconds = _attempt(plan, records, job, execute, request, until, lock)
            log = log_of(plan, job)
            if ended.status == 0 and job.result.is_file():
                records.finish(job, seconds)
                _tidy(plan, job)
                outcome.done.append(job.id)
            elif request.signum is not None:
                break
            elif ended.stopped:
                if fresh and _progress(job) == before:
                    outcome.failed[job.id] = f"came no step further in {seconds:.0f} s; raise --max_minutes"
                    say(f"    {outcome.failed[job.id]}")
                else:
                    outcome.out_of_time = True
                    break
            else:
                outcome.failed[job.id] = f"{_why(ended, job, log)} (log: {log})"
                say(f"    failed: {outcome.failed[job.id]}")
            if job.id in outcome.failed:
                root_of[job.id] = job.id
            fresh = False
            if request.signum is not None:
                break
    if request.signum is not None:
        raise Interrupted(
            request.signum,
            f"{len(outcome.done)} of {len(jobs)} done. Run the same command again to go on.",
        )
    return outcome


def _attempt(
    plan: Plan,
    records: Records,
    job: Job,
    execute: Execute,
    request: StopRequest,
    deadline: float | None,
    lock: int | None,
) -> tuple[Ended, float]:
    records.begin(job)
    command = (*job.command, "--resume") if job.kind == "train" and job.folder.exists() else job.command
    begin = time.monotonic()
    try:
        ended = execute(command, log_of(plan, job), request=request, deadline=deadline, lock=lock)
    finally:
        seconds = time.monotonic() - begin
    if ended.status != 0:
        records.add_time(job, seconds)
    return ended, seconds


def log_of(plan: Plan, job: Job) -> Path:
    """Where the output of `job` goes."""
    return plan.suite.output_dir / "logs" / f"{job.id}.log"


def time_left(records: Records, jobs: Sequence[Job]) -> str:
    """The time that `jobs` will take, as far as finished ones of their kind tell."""
    todo = [job for job in jobs if records.state(job) != "done"]
    known = [value for job in todo if (value := records.estimate(job)) is not None]
    if not known:
        return "time left not known yet"
    rest = len(todo) - len(known)
    return f"{tqdm.format_interval(sum(known))} left" + (f" and {rest} jobs not estimated" if rest else "")


def _refuse_changed(records: Records, jobs: Sequence[Job]) -> None:
    changed = [job for job in jobs if records.state(job) == "changed"]
    if changed:
        what = dict.fromkeys(text for job in changed for text in records.differences(job))
        names = "; ".join(what) or "defaults of edad_fast.train"
        raise InputError(
            f"{changed[0].folder}: was made otherwise: {names}. That is {len(changed)} of {len(jobs)} jobs "
            "to do again: give --overwrite for it, or another --output_dir"
        )


def _fits(job: Job, estimate: float | None, left: float) -> bool:
    if job.kind == "train":  # it saves what it has done
        return left >= min(_START_SECONDS, estimate or _START_SECONDS)
    return left >= 1.1 * (_START_SECONDS if estimate is None else estimate)


def _progress(job: Job) -> list[tuple[str, int]]:
    """What a stopped job leaves to go on from: its checkpoints, its result so far."""
    files = [*job.folder.glob("checkpoints/*/state.json"), job.result]
    return sorted((str(file), file.stat().st_mtime_ns) for file in files if file.is_file())


def _why(ended: Ended, job: Job, log: Path) -> str:
    if ended.status == 0:
        return f"ended without {job.result}"
    if ended.status < 0:
        hint = "; out of memory?" if ended.status == -9 else ""
        return f"killed by signal {-ended.status}{hint}"
    return last_line(log) or f"exit status {ended.status}"


def _tidy(plan: Plan, job: Job) -> None:
    """Remove what a finished training needs no more: checkpoints are several times its models."""
    if job.kind == "train" and not plan.suite.keep_checkpoints:
        for name in ("checkpoints", "shards"):
            shutil.rmtree(job.folder / name, ignore_errors=True)
