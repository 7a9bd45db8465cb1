"""Several processes on the CPU against one: the same steps, resumes, stops, and the death of one of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import toy_processes
import toy_training
from safetensors.torch import load_file
from torch import tensor
from torch.testing import assert_close
from toy_runs import arguments_of, metrics_of, write_inputs

import edad_fast
from edad_fast import train

PLAIN = {"steps": [6, 4], "dropout": 0.0, "micro": 2, "log_every": 1, "checkpoint_every": 0}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join(str(Path(f).parent) for f in (edad_fast.__path__[0], __file__)),
}
RUNS = {
    "edad": {"method": "edad", "accumulation_steps": 2},
    "adapt": {"method": "adapt_then_distill", "nsp": "true"},
    "adalm": {"method": "adapt_and_distill", "distillation": "minilmv2", "relation_heads": 4},
}
RATES = {"learning_rate": 5e-3, "student_learning_rate": 5e-3, "dropout": 0.0}


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for found in sockets:
        found.bind(("127.0.0.1", 0))
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports


def start(command: list[str], **environment: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=ENVIRONMENT | environment, stdout=pipe, stderr=pipe, text=True)


class Together:
    """What one pair of processes did, by name: exit statuses and standard error of both; folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inputs = write_inputs(folder / "inputs")
        self._plan: list[tuple[str, str, Any]] = []
        self.results: dict[str, tuple[list[int], list[str]]] = {}

    def toy(self, name: str, folder: str | None = None, **options: Any) -> None:
        self._plan.append((name, "toy", (folder or name, PLAIN | options)))

    def train(self, name: str, folder: str | None = None, **options: Any) -> None:
        self._plan.append((name, "train", (folder or name, self.arguments(folder or name, **options))))

    def arguments(self, folder: str, **options: Any) -> list[str]:
        return arguments_of(self.inputs, self.folder / folder, **RATES | options)

    def start(self) -> subprocess.Popen[str]:
        ports = free_ports(len(self._plan))
        plan = [
            [port, kind, str(self.folder / folder), what]
            for port, (_, kind, (folder, what)) in zip(ports, self._plan, strict=True)
        ]
        (self.folder / "plan.json").write_text(json.dumps(plan))
        files = [str(self.folder / name) for name in ("plan.json", "output")]
        return start([*TORCHRUN, "--master_port", str(free_ports(1)[0]), toy_processes.__file__, *files])

    def finish(self, process: subprocess.Popen[str]) -> None:
        try:
            output, errors = process.communicate(timeout=300)
        finally:
            process.terminate()
        assert process.returncode == 0, output + errors
        both = [json.loads((self.folder / f"output.{rank}").read_text()) for rank in (0, 1)]
        for number, (name, _, _) in enumerate(self._plan):
            statuses, texts = zip(*(results[number] for results in both), strict=True)
            self.results[name] = list(statuses), list(texts)

    def result(self, folder: str, rank: int = 0) -> dict[str, Any]:
        file = f"result-{rank}.json" if rank else "result.json"
        value: dict[str, Any] = json.loads((self.folder / folder / file).read_text())
        return value


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Together:
    pair = Together(tmp_path_factory.mktemp("together"))
    stopped = PLAIN | {"signal": [0, 3, signal.SIGTERM]}
    for name in ("grown", "grown-fsdp"):
        assert toy_training.attempt(pair.folder / name, dict(stopped)) == 128 + signal.SIGTERM
    for strategy in ("ddp", "fsdp"):
        pair.toy(strategy, distributed=strategy)
        pair.toy(f"shrunk-{strategy}", distributed=strategy, signal=[1, 3, signal.SIGTERM])
        for name, options in RUNS.items():
            pair.train(f"{name}-{strategy}", distributed=strategy, **options)
    pair.toy("grown")
    pair.toy("grown-fsdp", distributed="fsdp")
    pair.toy("dropout", dropout=0.3)
    pair.toy("stopped", dropout=0.3, signal=[1, 3, signal.SIGINT])
    pair.toy("resumed", "stopped", dropout=0.3)
    pair.toy("poison", poison={2: 3})
    pair.toy("other", "ddp", steps=[6, 5])
    pair.train("missing", corpus="no/such/file.txt")
    pair.train("small", batch_tokens=32)
    process = pair.start()
    try:
        assert toy_training.attempt(pair.folder / "one", dict(PLAIN)) == 0
        for name, options in RUNS.items():
            assert train.main(pair.arguments(name, **options)) == 0
    finally:
        pair.finish(process)
    return pair


