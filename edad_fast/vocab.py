"""`python -m edad_fast.vocab`: learn domain WordPieces, merge them behind a general vocabulary, report.

Or count words only (--save_counts), or find pieces that no text produces (--check).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from .errors import InputError

_BROKEN_PIPE = 141  # as of a program that the signal ends


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 2 for bad input, 130 when interrupted, 141 without a reader."""
    try:
        # Here, so that Ctrl-C ends without a traceback while they load, too.
        from .vocabulary.command import run

        print(run(sys.argv[1:] if arguments is None else arguments), flush=True)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"interrupted; {stop.args[0] if stop.args else 'nothing was written'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # such as `| head`; Python would try again to write at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}; name another file or folder", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
