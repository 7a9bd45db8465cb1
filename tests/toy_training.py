"""A toy objective and batch stream for the tests of training, also a program to kill and resume.

python toy_training.py OUTPUT_DIR OPTIONS_JSON

Options: those of TrainerSettings; steps: of both stages; delay: seconds a step waits; dropout; micro; poison:
row of a step -> NaN; signal: [rank, step, number], sent by a process to itself; timeout: of the group; kill:
"time" or "events" ends the training by SIGKILL repeatedly, after random times or at random file system calls,
until it is through.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edad_fast.cli import main_guard
from edad_fast.training import (
    Ledger,
    LossTerms,
    ParameterGroup,
    Stage,
    Trainer,
    TrainerSettings,
    World,
    join,
)

WIDTH = 7


@dataclass(frozen=True)
class ToyBatch:
    inputs: Tensor
    share: float
    rows: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return len(self.rows) * WIDTH

    def to(self, device: torch.device, non_blocking: bool = False) -> ToyBatch:
        return ToyBatch(self.inputs.to(device, non_blocking=non_blocking), self.share, self.rows)


class ToyBatches:
    """Step k's batches are a pure function of k, in `micro` micro-batches of together 4 rows.

    Several processes share the rows. `signals`: {step: signal that this process sends itself}.
    """

    def __init__(
        self,
        micro: int = 1,
        poison: dict[int, int] | None = None,
        delay: float = 0.0,
        world: World | None = None,
        signals: dict[int, int] | None = None,
    ) -> None:
        self.micro, self.poison, self.delay = micro, poison or {}, delay
        self.world, self.signals = world or World(), signals or {}

    def step(self, step: int) -> list[ToyBatch]:
        inputs = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(step))
        if step in self.poison:
            inputs[self.poison[step]] = float("nan")
        rows = range(4 * step, 4 * step + 4)
        part = 4 // self.world.size
        mine = slice(part * self.world.rank, part * (self.world.rank + 1))
        inputs, rows = inputs[mine], rows[mine]
        size = part // self.micro
        return [
            ToyBatch(inputs[i : i + size], 1 / self.micro, tuple(rows[i : i + size]))
            for i in range(0, part, size)
        ]

    def iterate(self, start: int, stop: int) -> Iterator[list[ToyBatch]]:
        # As a data loader does when its workers start.
        torch.randint(10, (1,))
        for step in range(start, stop):
            time.sleep(self.delay)
            if step in self.signals:
                os.kill(os.getpid(), self.signals[step])
            yield self.step(step)


class ToyObjective(nn.Module):
    """A teacher with tied weights and a buffer, a student that learns from it; dropout in both."""

    def __init__(self, teacher: nn.Module, student: nn.Module, dropout: float = 0.3) -> None:
        super().__init__()
        self.teacher, self.student = teacher, student
        self.tied = teacher
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)

    def forward(self, batch: ToyBatch, alpha: float) -> LossTerms:
        self.seen += 1
        told = self.teacher(self.dropout(batch.inputs))
        learned = self.student(self.dropout(batch.inputs))
        fit = batch.share * (told - batch.inputs).square().mean()
        imitate = batch.share * (learned - told.detach()).square().mean()
        total = alpha * fit + (1 - alpha) * imitate
        return LossTerms(total, {"fit": fit.detach(), "imitate": imitate.detach()})

    def parameter_groups(self) -> list[ParameterGroup]:
        return [
            ParameterGroup("teacher", dict(self.teacher.named_parameters()), 1e-2),
            ParameterGroup("student", dict(self.student.named_parameters()), 2e-2),
        ]


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH))


class ToyRun:
    """Two stages over the same models: the second starts from what the first left."""

    def __init__(
        self, steps: tuple[int, int] = (11, 7), batches: ToyBatches | None = None, dropout: float = 0.3
    ) -> None:
        self.steps, self.batches, self.dropout = steps, batches or ToyBatches(), dropout
        self.models: dict[str, nn.Module] = {}
        self.objective: ToyObjective | None = None
        self.built: list[str] = []

    def build(self, name: str) -> Stage:
        self.built.append(name)
        if name == "first":
            self.models = {"teacher": network(), "student": network()}
        else:
            # Fresh weights drawn in the second stage must come out the same on resume, too.
            self.models["student"] = network()
        self.objective = ToyObjective(self.models["teacher"], self.models["student"], self.dropout)
        steps = self.steps[0 if name == "first" else 1]
        layers = [self.models["teacher"], self.models["student"]]
        return Stage(name, self.objective, self.batches, steps, lambda progress: 1 - progress, layers)

    @property
    def stages(self) -> list[Callable[[], Stage]]:
        return [lambda: self.build("first"), lambda: self.build("second")]

    def weights(self) -> dict[str, Tensor]:
        assert self.objective is not None
        return {name: value.clone() for name, value in self.objective.state_dict().items()}


def train(
    output_dir: Path, run: ToyRun, *, resume: bool = False, world: World | None = None, **settings: Any
) -> Ledger:
    trainer = Trainer(output_dir, TrainerSettings(**settings), run_state={"config": "toy"}, world=world)
    return trainer.run(run.stages, resume=resume)


def metrics(output_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]


def attempt(output_dir: Path, options: dict[str, Any]) -> int:
    steps, dropout = options.pop("steps"), options.pop("dropout", 0.3)
    batches = {key: options.pop(key) for key in ("micro", "delay") if key in options}
    poison = {int(step): row for step, row in options.pop("poison", {}).items()}
    rank, step, number = options.pop("signal", (0, -1, 0))

    def body() -> None:
        with join(torch.device("cpu"), options.pop("timeout", 60.0)) as world:
            signals = {step: number} if world.rank == rank else {}
            stream = ToyBatches(**{"micro": 2} | batches, poison=poison, world=world, signals=signals)
            run = ToyRun(tuple(steps), stream, dropout)
            ledger = train(output_dir, run, resume=True, world=world, **options)
            weights = {name: value.tolist() for name, value in run.weights().items()}
            result = {"weights": weights, "ledger": ledger.to_json()}
            name = "result.json" if world.main else f"result-{world.rank}.json"
            (output_dir / name).write_text(json.dumps(result))

    return main_guard(body)


def kill_at_event(number: int, folder: Path) -> None:
    """SIGKILL this process at its `number`-th call that opens or changes a file in `folder`."""
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir") and str(folder) in str(
            arguments
        ):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def kill_until_done(output_dir: Path, options: dict[str, Any], how: str) -> int:
    """Train in child processes, killing each; the number of kills."""
    # What torch imports late must not count as time of each child.
    attempt(output_dir.with_name(f"{output_dir.name}-warm"), dict(options, steps=[1, 1]))
    chance = random.Random(5)
    kills = 0
    while True:
        event, patience = chance.randrange(1, 80), chance.uniform(0.01, 0.2 + 0.01 * kills)
        child = os.fork()
        if child == 0:
            if how == "events":
                kill_at_event(event, output_dir)
            os._exit(attempt(output_dir, dict(options)))
        if how == "time":
            time.sleep(patience)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            return kills
        kills += 1


def main() -> int:
    output_dir, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    how = options.pop("kill", None)
    if how is None:
        return attempt(output_dir, options)
    print(kill_until_done(output_dir, options, how))
    return 0


if __name__ == "__main__":
    sys.exit(main())
