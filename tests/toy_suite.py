"""A comparison whose child processes are replaced by a function that writes what they would write."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from edad_fast.comparison.children import Ended
from edad_fast.comparison.command import compare

# Device hours of the stages of each method, times 1 + seed.
HOURS = {
    "edad": {"edad": 2.0},
    "adapt_then_distill": {"adapt": 1.5, "distil": 1.0},
    "general_distillation": {"distil": 1.0},
    "adapt_and_distill": {"adapt": 1.5, "distil": 1.0},
}


def write_suite(folder: Path, **changes: Any) -> Path:
    """A suite of two systems and one task; `changes` replace top-level keys."""
    for name in ("teacher", "ner"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "teacher" / "config.json").write_text("{}")
    (folder / "ner" / "train.tsv").write_text("a\tO\n")
    (folder / "corpus.txt").write_text("text\n")
    suite: dict[str, Any] = {
        "output_dir": str(folder / "out"),
        "seeds": [0, 1],
        "train": {"teacher": "{suite_dir}/teacher", "corpus": ["{suite_dir}/corpus.txt"], "max_steps": 4},
        "systems": {
            "edad": {"train": {"method": "edad"}},
            "two_stage": {"train": {"method": "adapt_then_distill"}},
        },
        "tasks": {"genes": {"kind": "ner", "data": "{suite_dir}/ner", "seeds": 1}},
        **changes,
    }
    file = folder / "suite.yaml"
    file.write_text(yaml.safe_dump(suite, sort_keys=False))
    return file


class Stub:
    """Stands in for `run_child`: notes what was started, and writes its results.

    Args:
        score: (folder of the model, of the task) -> entity F1; token macro F1 is 0.1 more.
        before: called with (number of the job, command) first; may raise, or return how the child ended.
    """

    def __init__(
        self,
        score: Callable[[str, str], float] = lambda model, task: 0.5,
        before: Callable[[int, Sequence[str]], Ended | None] | None = None,
        device: str = "toy",
    ) -> None:
        self.started: list[str] = []
        self.commands: list[list[str]] = []
        self.score, self.before, self.device = score, before, device

    def __call__(self, command: Sequence[str], log: Path, **rest: Any) -> Ended:
        command = list(command)
        self.commands.append(command)
        output = self._output(command)
        self.started.append(output.split("/out/")[1])
        log.parent.mkdir(parents=True, exist_ok=True)
        if self.before and (ended := self.before(len(self.started), command)):
            log.write_text("at work\nerror: the disk is made of cheese\n")
            return ended
        if command[2] == "edad_fast.train":
            self._train(Path(output), yaml.safe_load(Path(command[4]).read_text()))
        elif command[2] == "edad_fast.vocab":
            Path(output).mkdir(parents=True)
            (Path(output) / "vocab.txt").write_text("a\n")
        else:
            self._evaluate(Path(output), command)
        return Ended(0)

    @staticmethod
    def _output(command: list[str]) -> str:
        if command[2] == "edad_fast.train":
            return str(yaml.safe_load(Path(command[4]).read_text())["output_dir"])
        return command[command.index("--output_dir") + 1]

    def _train(self, output: Path, config: dict[str, Any]) -> None:
        for role, size in (("student", 10), ("teacher", 30)):
            (output / role).mkdir(parents=True, exist_ok=True)
            weights = {"w": torch.zeros(size, 2), "ids": torch.arange(7)}
            save_file(weights, output / role / "model.safetensors")
        (output / "checkpoints").mkdir(exist_ok=True)
        hours = {name: value * (1 + config["seed"]) for name, value in HOURS[config["method"]].items()}
        report = {"device_hours": {**hours, "total": sum(hours.values())}, "device_name": self.device}
        (output / "report.json").write_text(json.dumps(report))
        record = {"stage": "s", "tokens": 8, "alpha": 1.0, "terms": {"hidden": 2.0}}
        (output / "metrics.jsonl").write_text(json.dumps(record) + "\n")

    def _evaluate(self, output: Path, command: list[str]) -> None:
        output.mkdir(parents=True, exist_ok=True)
        seeds = int(command[command.index("--seeds") + 1])
        first = int(command[command.index("--seed") + 1]) if "--seed" in command else 0
        score = self.score(command[command.index("--model") + 1], output.name)
        runs = [
            {
                "seed": first + i,
                "test": {"entity_f1": score + i / 100, "token_macro_f1": score + i / 100 + 0.1},
            }
            for i in range(seeds)
        ]
        means = {
            key: {"mean": sum(run["test"][key] for run in runs) / seeds, "std": None}  # type: ignore[index]
            for key in ("entity_f1", "token_macro_f1")
        }
        (output / "ner.json").write_text(json.dumps({**means, "runs": runs}))


def start(file: Path, *flags: str, **stub: Any) -> tuple[int, Stub]:
    """Run the comparison of a suite file with a `Stub` of these arguments; its status, and the stub."""
    execute = Stub(**stub)
    return compare(["--config", str(file), *flags], execute), execute
