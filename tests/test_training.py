from __future__ import annotations

import io
import json
import os
import random
import signal
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from toy_training import WIDTH, ToyBatch, ToyBatches, ToyObjective, ToyRun, network, train

from edad_fast.errors import InputError
from edad_fast.training import (
    GroupedAdamW,
    Ledger,
    LossTerms,
    NonFiniteLoss,
    ParameterGroup,
    Stage,
    StageCost,
    Trainer,
    TrainerSettings,
    random_state,
    schedule_factor,
)
from edad_fast.training.progress import MetricsLog, ProgressDisplay
from edad_fast.training.signals import stop_on_signal

CPU = torch.device("cpu")


def metrics(output_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]


def optimizer_of(objective: ToyObjective, groups: list[ParameterGroup] | None = None) -> GroupedAdamW:
    groups = groups if groups is not None else objective.parameter_groups()
    return GroupedAdamW(objective, groups, weight_decay=0.1, betas=(0.9, 0.99), eps=1e-8, max_grad_norm=0.5)


# The loop against a loop written out with torch alone.


def test_training_is_adamw_with_warmup_decay_and_clipping_by_group(tmp_path: Path) -> None:
    run = ToyRun((9, 1), dropout=0.0)
    train(tmp_path, run, max_grad_norm=0.3, weight_decay=0.1, warmup_fraction=0.34, seed=4)
    saved = load_file(tmp_path / "checkpoints" / "stage0-step00000009" / "model.safetensors")

    random_state.seed_all(4, 0, "build")
    objective = ToyObjective(network(), network(), dropout=0.0)
    nets = [objective.teacher, objective.student]
    groups = []
    for net, rate in zip(nets, (1e-2, 2e-2), strict=True):
        matrices = [net[0].weight, net[2].weight]
        vectors = [net[0].bias, net[1].weight, net[1].bias, net[2].bias]
        groups += [
            {"params": matrices, "weight_decay": 0.1, "base": rate},
            {"params": vectors, "weight_decay": 0.0, "base": rate},
        ]
    adamw = torch.optim.AdamW(groups, lr=0.0)
    for step in range(9):
        for group in adamw.param_groups:
            factor = [1 / 4, 2 / 4, 3 / 4, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6][step]
            group["lr"] = group["base"] * factor
        (batch,) = ToyBatches().step(step)
        adamw.zero_grad()
        objective(batch, 1 - step / 9).total.backward()
        for net in nets:
            torch.nn.utils.clip_grad_norm_(net.parameters(), 0.3)
        adamw.step()
    for name, parameter in objective.named_parameters():
        torch.testing.assert_close(saved[name], parameter.detach())


@pytest.mark.parametrize("micro", [2, 4])
def test_accumulation_equals_one_big_batch(tmp_path: Path, micro: int) -> None:
    runs = [ToyRun(batches=ToyBatches(parts), dropout=0.0) for parts in (1, micro)]
    for number, run in enumerate(runs):
        train(tmp_path / str(number), run)
    whole, parts = (run.weights() for run in runs)
    for name in whole:
        if name != "seen":
            torch.testing.assert_close(parts[name], whole[name], rtol=1e-4, atol=1e-5)
    logged = [metrics(tmp_path / str(number)) for number in (0, 1)]
    for one, other in zip(*logged, strict=True):
        assert other["terms"] == pytest.approx(one["terms"], rel=1e-3)
        assert other["tokens"] == one["tokens"]


def test_checkpoints_and_checks_do_not_change_the_result(tmp_path: Path) -> None:
    runs = [ToyRun(), ToyRun()]
    train(tmp_path / "a", runs[0], checkpoint_every=0, log_every=100, check_finite_every=100)
    train(tmp_path / "b", runs[1], checkpoint_every=1, log_every=1, check_finite_every=1)
    assert all(value.equal(runs[1].weights()[name]) for name, value in runs[0].weights().items())


