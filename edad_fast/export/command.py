"""Flags of all formats -> the one that was asked for. A format is one module with `add_parser` and `run`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from . import onnx, sentence_transformers

FORMATS = {"onnx": onnx, "sentence_transformers": sentence_transformers}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m edad_fast.export", description="Write a model in the format of another program."
    )
    formats = parser.add_subparsers(dest="format", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--model", type=Path, required=True, help="directory of the model and tokenizer")
    for module in FORMATS.values():
        module.add_parser(formats, common)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Export; return the exit status (2 for bad input, or a result unlike the original)."""
    args = _parser().parse_args(argv)
    from ..cli import main_guard

    return main_guard(lambda: FORMATS[args.format].run(args))
