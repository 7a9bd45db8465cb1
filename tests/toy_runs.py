"""Tiny inputs of whole training runs, and their command lines."""

from __future__ import annotations

import json
from pathlib import Path

from tiny import tiny_corpus, tiny_student, tiny_teacher


def write_inputs(folder: Path) -> Path:
    tiny_teacher(folder / "teacher")
    tiny_corpus(folder / "corpus.txt")
    tiny_corpus(folder / "valid.txt", documents=10, seed=1)
    tiny_student(folder / "student.json")
    return folder


def arguments_of(inputs: Path, output: Path, **changes: object) -> list[str]:
    options: dict[str, object] = {
        "teacher": inputs / "teacher",
        "corpus": inputs / "corpus.txt",
        "validation": inputs / "valid.txt",
        "student": inputs / "student.json",
        "vocab_size": 90,
        "seq_len": 32,
        "batch_tokens": 256,
        "max_steps": 6,
        "loader_workers": 0,
        "precision": "fp32",
        "dropout": 0.1,
        "log_every": 1,
        "output_dir": output,
        **changes,
    }
    return [
        part for name, value in options.items() if value is not None for part in (f"--{name}", str(value))
    ]


def metrics_of(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