def assert_same_weights(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, value in expected["weights"].items():
        if name != "seen":  # it counts the forward passes of one process
            assert_close(tensor(found["weights"][name]), tensor(value), rtol=1e-4, atol=1e-5)


def assert_same_metrics(found: Path, expected: Path) -> None:
    for one, other in zip(metrics_of(found), metrics_of(expected), strict=True):
        for key in ("stage", "step", "tokens", "alpha", "learning_rate"):
            assert one[key] == other[key]
        for key in ("loss", "terms", "grad_norm"):
            assert one[key] == pytest.approx(other[key], rel=2e-3)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_as_one(together: Together, strategy: str) -> None:
    assert together.results[strategy][0] == [0, 0], together.results[strategy][1]
    assert_same_weights(together.result(strategy), together.result("one"))
    assert together.result(strategy)["weights"] == together.result(strategy, rank=1)["weights"]
    assert_same_metrics(together.folder / strategy, together.folder / "one")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_two_processes_saves_the_models_of_one(together: Together, name: str, strategy: str) -> None:
    out, one = together.folder / f"{name}-{strategy}", together.folder / name
    assert together.results[out.name][0] == [0, 0], together.results[out.name][1]
    for role in ("student", "teacher"):
        models = [load_file(folder / role / "model.safetensors") for folder in (out, one)]
        assert models[0].keys() == models[1].keys()
        for key, value in models[1].items():
            assert_close(models[0][key], value, rtol=1e-3, atol=1e-5)
    assert_same_metrics(out, one)
    reports = [json.loads((folder / "report.json").read_text()) for folder in (out, one)]
    assert [report["devices"] for report in reports] == [2, 1]
    for key in ("tokens_seen", "steps", "batch_tokens", "parameters", "config_hash"):
        assert reports[0][key] == reports[1][key]
    assert {path.name for path in out.iterdir()} == {path.name for path in one.iterdir()}


def test_device_seconds_count_both_processes(together: Together) -> None:
    for stage in together.result("ddp")["ledger"]["stages"]:
        assert stage["devices"] == 2
        assert stage["device_seconds"] == pytest.approx(2 * stage["seconds"])
        assert stage["tokens_per_second"] == pytest.approx(stage["tokens"] / stage["seconds"])


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_one_process_goes_on_where_two_stopped(
    together: Together, strategy: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"shrunk-{strategy}"
    assert together.results[name][0] == [128 + signal.SIGTERM] * 2
    assert toy_training.attempt(together.folder / name, dict(PLAIN)) == 0
    assert "(saved by 2 processes, now 1)" in caplog.text
    assert_same_weights(together.result(name), together.result("one"))
    assert_same_metrics(together.folder / name, together.folder / "one")


@pytest.mark.parametrize("name", ["grown", "grown-fsdp"])
def test_two_processes_go_on_where_one_stopped(together: Together, name: str) -> None:
    assert together.results[name][0] == [0, 0]
    assert_same_weights(together.result(name), together.result("one"))
    assert_same_metrics(together.folder / name, together.folder / "one")
    costs = together.result(name)["ledger"]["stages"][0]
    assert costs["seconds"] < costs["device_seconds"] < 2 * costs["seconds"]


def test_a_signal_to_one_stops_both_at_the_same_step_and_a_resume_ends_in_the_same_bits(
    together: Together,
) -> None:
    statuses, texts = together.results["stopped"]
    assert statuses == [128 + signal.SIGINT] * 2
    # Caught before step 4, agreed on after it and known after step 5.
    assert "stopped by SIGINT after step 5" in texts[0]
    assert "--resume" in texts[0]
    assert "stopped" not in texts[1]
    assert together.results["resumed"][0] == [0, 0]
    # Each process goes on with its own random generators.
    assert together.result("stopped")["weights"] == together.result("dropout")["weights"]


def test_processes_draw_different_dropout(together: Together) -> None:
    (end,) = (together.folder / "dropout" / "checkpoints").glob("stage0-*")
    states = load_file(end / "rng.safetensors")
    assert not states["torch"].equal(states["1/torch"])


def test_a_bad_row_of_one_process_stops_both_and_is_named_once(together: Together) -> None:
    statuses, texts = together.results["poison"]
    assert statuses == [2, 2]
    assert "stage first, step 3: loss term fit is not finite (rows 11)" in texts[0]
    assert "not finite" not in texts[1]
    saved = together.folder / "poison" / "checkpoints" / "stage0-step00000002"
    assert json.loads((saved / "state.json").read_text())["tokens"] == 2 * 4 * toy_training.WIDTH


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("other", "steps was 4, now 5"),
        ("missing", "no file matches"),
        ("small", "--batch_tokens 32 gives a step 1 sequence(s) of --seq_len 32, too few for 2 process(es)"),
    ],
)
def test_errors_of_the_input_are_told_once(together: Together, name: str, message: str) -> None:
    statuses, texts = together.results[name]
    assert statuses == [2, 2]
    assert message in texts[0]
    assert texts[1] == ""