def test_seed_decides_weights_and_dropout(tmp_path: Path) -> None:
    runs = [ToyRun(), ToyRun()]
    for seed, run in enumerate(runs):
        train(tmp_path / str(seed), run, seed=seed)
    assert not runs[0].weights()["teacher.0.weight"].equal(runs[1].weights()["teacher.0.weight"])


def test_stages_are_built_in_turn_and_announced_when_they_end(tmp_path: Path) -> None:
    run, events = ToyRun(), list[str]()
    trainer = Trainer(tmp_path, TrainerSettings(), run_state={})
    trainer.run(run.stages, resume=False, on_stage_end=lambda name: events.append(f"{name} {run.built}"))
    assert events == ["first ['first']", "second ['first', 'second']"]


def test_two_stages_of_one_name_are_refused(tmp_path: Path) -> None:
    run = ToyRun((1, 1))
    with pytest.raises(ValueError, match="'first'"):
        Trainer(tmp_path, TrainerSettings(), run_state={}).run([run.stages[0]] * 2, resume=False)


def test_batches_that_end_early_are_an_error(tmp_path: Path) -> None:
    class Short(ToyBatches):
        def iterate(self, start: int, stop: int) -> Iterator[list[ToyBatch]]:
            return super().iterate(start, 3)

    with pytest.raises(ValueError, match="stage first: no batches for step 3 of 11"):
        train(tmp_path, ToyRun(batches=Short()))


def test_metrics_hold_what_a_plot_needs(tmp_path: Path) -> None:
    train(tmp_path, ToyRun(), log_every=4, warmup_fraction=0.0)
    records = metrics(tmp_path)
    assert [(r["stage"], r["step"]) for r in records] == [
        *(("first", step) for step in (1, 4, 8, 11)),
        *(("second", step) for step in (1, 4, 7)),
    ]
    assert [r["tokens"] for r in records] == [r["step"] * 4 * WIDTH for r in records]
    assert records[1]["alpha"] == 1 - 3 / 11
    assert records[1]["learning_rate"] == pytest.approx({"teacher": 1e-2 * 8 / 11, "student": 2e-2 * 8 / 11})
    for r in records:
        mixed = r["alpha"] * r["terms"]["fit"] + (1 - r["alpha"]) * r["terms"]["imitate"]
        assert r["loss"] == pytest.approx(mixed, rel=1e-5)
        assert r["grad_norm"].keys() == {"teacher", "student"}
        assert r["tokens_per_second"] > 0


def test_bf16_computes_in_bf16_and_keeps_float32_weights(tmp_path: Path) -> None:
    dtypes = set()

    class Watching(ToyObjective):
        def forward(self, batch: ToyBatch, alpha: float) -> LossTerms:
            dtypes.add(self.teacher(batch.inputs).dtype)
            return super().forward(batch, alpha)

    objective = Watching(network(), network())
    stage = Stage("only", objective, ToyBatches(), 3)
    trainer = Trainer(tmp_path, TrainerSettings(precision="bf16"), run_state={})
    trainer.run([lambda: stage], resume=False)
    assert dtypes == {torch.bfloat16}
    assert {parameter.dtype for parameter in objective.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("setting", "value"),
    [("precision", "fp16"), ("log_every", 0), ("keep_checkpoints", 0), ("warmup_fraction", 1.5)],
)
def test_settings_out_of_range_are_named(setting: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"{setting}.*{value}"):
        TrainerSettings(**{setting: value})


# Losses that are not finite.


