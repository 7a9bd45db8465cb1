"""`python -m edad_fast.train`: adapt a teacher to a domain and distil it into a student, in one pass."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .cli import main_guard
from .errors import InputError
from .options import parse_config
from .training import told_by_main, world_size


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; without arguments, the demo. Returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments

    def body() -> None:
        if not arguments:
            if world_size() > 1:
                with told_by_main():
                    raise InputError("the demo runs in one process; start it without torchrun")
            from .demo import demo

            demo()
            return
        with told_by_main():
            config = parse_config(arguments)
        from .methods.run import run
        from .report import summary_table

        report = run(config)
        if not report:  # process 0 says it
            return
        if config.dry_run:
            print(report["dry_run"])
            return
        print(summary_table(report))
        model = "student" if "student" in report["parameters"] else "teacher"
        print(f"{model}: {config.output_dir}/{model}   report: {config.output_dir}/report.md")

    return main_guard(body)


if __name__ == "__main__":
    sys.exit(main())
