"""SIGINT and SIGTERM ask the training loop to stop at the end of the step."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """A signal stopped the run after its state was saved; the message says how to go on.

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
    previous: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    process = os.getpid()

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

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

    for number in STOP_SIGNALS:
        signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
