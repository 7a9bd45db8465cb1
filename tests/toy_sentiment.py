"""Two toy domains of labelled texts, a general BERT that can spell them, and runs on them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tiny import tiny_student, tiny_teacher

from edad_fast.methods.run import run
from edad_fast.options import parse_config

GOOD, BAD = ["raises", "often", "heart"], ["lowers", "never", "liver"]
FILLERS = {"source": ["the", "a", "of", "gene"], "target": ["with", "to", "cell", "drug"]}


def domain_rows(domain: str, texts: int, seed: int = 0) -> list[tuple[str, str]]:
    """(text, label) of different texts whose label is in their words."""
    rng = random.Random(f"{domain} {seed}")
    rows: dict[str, str] = {}
    while len(rows) < texts:
        label = rng.choice(["negative", "positive"])
        words = rng.choices(FILLERS[domain], k=rng.randint(3, 12))
        words += rng.choices(GOOD if label == "positive" else BAD, k=3)
        rng.shuffle(words)
        rows[" ".join(words)] = label
    return list(rows.items())


def write_csv(file: Path, rows: Sequence[tuple[str, ...]], header: str = "text,label") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n", encoding="utf-8")
    return file


def write_domains(folder: Path, texts: int = 90) -> Path:
    """general/ (a BERT), student.json, source/texts.csv and target/texts.csv in `folder`."""
    tiny_teacher(folder / "general")
    tiny_student(folder / "student.json", width=24)
    for domain in FILLERS:
        write_csv(folder / domain / "texts.csv", domain_rows(domain, texts))
    return folder


def train(output: Path, **options: Any) -> dict[str, Any]:
    """Run with these options; the report."""
    values = {
        "seq_len": 32,
        "precision": "fp32",
        "batch_tokens": 32 * 16,
        "log_every": 1,
        "device": "cpu",
        **options,
        "output_dir": output,
    }
    return run(parse_config([part for key, v in values.items() for part in (f"--{key}", str(v))]))