def test_a_killed_process_ends_the_job_with_a_message_and_one_process_finishes_it(
    together: Together, tmp_path: Path
) -> None:
    options = PLAIN | {"checkpoint_every": 1, "signal": [1, 4, signal.SIGKILL]}
    program = [toy_training.__file__, str(tmp_path), json.dumps(options)]
    process = start([*TORCHRUN, "--master_port", str(free_ports(1)[0]), *program])
    try:
        _, errors = process.communicate(timeout=200)
    finally:
        process.terminate()
    assert process.returncode != 0
    assert "error: process 0 of 2: another process has ended" in errors
    assert "--resume" in errors
    assert toy_training.attempt(tmp_path, dict(PLAIN)) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert_same_weights(result, together.result("one"))


PREPARING = """
import os, signal, sys, threading, time
from pathlib import Path
from edad_fast import train
from edad_fast.methods import run
begun = Path(sys.argv[1])
def work(*arguments, **options):
    begun.touch()
    time.sleep(100)
def die():
    while not begun.exists():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)
run.load_data = work
if os.environ["RANK"] == "1":
    threading.Thread(target=die).start()
sys.exit(train.main(sys.argv[2:]))
"""


def test_a_process_killed_during_the_preparation_ends_the_job_with_a_message(
    together: Together, tmp_path: Path
) -> None:
    (tmp_path / "preparing.py").write_text(PREPARING)
    arguments = [str(tmp_path / "begun"), *together.arguments("killed")]
    port = str(free_ports(1)[0])
    process = start([*TORCHRUN, "--master_port", port, str(tmp_path / "preparing.py"), *arguments])
    try:
        _, errors = process.communicate(timeout=90)
    finally:
        process.terminate()
    assert process.returncode != 0
    assert "stopped by SIGTERM while preparing; run the same command again" in errors


def test_a_process_that_hangs_ends_the_job_after_the_timeout(tmp_path: Path) -> None:
    """Without torchrun, which would not notice either: the process lives."""
    options = PLAIN | {"signal": [1, 2, signal.SIGSTOP], "timeout": 4.0}
    program = [sys.executable, toy_training.__file__, str(tmp_path), json.dumps(options)]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_ports(1)[0]), "WORLD_SIZE": "2"}
    processes = [start(program, **place, RANK=rank, LOCAL_RANK=rank) for rank in ("0", "1")]
    try:
        _, errors = processes[0].communicate(timeout=200)
    finally:
        processes[1].kill()
        processes[1].communicate()
    assert processes[0].returncode == 2
    assert "does not answer" in errors
    assert "--process_timeout" in errors
    assert "Traceback" not in errors


def test_incomplete_environment_of_a_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert toy_training.attempt(tmp_path, dict(PLAIN)) == 2
    assert (
        "WORLD_SIZE is 2, but RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not set"
        in capsys.readouterr().err
    )