@pytest.mark.parametrize("every", [1, 3, 50])
def test_nan_loss_is_named_and_the_state_before_it_saved(tmp_path: Path, every: int) -> None:
    clean = ToyRun(batches=ToyBatches(micro=2))
    train(tmp_path / "clean", clean, checkpoint_every=5, keep_checkpoints=9)
    run = ToyRun(batches=ToyBatches(micro=2, poison={5: 2}))
    settings = {"log_every": 50, "check_finite_every": every, "checkpoint_every": 0}
    with pytest.raises(NonFiniteLoss, match="stage first, step 6: loss term fit is not finite") as caught:
        train(tmp_path / "nan", run, **settings)
    error = caught.value
    assert (error.stage, error.step, error.rows) == ("first", 5, (22, 23))
    assert "22, 23" in str(error)
    assert str(error.checkpoint) in str(error)
    expected = tmp_path / "clean" / "checkpoints" / "stage0-step00000005"
    for file in ("model", "optimizer", "rng"):
        tensors = [load_file(folder / f"{file}.safetensors") for folder in (error.checkpoint, expected)]
        assert tensors[0].keys() == tensors[1].keys()
        # NaN stands for "no value" in rng; `seen` counts the steps tried.
        names = [name for name in tensors[0] if name not in ("seen", "python_extra")]
        assert all(tensors[0][name].equal(tensors[1][name]) for name in names)
        assert all(tensors[0][name].isfinite().all() for name in names)
    # With the bad rows mended the run goes on as if nothing had been.
    mended = ToyRun(batches=ToyBatches(micro=2))
    train(tmp_path / "nan", mended, resume=True, **settings)
    names = [name for name in clean.weights() if name != "seen"]
    assert all(clean.weights()[name].equal(mended.weights()[name]) for name in names)


def test_nan_in_the_first_step_saves_the_initial_state(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLoss, match="step 1:") as caught:
        train(tmp_path, ToyRun(batches=ToyBatches(poison={0: 0})))
    assert caught.value.checkpoint.name == "stage0-step00000000"
    with pytest.raises(NonFiniteLoss, match="step 1:"):
        train(tmp_path, ToyRun(batches=ToyBatches(poison={0: 0})), resume=True)
    train(tmp_path, ToyRun(), resume=True)


def test_a_bad_gradient_of_a_finite_loss_is_named(tmp_path: Path) -> None:
    class Steep(ToyObjective):
        def forward(self, batch: ToyBatch, alpha: float) -> LossTerms:
            loss = super().forward(batch, alpha)
            # sqrt has an infinite slope at 0.
            return LossTerms(loss.total + (self.student[0].weight.sum() * 0).sqrt(), loss.terms)

    stage = Stage("only", Steep(network(), network()), ToyBatches(), 3)
    with pytest.raises(NonFiniteLoss, match="the gradient of group student is not finite") as caught:
        Trainer(tmp_path, TrainerSettings(), run_state={}).run([lambda: stage], resume=False)
    assert caught.value.rows == (0, 1, 2, 3)


# Learning rate and optimiser.


