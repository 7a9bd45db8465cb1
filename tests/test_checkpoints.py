from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from toy_training import ToyObjective, ToyRun, network, train

from edad_fast.errors import InputError
from edad_fast.training import Checkpoint, CheckpointStore, checkpoints
from edad_fast.training.checkpoints import BrokenCheckpoint, load_module, module_tensors

FILES = ["manifest.json", "model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json"]


def save(store: CheckpointStore, stage: int, step: int, *, end: bool = False) -> Checkpoint:
    tensors = {"weight": torch.full((3, 2), float(step))}
    state: dict[str, Any] = {"step": step}
    return store.save(
        stage, step, model=tensors, optimizer=None if end else tensors, rng=tensors, state=state
    )


def names(store: CheckpointStore) -> list[str]:
    return [checkpoint.path.name for checkpoint in store.list()]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(CheckpointStore(tmp_path_factory.mktemp("pristine"), 1), 0, 5).path


def test_a_checkpoint_gives_back_what_was_saved(tmp_path: Path) -> None:
    checkpoint = save(CheckpointStore(tmp_path, 1), 2, 7)
    assert sorted(path.name for path in checkpoint.path.iterdir()) == FILES
    checkpoint.verify()
    assert checkpoint.state()["step"] == 7
    assert checkpoint.tensors("model.safetensors")["weight"].tolist() == [[7.0, 7.0]] * 3


@pytest.mark.parametrize("file", FILES)
@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_to_any_file_is_noticed(pristine: Path, file: str, data: st.DataObject) -> None:
    damaged = pristine.with_name("stage0-step00000006")
    shutil.rmtree(damaged, ignore_errors=True)
    shutil.copytree(pristine, damaged)
    content = (damaged / file).read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    how = data.draw(st.sampled_from(["cut", "flip", "grow", "gone"]))
    if file == "manifest.json" and how != "gone":
        # White space around JSON means nothing; a cut inside the object always does.
        how, place = "cut", min(place, len(content) - 2)
    if how == "gone":
        (damaged / file).unlink()
    elif how == "cut":
        (damaged / file).write_bytes(content[:place])
    elif how == "grow":
        (damaged / file).write_bytes(content + b"x")
    else:
        altered = bytes([content[place] ^ 1 << data.draw(st.integers(0, 7))])
        (damaged / file).write_bytes(content[:place] + altered + content[place + 1 :])
    with pytest.raises(BrokenCheckpoint, match=str(damaged / file)):
        Checkpoint(damaged, 0, 6).verify()


def test_the_last_few_and_the_ends_of_stages_stay(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, 2)
    for stage, step in [(0, 2), (0, 4), (0, 6), (1, 2), (1, 4), (1, 6), (2, 2)]:
        save(store, stage, step)
    assert names(store) == ["stage0-step00000006", "stage1-step00000006", "stage2-step00000002"]
    save(store, 2, 4)
    save(store, 2, 6)
    assert names(store) == [
        "stage0-step00000006",
        "stage1-step00000006",
        "stage2-step00000004",
        "stage2-step00000006",
    ]


