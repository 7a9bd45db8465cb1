"""Seconds (wall, CPU) of the first pass over a file's lines in a new process: cold.py NAME VOCAB.TXT FILE."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import peers
from data import Text


def main(name: str, vocab: str, file: str) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    lines = Path(file).read_text(encoding="utf-8").split("\n")[:-1]
    text = Text(name, lines, Path(file), 0, True)
    pieces = Path(vocab).read_text(encoding="utf-8").split("\n")[:-1]
    encode: Callable[[Text], object]
    if name == "ours":
        from edad_fast.vocabulary import FastWordPieceTokenizer

        tokenizer = FastWordPieceTokenizer(pieces, lowercase=True)
        encode = lambda text: tokenizer.encode_flat(text.lines)  # noqa: E731
    else:
        with tempfile.TemporaryDirectory() as folder:
            encode = peers.ENCODERS[name][1](peers.Vocabulary(pieces, Path(folder)))
    wall, cpu = time.perf_counter(), time.process_time()
    encode(text)
    print(time.perf_counter() - wall, time.process_time() - cpu)


if __name__ == "__main__":
    main(*sys.argv[1:])
