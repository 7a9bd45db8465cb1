"""Flags of all tasks -> the one that was asked for. To add a task: one module with `add_parser` and `run`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from . import embeddings, mlm, ner, sentiment, speed

TASKS = {"ner": ner, "sentiment": sentiment, "mlm": mlm, "embeddings": embeddings, "speed": speed}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m edad_fast.evaluate",
        description="Judge a model. Each task prints a table and writes TASK.json and TASK.md into "
        "--output_dir.",
    )
    tasks = parser.add_subparsers(dest="task", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--model", type=Path, required=True, help="directory of the model and tokenizer")
    common.add_argument("--output_dir", type=Path, help="default: evaluation/ in the model's directory")
    common.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    common.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="auto: fastest")
    common.add_argument("--num_threads", type=int, help="CPU threads; default: torch's choice")
    for task in TASKS.values():
        task.add_parser(tasks, common)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one task; return the exit status (2 for bad input)."""
    args = _parser().parse_args(argv)
    from ..cli import main_guard

    return main_guard(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    try:
        TASKS[args.task].run(args)
    except PermissionError as error:
        raise InputError(f"{error.filename}: no permission; name a folder with --output_dir") from error