def test_a_truncated_checkpoint_falls_back_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = ToyRun()
    train(tmp_path, whole, checkpoint_every=3)
    folder = tmp_path / "checkpoints"
    damaged = folder / "stage1-step00000007" / "model.safetensors"
    with open(damaged, "r+b") as stream:
        stream.truncate(damaged.stat().st_size // 2)
    run = ToyRun()
    ledger = train(tmp_path, run, resume=True, checkpoint_every=3)
    assert str(damaged) in caplog.text
    assert "bytes instead of" in caplog.text
    assert "Going on from" in caplog.text
    assert "stage1-step00000006" in caplog.text
    assert ledger.steps == 18
    assert all((value == run.weights()[name]).all() for name, value in whole.weights().items())
    assert (folder / "stage1-step00000007.broken").is_dir()
    CheckpointStore(folder, 2).list()[-1].verify()


def test_only_broken_checkpoints_is_an_error_that_names_them(tmp_path: Path) -> None:
    train(tmp_path, ToyRun(), checkpoint_every=3)
    broken = list((tmp_path / "checkpoints").glob("stage*/state.json"))
    assert len(broken) == 3
    for file in broken:
        file.write_text("{}")
    with pytest.raises(InputError, match="no usable checkpoint") as caught:
        train(tmp_path, ToyRun(), resume=True)
    assert all(str(file.parent) in str(caught.value) for file in broken[-2:])
    assert "--overwrite" in str(caught.value)
    assert all(file.exists() for file in broken)


def test_a_checkpoint_whose_earlier_stage_is_broken_does_not_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(tmp_path, 3)
    save(store, 0, 3)
    end = save(store, 0, 6, end=True)
    save(store, 1, 2)
    (end.path / "model.safetensors").unlink()
    found = store.newest_valid()
    assert found is not None
    assert found.path.name == "stage0-step00000003"
    assert names(store) == ["stage0-step00000003"]
    assert "stage1-step00000002" in caplog.text
    assert "stage0-step00000006" in caplog.text


def test_a_checkpoint_without_its_earlier_stage_does_not_count(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, 3)
    save(store, 1, 2)
    with pytest.raises(InputError, match="end of an earlier stage"):
        store.newest_valid()


def test_no_checkpoint_at_all_is_none(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "absent", 1).newest_valid() is None


def test_another_format_is_refused(tmp_path: Path) -> None:
    checkpoint = save(CheckpointStore(tmp_path, 1), 0, 1)
    (checkpoint.path / "state.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(InputError, match="format 99"):
        checkpoint.state()


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
]


@pytest.mark.parametrize("error", FULL, ids=["system", "safetensors"])
def test_a_full_disk_keeps_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    whole = ToyRun()
    train(tmp_path / "whole", whole)
    real, calls = checkpoints.save_file, 0

    def save_file(tensors: dict[str, torch.Tensor], path: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == 8:
            path.write_bytes(b"half of it")
            raise error
        real(tensors, path)

    monkeypatch.setattr(checkpoints, "save_file", save_file)
    folder = tmp_path / "full" / "checkpoints"
    with pytest.raises(InputError, match=r"no space left") as caught:
        train(tmp_path / "full", ToyRun(), checkpoint_every=2)
    assert str(folder) in str(caught.value)
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock",
        "stage0-step00000002",
        "stage0-step00000004",
    ]
    run = ToyRun()
    train(tmp_path / "full", run, resume=True, checkpoint_every=2)
    assert all((value == run.weights()[name]).all() for name, value in whole.weights().items())


def test_other_errors_of_safetensors_are_not_taken_for_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_file(tensors: dict[str, torch.Tensor], path: Path) -> None:
        raise SafetensorError("something else")

    monkeypatch.setattr(checkpoints, "save_file", save_file)
    with pytest.raises(SafetensorError, match="something else"):
        save(CheckpointStore(tmp_path, 1), 0, 1)


def test_what_a_killed_run_left_half_written_is_removed(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, 1)
    kept = save(store, 0, 1)
    for name in (".stage0-step00000002.tmp-1", ".stage0-step00000000.old-77"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    with store.locked():
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", kept.path.name]


def test_two_processes_cannot_train_in_one_folder(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from edad_fast.training import CheckpointStore\n"
        "with CheckpointStore(Path(sys.argv[1]), 1).locked():\n"
        "    print('locked', flush=True); sys.stdin.read()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(checkpoints.__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(InputError, match="another process"), CheckpointStore(tmp_path, 1).locked():
            pass
        other.stdin.close()
    with CheckpointStore(tmp_path, 1).locked():
        pass


def test_tied_tensors_are_saved_once_and_scratch_buffers_never(tmp_path: Path) -> None:
    run = ToyRun()
    train(tmp_path, run)
    saved = load_file(tmp_path / "checkpoints" / "stage1-step00000007" / "model.safetensors")
    assert "teacher.0.weight" in saved
    assert "seen" in saved
    assert not [name for name in saved if name.startswith(("tied.", "scratch"))]
    assert all(value.equal(run.weights()[name]) for name, value in saved.items())


def test_models_of_another_shape_are_refused_by_name() -> None:
    saved = module_tensors(ToyObjective(network(), network()))
    other = ToyObjective(network(), nn.Linear(3, 3))
    with pytest.raises(InputError, match=r"here/x: .*student\.0\.bias is \[7\].*absent in the run"):
        load_module(other, saved, Path("here/x"))
    wider = dict(saved) | {"teacher.0.weight": torch.zeros(2, 2)}
    with pytest.raises(
        InputError, match=r"teacher\.0\.weight is \[2, 2\] in the checkpoint and \[7, 7\] in the run"
    ):
        load_module(ToyObjective(network(), network()), wider, Path("x"))
