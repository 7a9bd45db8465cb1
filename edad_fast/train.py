"""`python -m edad_fast.train`: adapt a teacher to a domain and distil it into a student, in one pass."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .cli import main_guard
from .options import parse_config


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; without arguments, the demo. Returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments

    def body() -> None:
        if not arguments:
            from .demo import demo

            demo()
            return
        config = parse_config(arguments)
        from .methods.run import run
        from .report import summary_table

        report = run(config)
        if config.dry_run:
            print(report["dry_run"])
            return
        print(summary_table(report))
        print(f"student: {config.output_dir}/student   report: {config.output_dir}/report.md")

    return main_guard(body)


if __name__ == "__main__":
    sys.exit(main())
