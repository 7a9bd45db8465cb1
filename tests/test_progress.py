"""What a training reports: metrics, ledger, progress bar, TensorBoard."""

from __future__ import annotations

import io
import json
import sys
import types
from pathlib import Path

import pytest
from toy_training import WIDTH, ToyRun, metrics, train

from edad_fast.errors import InputError
from edad_fast.training import Ledger, StageCost
from edad_fast.training.progress import MetricsLog, ProgressDisplay


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
    cost = StageCost("a", device_seconds=7200.0, seconds=3600.0, tokens=3600, devices=2)
    ledger = Ledger([cost, StageCost("b")])
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
