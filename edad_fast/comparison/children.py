"""Child processes that end with their parent, log to a file, and can be asked to save and stop."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..training.signals import StopRequest

_GRACE_SECONDS = 180.0  # for a step and a checkpoint
_SHOW_SECONDS = 10.0
_LINE = 1000  # characters shown of a line
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Ended:
    """Exit status (minus the signal's number if one killed it), and whether it was asked to stop."""

    status: int
    stopped: bool = False


def run_child(
    command: Sequence[str],
    log: Path,
    *,
    request: StopRequest,
    deadline: float | None = None,
    lock: int | None = None,
) -> Ended:
    """Run `command` with its output appended to `log`; the log's last line is shown now and then.

    A signal noted in `request`, or the passing of `deadline`, sends it SIGINT: a training then saves a
    checkpoint. On Linux the child gets SIGTERM when this process dies, however it does.

    Args:
        deadline: as of `time.monotonic`.
        lock: open file that the child keeps open too, so that a lock on it lasts as long as the child.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches it through this process alone, once
            pass_fds=() if lock is None else (lock,),
            preexec_fn=_die_with_parent(),
        )
    shown, asked, show_at = "", 0.0, time.monotonic() + _SHOW_SECONDS
    while True:
        try:
            status = child.wait(timeout=0.2)
            return Ended(status, stopped=bool(asked))
        except subprocess.TimeoutExpired:
            now = time.monotonic()
        except BaseException:  # a second Ctrl-C
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            raise
        if not asked and (request.signum is not None or (deadline is not None and now >= deadline)):
            asked = now
            child.send_signal(signal.SIGINT)
        elif asked and now - asked > _GRACE_SECONDS:
            child.kill()
        if now >= show_at:
            show_at = now + _SHOW_SECONDS
            if (line := last_line(log)) != shown:
                shown = line
                print(f"    {line}", file=sys.stderr, flush=True)


def last_line(log: Path) -> str:
    """The last line of a log that says something, up to a word's end; an error line before any other."""
    if not log.is_file():
        return ""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 8192))
        text = stream.read().decode("utf-8", errors="replace").replace("\r", "\n")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines[-3:] if line.startswith("error: ")]
    line = (errors or lines or [""])[-1]
    if len(line) <= _LINE:
        return line
    return f"{line[:_LINE].rpartition(' ')[0] or line[:_LINE]} ..."


def _die_with_parent() -> Callable[[], None] | None:
    """A function for the new process that has the kernel send it SIGTERM when its parent is gone; Linux."""
    if not sys.platform.startswith("linux"):
        return None
    prctl, parent = ctypes.CDLL(None, use_errno=True).prctl, os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:  # it died before
            os._exit(1)

    return ask
