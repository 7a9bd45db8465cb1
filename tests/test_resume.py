from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import toy_training
from toy_training import ToyRun, train

import edad_fast
from edad_fast.errors import InputError
from edad_fast.training import Trainer, TrainerSettings

OPTIONS = {"steps": [11, 7], "checkpoint_every": 1, "log_every": 2}


def start(output_dir: Path, **options: Any) -> subprocess.Popen[str]:
    package = str(Path(edad_fast.__file__).parents[1])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": package}
    program = [sys.executable, toy_training.__file__, str(output_dir), json.dumps(OPTIONS | options)]
    pipe = subprocess.PIPE
    return subprocess.Popen(program, env=environment, stdout=pipe, stderr=pipe, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


def result(output_dir: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((output_dir / "result.json").read_text())
    return value


def metrics(output_dir: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k != "tokens_per_second"} for record in records]


def assert_same_run(output_dir: Path, reference: Path) -> None:
    # Lists of floats compare exactly, and every float32 survives JSON.
    assert result(output_dir)["weights"] == result(reference)["weights"]
    assert metrics(output_dir) == metrics(reference)
    ledgers = [result(folder)["ledger"] for folder in (output_dir, reference)]
    assert ledgers[0]["tokens"] == ledgers[1]["tokens"] == 18 * 4 * toy_training.WIDTH
    assert [s["steps"] for s in ledgers[0]["stages"]] == [s["steps"] for s in ledgers[1]["stages"]] == [11, 7]
    leftovers = [p.name for p in (output_dir / "checkpoints").iterdir() if p.name.startswith(".stage")]
    assert leftovers == []


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output_dir = tmp_path_factory.mktemp("uninterrupted")
    code, _, errors = finish(start(output_dir))
    assert code == 0, errors
    return output_dir


@pytest.mark.parametrize(("how", "every"), [("time", 2), ("events", 1)])
def test_killed_again_and_again_it_ends_in_the_same_bits(
    tmp_path: Path, reference: Path, how: str, every: int
) -> None:
    code, output, errors = finish(start(tmp_path, kill=how, checkpoint_every=every, delay=0.005))
    assert code == 0, errors
    # On a busy machine random times kill it less often.
    assert int(output) >= (3 if how == "events" else 1)
    assert_same_run(tmp_path, reference)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_and_resume_goes_on(tmp_path: Path, reference: Path, number: signal.Signals) -> None:
    process = start(tmp_path, delay=0.1, checkpoint_every=0)
    deadline = time.monotonic() + 200
    while not (tmp_path / "metrics.jsonl").exists() or len(metrics(tmp_path)) < 2:
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    code, _, errors = finish(process)
    assert code == 128 + number
    (saved,) = (tmp_path / "checkpoints").glob("stage*")
    assert str(saved) in errors
    assert "--resume" in errors
    assert 2 <= json.loads((saved / "state.json").read_text())["step"] < 11
    assert "Traceback" not in errors
    code, _, errors = finish(start(tmp_path))
    assert code == 0, errors
    assert_same_run(tmp_path, reference)


class StopRun(Exception):
    pass


def stopped_run(output_dir: Path, at: str, **settings: Any) -> None:
    """Train, but stop with an exception at the end of stage `at`."""
    run = ToyRun()

    def stop(name: str) -> None:
        if name == at:
            raise StopRun

    trainer = Trainer(output_dir, TrainerSettings(**settings), run_state={"config": "toy"})
    with pytest.raises(StopRun):
        trainer.run(run.stages, resume=False, on_stage_end=stop)


def test_resume_after_a_stage_restores_its_models_and_calls_on_stage_end_again(tmp_path: Path) -> None:
    whole = ToyRun()
    train(tmp_path / "whole", whole)
    stopped_run(tmp_path / "cut", "first")
    run, ended = ToyRun(), list[str]()
    trainer = Trainer(tmp_path / "cut", TrainerSettings(), run_state={"config": "toy"})
    trainer.run(run.stages, resume=True, on_stage_end=ended.append)
    assert ended == ["first", "second"]
    assert all((value == run.weights()[name]).all() for name, value in whole.weights().items())


def test_a_resume_says_from_where(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stopped_run(tmp_path, "first")
    with caplog.at_level("INFO", "edad_fast"):
        train(tmp_path, ToyRun(), resume=True)
    assert "resuming from stage0-step00000011 (saved by 1 process, now 1)" in caplog.text


def test_resume_of_a_finished_run_trains_nothing_and_gives_the_same_result(tmp_path: Path) -> None:
    run = ToyRun()
    ledger = train(tmp_path, run)
    logged = (tmp_path / "metrics.jsonl").read_text()
    again, ended = ToyRun(), list[str]()
    trainer = Trainer(tmp_path, TrainerSettings(), run_state={"config": "toy"})
    ledger_again = trainer.run(again.stages, resume=True, on_stage_end=ended.append)
    assert ended == ["second"]
    assert again.built == ["first", "second"]
    assert all((value == again.weights()[name]).all() for name, value in run.weights().items())
    assert (ledger_again.steps, ledger_again.tokens) == (ledger.steps, ledger.tokens)
    assert (tmp_path / "metrics.jsonl").read_text() == logged


def test_metrics_beyond_the_checkpoint_and_torn_lines_are_cut(tmp_path: Path) -> None:
    stopped_run(tmp_path, "first", log_every=1)
    path = tmp_path / "metrics.jsonl"
    before = path.read_text()
    later = [json.dumps({"stage": stage, "step": step}) for stage, step in [("first", 12), ("second", 3)]]
    path.write_text(before + "\n".join([*later, '{"stage": "sec']))
    train(tmp_path, ToyRun(), resume=True, log_every=1)
    assert path.read_text().startswith(before)
    assert [record["step"] for record in metrics(tmp_path)] == [*range(1, 12), *range(1, 8)]


def test_resume_with_nothing_to_resume_starts_anew(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"stage": "first", "step": 1}\n')
    assert train(tmp_path, ToyRun(), resume=True).steps == 18
    assert [record["step"] for record in metrics(tmp_path)] == [1, 10, 11, 1, 7]


def test_a_second_run_without_resume_is_refused(tmp_path: Path) -> None:
    train(tmp_path, ToyRun())
    with pytest.raises(InputError, match=r"stage1-step00000007.*--resume.*--overwrite"):
        train(tmp_path, ToyRun())


def test_resume_with_other_settings_is_refused_and_names_them(tmp_path: Path) -> None:
    train(tmp_path, ToyRun())
    trainer = Trainer(tmp_path, TrainerSettings(), run_state={"config": "other"})
    with pytest.raises(InputError, match="config was toy, now other"):
        trainer.run(ToyRun().stages, resume=True)
    with pytest.raises(InputError, match="steps was 11, now 12"):
        train(tmp_path, ToyRun((12, 7)), resume=True)


def test_ledger_adds_up_over_a_resume(tmp_path: Path) -> None:
    stopped_run(tmp_path, "first", checkpoint_every=4)
    state = json.loads((tmp_path / "checkpoints" / "stage0-step00000011" / "state.json").read_text())
    before = state["ledger"]["stages"][0]
    ledger = train(tmp_path, ToyRun(), resume=True, checkpoint_every=4)
    assert ledger.stages[0].device_seconds == before["device_seconds"] > 0
    assert ledger.stages[1].device_seconds > 0
    assert ledger.device_hours == sum(cost.device_seconds for cost in ledger.stages) / 3600