@given(steps=st.integers(1, 400), data=st.data())
def test_schedule_rises_then_falls_and_is_never_zero(steps: int, data: st.DataObject) -> None:
    warmup = data.draw(st.integers(0, steps))
    factors = [schedule_factor(step, steps, warmup) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[:warmup] == sorted(factors[:warmup])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
    if warmup < steps:
        assert factors[warmup] == 1
        assert factors[-1] == pytest.approx(1 / (steps - warmup))


def trained_optimizer(objective: ToyObjective, groups: list[ParameterGroup], steps: range) -> GroupedAdamW:
    optimizer = optimizer_of(objective, groups)
    optimizer.set_factor(1.0)
    advance(objective, optimizer, steps)
    return optimizer


def advance(objective: ToyObjective, optimizer: GroupedAdamW, steps: range) -> None:
    for step in steps:
        objective(ToyBatches().step(step)[0], 0.5).total.backward()
        optimizer.clip()
        optimizer.step(skip=torch.zeros(()))


def test_optimizer_state_is_by_name_whatever_the_order() -> None:
    torch.manual_seed(0)
    objective = ToyObjective(network(), network(), dropout=0.0)
    first = trained_optimizer(objective, objective.parameter_groups(), range(3))
    copy = ToyObjective(network(), network(), dropout=0.0)
    copy.load_state_dict(objective.state_dict())
    turned = [
        ParameterGroup(group.name, dict(reversed(group.parameters.items())), group.learning_rate)
        for group in reversed(copy.parameter_groups())
    ]
    second = optimizer_of(copy, turned)
    second.load_state(first.state())
    second.set_factor(1.0)
    assert second.state().keys() == first.state().keys()
    advance(objective, first, range(3, 6))
    advance(copy, second, range(3, 6))
    for name, parameter in copy.named_parameters():
        torch.testing.assert_close(parameter, dict(objective.named_parameters())[name])


def test_a_skipped_step_changes_nothing() -> None:
    objective = ToyObjective(network(), network(), dropout=0.0)
    optimizer = trained_optimizer(objective, objective.parameter_groups(), range(2))
    before = [value.clone() for value in (*objective.parameters(), *optimizer.state().values())]
    for parameter in objective.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    optimizer.step(skip=torch.ones(()))
    after = [*objective.parameters(), *optimizer.state().values()]
    assert all(one.equal(other) for one, other in zip(before, after, strict=True))


def test_optimizer_state_of_other_models_is_refused_by_name() -> None:
    optimizer = optimizer_of(ToyObjective(network(), network()))
    with pytest.raises(InputError, match="exp_avg/other"):
        optimizer.load_state({"exp_avg/other": torch.zeros(1)})
    with pytest.raises(InputError, match=r"exp_avg/teacher.0.weight \[1\]"):
        optimizer.load_state({"exp_avg/teacher.0.weight": torch.zeros(1)})


def bad_groups(kind: str, objective: ToyObjective) -> list[ParameterGroup]:
    teacher, student = objective.parameter_groups()
    if kind == "stranger":
        teacher.parameters["stranger"] = nn.Parameter(torch.zeros(1))
    elif kind == "twice":
        student.parameters["2.bias"] = teacher.parameters["2.bias"]
    elif kind == "frozen":
        teacher.parameters["0.bias"].requires_grad_(False)
    elif kind == "float16":
        objective.student.half()
    elif kind == "no parameters":
        teacher.parameters.clear()
    elif kind == "distinct":
        student.name = "teacher"
    return [teacher, student]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("stranger", "stranger is not a parameter"),
        ("twice", "2.bias is listed twice"),
        ("frozen", "0.bias must be trainable"),
        ("float16", "0.weight must be .*float32"),
        ("no parameters", "teacher has no parameters"),
        ("distinct", "distinct names"),
    ],
)
def test_wrong_parameter_groups_are_refused(kind: str, message: str) -> None:
    objective = ToyObjective(network(), network())
    with pytest.raises(ValueError, match=message):
        optimizer_of(objective, bad_groups(kind, objective))


def test_a_parameter_without_gradient_is_left_alone() -> None:
    objective = ToyObjective(network(), network(), dropout=0.0)
    optimizer = optimizer_of(objective)
    optimizer.set_factor(1.0)
    before = [parameter.clone() for parameter in objective.student.parameters()]
    objective.teacher(torch.ones(1, WIDTH)).sum().backward()
    assert optimizer.clip()["student"] == 0
    optimizer.step(skip=torch.zeros(()))
    assert all(one.equal(two) for one, two in zip(before, objective.student.parameters(), strict=True))
    assert not [name for name in optimizer.state() if "student" in name]


def draws() -> tuple[list[float], list[float], list[float]]:
    return (
        torch.rand(3).tolist(),
        [float(np.random.normal()) for _ in range(3)],
        [random.gauss(0, 1) for _ in range(3)],
    )


@pytest.mark.parametrize("odd", [0, 1])
def test_random_state_comes_back_in_the_middle_of_a_pair_of_normals(odd: int) -> None:
    random_state.seed_all("key", odd)
    if odd:
        draws()
    state = random_state.capture(CPU)
    first = draws()
    draws()
    random_state.restore(state, CPU)
    assert draws() == first


# Ledger, progress, TensorBoard, signals.


