"""What all entry points share: log lines, and errors without tracebacks."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from .errors import InputError
from .training import Interrupted, ToldByMain, is_main_process


def main_guard(body: Callable[[], None]) -> int:
    """Run `body`; print an error that the user can mend without a traceback (of several processes' once).

    Returns:
        0; 2 for bad input; 128 + signal number after SIGINT or SIGTERM.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger("edad_fast").setLevel(logging.INFO if is_main_process() else logging.ERROR)
    try:
        body()
    except Interrupted as stop:
        if is_main_process():
            print(stop, file=sys.stderr)
        return stop.exit_status
    except KeyboardInterrupt:
        if is_main_process():
            print("interrupted", file=sys.stderr)
        return 130
    except ToldByMain:
        return 2
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}; name another file or folder", file=sys.stderr)
        return 2
    return 0
