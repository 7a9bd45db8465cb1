"""`python -m edad_fast.compare`: several systems on the same text, seeds and tasks, in one table."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .cli import main_guard


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    status = 0

    def body() -> None:
        nonlocal status
        from .comparison.command import compare

        status = compare(sys.argv[1:] if arguments is None else arguments)

    return main_guard(body) or status


if __name__ == "__main__":
    sys.exit(main())