def test_ledger_counts_what_was_done_and_survives_json(tmp_path: Path) -> None:
    ledger = train(tmp_path, ToyRun((5, 3)))
    assert [(cost.name, cost.steps, cost.tokens) for cost in ledger.stages] == [
        ("first", 5, 5 * 4 * WIDTH),
        ("second", 3, 3 * 4 * WIDTH),
    ]
    assert all(cost.peak_memory_bytes > 2**20 for cost in ledger.stages)
    assert ledger.stages[0].peak_memory_kind == "process resident"
    again = Ledger.from_json(json.loads(json.dumps(ledger.to_json())))
    assert again == ledger


def test_device_hours_count_every_device_and_speed_the_wall_clock() -> None:
    ledger = Ledger([StageCost("a", device_seconds=7200.0, tokens=3600, devices=2), StageCost("b")])
    assert ledger.device_hours == 2.0
    assert ledger.stages[0].tokens_per_second == 1.0
    assert ledger.stages[1].tokens_per_second == 0.0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


RECORD = {"step": 3, "loss": 1.5, "terms": {"mlm": 2.25}, "alpha": 0.25, "tokens_per_second": 1234.0}


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()], ids=["terminal", "file"])
def test_progress_shows_losses_alpha_speed_and_time_left(stream: io.StringIO) -> None:
    display = ProgressDisplay("adapt", 2, 9, stream)
    display.advance()
    display.show(RECORD)
    display.close()
    text = stream.getvalue()
    for figure in ("adapt", "3/9", "loss 1.5", "mlm 2.25", "alpha 0.250", "1,234 tokens/s"):
        assert figure in text
    assert "left" in text or "<" in text
    assert ("\r" in text) == stream.isatty()


def test_tensorboard_missing_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match="pip install tensorboard"):
        train(tmp_path, ToyRun(), tensorboard=True)


def test_tensorboard_gets_the_figures_of_the_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scalars: dict[tuple[str, str, int], float] = {}

    class SummaryWriter:
        def __init__(self, folder: str, purge_step: int) -> None:
            assert purge_step == 1
            self.folder = Path(folder)

        def add_scalar(self, tag: str, value: float, step: int) -> None:
            scalars[self.folder.name, tag, step] = value

        def close(self) -> None:
            pass

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    train(tmp_path, ToyRun(), tensorboard=True)
    for record in metrics(tmp_path):
        place = (record["stage"], record["step"])
        assert scalars[place[0], "loss", place[1]] == record["loss"]
        assert scalars[place[0], "terms/fit", place[1]] == record["terms"]["fit"]
        assert scalars[place[0], "learning_rate/teacher", place[1]] == record["learning_rate"]["teacher"]


def test_a_full_disk_while_logging_is_explained(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full on this system")
    (tmp_path / "metrics.jsonl").symlink_to(full)
    with pytest.raises(InputError, match=f"{tmp_path}: no space left"):
        MetricsLog(tmp_path / "metrics.jsonl").append({"step": 1})


def test_the_first_signal_is_noted_and_the_second_acts(capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_on_signal() as request:
        assert request.signum is None
        os.kill(os.getpid(), signal.SIGINT)
        assert request.signum == signal.SIGINT
        assert "SIGINT: finishing this step" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_training_works_outside_the_main_thread(tmp_path: Path) -> None:
    ledgers: list[Ledger] = []
    thread = threading.Thread(target=lambda: ledgers.append(train(tmp_path, ToyRun((2, 1)))))
    thread.start()
    thread.join()
    assert ledgers[0].steps == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_run_resumes_and_measures_its_memory(tmp_path: Path) -> None:
    ledger = train(tmp_path, ToyRun(), device="cuda", precision="bf16", checkpoint_every=4)
    assert ledger.stages[0].peak_memory_kind == "cuda allocated"
    run = ToyRun(batches=ToyBatches(poison={5: 2}))
    with pytest.raises(NonFiniteLoss, match="step 6: loss term fit"):
        train(tmp_path / "nan", run, device="cuda", check_finite_every=4)
    again = train(tmp_path / "nan", ToyRun(), device="cuda", resume=True)
    assert again.steps == 18
