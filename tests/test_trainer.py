"""The loop of training: against one written out with torch alone, and when it must stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toy_training import ToyBatch, ToyBatches, ToyObjective, ToyRun, metrics, network, train

from edad_fast.errors import InputError
from edad_fast.training import Ledger, LossTerms, NonFiniteLoss, Stage, Trainer, TrainerSettings, random_state
from edad_fast.training.signals import stop_on_signal


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


# Signals, threads, devices.


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
