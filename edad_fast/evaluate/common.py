"""What the tasks share: flags, device, fingerprints of the inputs, and the files of a result."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import InputError
from ..files import atomic_write, write_json
from ..report.tables import format_table

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def prepare_device(args: argparse.Namespace) -> tuple[Any, str]:
    """Device and precision of the flags, after a look at the model directories.

    Raises:
        InputError: a directory holds no model, or the device does not exist.
    """
    import torch
    import transformers

    from ..tasks.device import resolve_device, resolve_precision

    if args.num_threads is not None:
        if args.num_threads < 1:
            raise InputError("--num_threads must be at least 1")
        torch.set_num_threads(args.num_threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for directory in (args.model, getattr(args, "teacher", None)):
        if directory is not None and not (directory / "config.json").is_file():
            raise InputError(f"{directory}: no config.json; give the directory of a saved model")
        if directory is not None and not list(directory.glob("*.safetensors")):
            raise InputError(f"{directory}: no weights (*.safetensors); give the directory of a saved model")
    device = resolve_device(args.device)
    return device, resolve_precision(args.precision, device)


def fingerprint(paths: Sequence[Path]) -> str:
    """Hash of the names and contents of files, in their order."""
    total = hashlib.blake2b(digest_size=16)
    for path in paths:
        total.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def model_files(model: Path) -> list[Path]:
    """The files of a model directory that decide its results."""
    names = ("config.json", "tokenizer.json", "vocab.txt")
    return [
        *(model / name for name in names if (model / name).is_file()),
        *sorted(model.glob("*.safetensors")),
    ]


def finish(
    args: argparse.Namespace,
    task: str,
    result: dict[str, Any],
    headers: list[str],
    rows: list[list[str]],
    note: str,
) -> None:
    """Write TASK.json and TASK.md and print the table."""
    output = args.output_dir or args.model / "evaluation"
    write_json(output / f"{task}.json", result)
    write_text(output / f"{task}.md", format_table(headers, rows, style="markdown") + f"\n{note}\n")
    print(f"{format_table(headers, rows)}\n{note}\nwritten to {output}/{task}.json")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_seeds(args: argparse.Namespace) -> None:
    """Raise InputError unless --seeds and --seed can be."""
    if args.seeds < 1:
        raise InputError("--seeds must be at least 1")
    if args.seed < 0:
        raise InputError("--seed must be at least 0")
