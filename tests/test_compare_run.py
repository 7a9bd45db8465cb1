"""A whole comparison with true child processes, killed in the middle."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from tiny import WORDS
from toy_runs import arguments_of, write_inputs

from edad_fast.compare import main


def _write_ner(folder: Path) -> None:
    folder.mkdir()
    for split, first in (("train", 0), ("devel", 1), ("test", 2)):
        sentences = [
            f"the\tO\n{WORDS[(i + first) % 12]}\tB-X\nacts\tO\n" for i in range(24 if split == "train" else 6)
        ]
        (folder / f"{split}.tsv").write_text("\n".join(sentences))


def _wait_for(folder: Path, pattern: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120
    while not any(folder.glob(pattern)):
        assert process.poll() is None, process.stderr.read()  # type: ignore[union-attr]
        assert time.monotonic() < end, f"no {pattern}"
        time.sleep(0.02)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="children outlive a killed parent")
def test_killed_and_started_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # so tiny models are fastest
    inputs = write_inputs(tmp_path / "in")
    _write_ner(inputs / "ner")
    flags = arguments_of(inputs, tmp_path, max_steps=60, checkpoint_every=4)
    train = {k.removeprefix("--"): v for k, v in zip(flags[::2], flags[1::2], strict=True)}
    del train["output_dir"]
    ner = {"kind": "ner", "data": str(inputs / "ner"), "seeds": 1, "epochs": 1, "learning_rate": 1e-3}
    suite = {
        "output_dir": str(tmp_path / "out"),
        "seeds": [4],
        "train": train,
        "systems": {"edad": {"train": {}}, "raw": {"model": "{edad}/teacher", "tasks": []}},
        "tasks": {"genes": {**ner, "precision": "fp32"}},
    }
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    command = [sys.executable, "-m", "edad_fast.compare", "--config", str(tmp_path / "suite.yaml")]
    run = tmp_path / "out/runs/edad/seed-4"
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as parent:
        _wait_for(run, "checkpoints/stage0-*", parent)
        os.kill(parent.pid, signal.SIGKILL)
    assert not (run / "report.json").exists()
    # The child ends too, having saved its state; the next call waits for that, and goes on.
    assert main(["--config", str(tmp_path / "suite.yaml")]) == 0
    log = (tmp_path / "out/logs/runs/edad/seed-4.log").read_text()
    assert "stopped by SIGTERM after step" in log
    assert json.loads((run / "report.json").read_text())["steps"] == 60
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 61))
    with (tmp_path / "out/tables/table-entity_f1.csv").open() as stream:
        rows = {row["system"]: row for row in csv.DictReader(stream)}
    scores = json.loads((tmp_path / "out/evaluation/edad/seed-4/genes/ner.json").read_text())
    assert float(rows["edad"]["genes mean"]) == scores["entity_f1"]["mean"]
    report = json.loads((run / "report.json").read_text())
    assert int(rows["edad"]["parameters"]) == report["parameters"]["student"]
    assert int(rows["raw"]["parameters"]) == report["parameters"]["teacher"]
    assert float(rows["edad"]["device_hours"]) == report["device_hours"]["total"]
    assert (tmp_path / "out/plots/alpha.png").is_file()
    capsys.readouterr()
    assert main(["--config", str(tmp_path / "suite.yaml")]) == 0
    assert "[" not in capsys.readouterr().err  # nothing was started
