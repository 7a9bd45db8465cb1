"""The fast path against the plain one: the same text, seeds and steps, and what the models have learned.

python benchmarks/equal_quality.py --json equal.json   # MiniLM teacher, shared text, CPU: half an hour
python benchmarks/equal_quality.py --steps 4 --teacher DIR --corpus FILE

Fast: as edad_fast.train runs by default (bf16, fused losses). Plain: fp32 and the losses' definition, which
materialises scores and projections. The same initial weights, batches and masks for the same seed. Compared
are the held-out MLM losses at the end and the last tenth of the training's terms; the difference between the
paths is set against the standard deviation over seeds of one path, and against sqrt(2) of it, its noise.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from data import SHARED
from provenance import provenance

from edad_fast.report import format_table, read_metrics

PATHS = {"fast": [], "plain": ["--precision", "fp32", "--loss_backend", "reference"]}


def train(options: argparse.Namespace, path: str, seed: int, folder: Path) -> dict[str, float]:
    """Figures of one run; a finished one is read, a half-finished one goes on."""
    run = folder / f"{path}-{seed}"
    report = run / "report.json"
    if not report.is_file():
        vocabulary = ["--vocab_size", options.vocab_size]
        ready = folder / "fast-0" / "vocabulary" / "vocab.txt"  # learning gives the same for every run
        if ready.is_file() and run != folder / "fast-0":
            vocabulary = ["--vocab", str(ready)]
        words = [
            *(sys.executable, "-m", "edad_fast.train", "--teacher", options.teacher),
            *("--corpus", *options.corpus, *vocabulary, "--output_dir", run),
            *("--max_steps", options.steps, "--batch_tokens", options.batch_tokens, "--seed", seed),
            *("--log_every", 1, "--device", options.device, *PATHS[path]),
            *(["--resume"] if (run / "checkpoints").is_dir() else []),
        ]
        subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)
    found = json.loads(report.read_text(encoding="utf-8"))["mlm_loss"]
    figures = {f"held-out MLM loss, {model}": losses["after"] for model, losses in found.items()}
    records = read_metrics(run / "metrics.jsonl")
    last = records[-max(1, len(records) // 10) :]
    for term in last[-1]["terms"]:
        figures[f"training, {term}"] = statistics.fmean(record["terms"][term] for record in last)
    return figures


def compare(runs: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Each figure: means over the seeds, spread over seeds, the paths' difference seed by seed."""
    rows = []
    for name in runs["fast"][0]:
        fast, plain = ([run[name] for run in runs[path]] for path in ("fast", "plain"))
        differences = [a - b for a, b in zip(fast, plain, strict=True)]
        spread = statistics.stdev(plain) if len(plain) > 1 else float("nan")
        rows.append(
            {
                "figure": name,
                "fast": fast,
                "plain": plain,
                "difference": statistics.fmean(differences),
                "std_over_seeds": spread,
                "within_noise": abs(statistics.fmean(differences)) <= 2**0.5 * spread,
            }
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", default=str(SHARED / "models/minilm-l6-h384-uncased"))
    parser.add_argument("--corpus", nargs="+", default=[str(SHARED / "corpus/bio-00.txt.xz")])
    parser.add_argument("--vocab_size", default="40000")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch_tokens", type=int, default=2048)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--work", type=Path, help="keeps the runs; the same command goes on with them")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.work or Path(temporary)
        runs: dict[str, list[dict[str, float]]] = {path: [] for path in PATHS}
        for seed in range(options.seeds):
            for path in PATHS:
                runs[path].append(train(options, path, seed, folder))
                print(f"seed {seed}, {path}: {runs[path][-1]}", file=sys.stderr, flush=True)
    rows = compare(runs)
    device = torch.device("cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu")
    settings = {name: str(value) for name, value in vars(options).items()}
    result = {"kind": "equal_quality", **provenance(device), "settings": settings, "rows": rows}
    table = [
        [
            row["figure"],
            *(f"{statistics.fmean(row[path]):.4f}" for path in PATHS),
            *(f"{row[key]:+.4f}" for key in ("difference", "std_over_seeds")),
            "yes" if row["within_noise"] else "NO",
        ]
        for row in rows
    ]
    print(format_table(["figure", *PATHS, "difference", "std over seeds", "within noise"], table))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    main()
