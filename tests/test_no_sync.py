"""An optimiser step never waits for the device: nothing it computes is read back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_methods import Kit
from tiny import tiny_student
from torch.utils._python_dispatch import TorchDispatchMode

from edad_fast.training.optimizer import GroupedAdamW
from edad_fast.training.steps import StepRunner

# What has to know values, not only shapes, on the host.
READS_BACK = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.repeat_interleave.Tensor,
    torch.ops.aten._unique2.default,
}


class ReadsBack(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        boolean = func is torch.ops.aten.index.Tensor and any(
            x is not None and x.dtype == torch.bool for x in args[1]
        )
        if func in READS_BACK or boolean:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return Kit(tmp_path_factory.mktemp("kit"))


def _runner(
    kit: Kit, method: str, number: int, device: str, **options: Any
) -> tuple[StepRunner, Iterator[Any]]:
    backend = "chunked" if device == "cpu" else "auto"
    stage = kit.stage(number, method=method, loss_backend=backend, **options)
    stage.objective.to(device).train()
    groups = stage.objective.parameter_groups()
    optimizer = GroupedAdamW(
        stage.objective, groups, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8, max_grad_norm=1.0
    )
    optimizer.set_factor(1.0)
    return StepRunner(stage, optimizer, torch.device(device), "bf16"), stage.batches.iterate(0, 4)


STAGES = pytest.mark.parametrize(
    ("method", "number"), [("edad", 0), ("adapt_then_distill", 0), ("adapt_then_distill", 1)]
)


@STAGES
def test_no_step_reads_a_value_back(kit: Kit, method: str, number: int) -> None:
    _check_reads(*_runner(kit, method, number, "cpu"))


@pytest.mark.parametrize("method", ["edad", "general_distillation"])
@pytest.mark.parametrize("distillation", ["minilmv2", "distilbert"])
def test_no_distillation_reads_a_value_back(kit: Kit, tmp_path: Path, method: str, distillation: str) -> None:
    student = str(tiny_student(tmp_path / "wide.json", width=24))
    options = {"distillation": distillation, "relation_heads": 4, "student": student}
    _check_reads(*_runner(kit, method, 0, "cpu", **options))


def _check_reads(runner: StepRunner, steps: Iterator[Any]) -> None:
    runner.step(0, next(steps), 0)  # AdamW makes its state
    with ReadsBack() as watch:
        for step in (1, 2):
            record = runner.step(step, next(steps), 0)
    assert watch.found == []
    with ReadsBack() as watch:  # the watch sees what it is for
        record.figures()
        runner.first_bad()
    assert watch.found


@pytest.mark.gpu
@STAGES
def test_no_step_waits_for_the_gpu(kit: Kit, method: str, number: int) -> None:
    runner, steps = _runner(kit, method, number, "cuda")
    batches = [[x.pin_memory() for x in next(steps)] for _ in range(3)]
    runner.step(0, batches[0], 0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in (1, 2):
            runner.step(step, batches[step], 0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
