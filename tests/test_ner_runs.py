"""Fine-tuning with several seeds, and results already there."""

from __future__ import annotations

import pytest

from edad_fast.errors import InputError
from edad_fast.tasks.ner_runs import finished_runs, run_seeds, summarise


def fake_run(seed: int, f1: float, rate: float = 1e-4) -> dict:
    per_type = {"X": {"precision": f1, "recall": f1, "f1": f1, "entities": 3}}
    scores = dict.fromkeys(("entity_f1", "precision", "recall", "token_macro_f1"), f1)
    return {"seed": seed, "learning_rate": rate, "seconds": 1.0, "test": {**scores, "per_type": per_type}}


class FakeTask:
    def __init__(self) -> None:
        self.calls: list[tuple[int, list[float]]] = []

    def fine_tune(self, seed, learning_rates, *, progress=None):
        self.calls.append((seed, list(learning_rates)))
        progress("epoch", 1.0)
        return fake_run(seed, 0.5, rate=learning_rates[-1])


def test_first_seed_settles_the_learning_rate_and_finished_seeds_are_reused():
    task = FakeTask()
    runs = list(run_seeds(lambda: task, 3, [1e-4, 2e-4]))
    assert task.calls == [(0, [1e-4, 2e-4]), (1, [2e-4]), (2, [2e-4])]
    task.calls.clear()
    assert [run["seed"] for run in run_seeds(lambda: task, 4, [1e-4, 2e-4], runs)] == [3]
    assert task.calls == [(3, [2e-4])]
    task.calls.clear()
    assert [run["seed"] for run in run_seeds(lambda: task, 2, [1e-4, 2e-4], first=5)] == [5, 6]
    assert task.calls == [(5, [1e-4, 2e-4]), (6, [2e-4])]
    assert list(run_seeds(lambda: pytest.fail("nothing to do"), 3, [1e-4], runs)) == []


def test_summary_is_mean_and_sample_deviation():
    summary = summarise([fake_run(0, 0.5), fake_run(1, 0.7)])
    assert summary["entity_f1"]["mean"] == pytest.approx(0.6)
    assert summary["entity_f1"]["std"] == pytest.approx(0.02**0.5)
    assert summary["per_type"]["X"]["f1"]["mean"] == pytest.approx(0.6)
    assert summarise([fake_run(0, 0.5)])["entity_f1"]["std"] is None


def test_results_of_other_settings_are_refused(tmp_path):
    file = tmp_path / "ner.json"
    assert finished_runs(file, {"a": 1}) == []
    file.write_text('{"a": 1, "runs": [{"seed": 0}]}')
    assert finished_runs(file, {"a": 1}) == [{"seed": 0}]
    with pytest.raises(InputError, match=r"ner\.json: holds results with other a;.*--overwrite"):
        finished_runs(file, {"a": 2})
    # Before there was --seed, runs began with 0.
    assert finished_runs(file, {"a": 1, "seed": 0}) == [{"seed": 0}]
    with pytest.raises(InputError, match="holds results with other seed"):
        finished_runs(file, {"a": 1, "seed": 2})
    file.write_text("{")
    with pytest.raises(InputError, match="not a result of this program"):
        finished_runs(file, {"a": 1})
