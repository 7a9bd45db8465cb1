"""SIGINT and SIGTERM ask the training loop to stop at the end of the step."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """A signal stopped the run; the message says what was saved and how to go on.

    Entry points print the message and exit with `exit_status`.
    """

    def __init__(self, signum: int, message: str, checkpoint: Path | None = None) -> None:
        super().__init__(message)
        self.signum = signum
        self.checkpoint = checkpoint

    @classmethod
    def after(cls, signum: int, stage: str, step: int, checkpoint: Path) -> Interrupted:
        """Stopped after `step` steps of `stage`, saved in `checkpoint`."""
        return cls(
            signum,
            f"stopped by {signal.Signals(signum).name} after step {step} of stage {stage}; the state is "
            f"saved in {checkpoint}. Give the same command with --resume to go on.",
            checkpoint,
        )

    @property
    def exit_status(self) -> int:
        """128 + number of the signal, as a shell reports it."""
        return 128 + self.signum


def _handle(handler: Any) -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, handler)


def _restorer() -> Callable[[], None]:
    """A function that sets the handlers of the signals as they are now."""
    previous: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in STOP_SIGNALS}

    def restore() -> None:
        for number, before in previous.items():
            signal.signal(number, before if before is not None else signal.SIG_DFL)

    return restore


@contextmanager
def stop_at_once(doing: str, way_out: str, *, ends: bool = False) -> Iterator[None]:
    """While inside, SIGINT or SIGTERM stops the work where it is, with a message.

    Handlers can be set in the main thread alone; elsewhere nothing is caught.

    Args:
        doing, way_out: "stopped by SIGTERM while `doing`; `way_out`".
        ends: the process is to end then, and further signals (a launcher and the system may both send the
            same one) do not hurry it; else a second one acts as it did before.

    Raises:
        Interrupted: after a signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received, restore = StopRequest(), _restorer()

    def stop(number: int, frame: FrameType | None) -> None:
        received.signum = number
        if ends:
            _handle(signal.SIG_IGN)
        else:
            restore()
        # No `except Exception` on the way catches it.
        raise KeyboardInterrupt

    _handle(stop)
    try:
        yield
    except KeyboardInterrupt:
        if received.signum is None:
            raise
        name = signal.Signals(received.signum).name
        raise Interrupted(received.signum, f"stopped by {name} while {doing}; {way_out}") from None
    finally:
        if received.signum is None:
            restore()


class StopRequest:
    """The signal received, or None."""

    signum: int | None = None


@contextmanager
def stop_on_signal(repeated: bool = False) -> Iterator[StopRequest]:
    """While inside, the first SIGINT or SIGTERM is only noted; a second one acts as it did before, at once.

    With `repeated`, further ones are only noted too: a launcher and the system may both send the same one to
    every process. Handlers can be set in the main thread alone; elsewhere nothing is caught.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    process, restore = os.getpid(), _restorer()

    def note(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            # A worker forked while the handler was set: the parent decides when to stop.
            return
        request.signum = number
        if repeated:
            return
        restore()
        name = signal.Signals(number).name
        os.write(2, f"\n{name}: finishing this step and saving; once more aborts at once\n".encode())

    _handle(note)
    try:
        yield request
    finally:
        restore()
