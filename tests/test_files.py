"""Atomic folders: permissions, leftovers of killed processes, failures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edad_fast.files import atomic_dir


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_files_obey_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with atomic_dir(tmp_path / "model") as folder:
            (folder / "weights").touch(mode=0o600)
        assert os.umask(umask) == umask, "the umask itself is left alone"
    finally:
        os.umask(before)
    assert (tmp_path / "model" / "weights").stat().st_mode & 0o777 == 0o666 & ~umask


def test_leftovers_of_dead_processes_go(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    ours, living = (tmp_path / f".model.tmp-{pid}" for pid in (dead.pid, os.getppid()))
    for leftover in (ours, living):
        leftover.mkdir()
    with atomic_dir(tmp_path / "model") as folder:
        (folder / "a").write_text("a")
    assert not ours.exists()
    assert living.exists()


def test_a_failure_keeps_the_old_folder(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_text("old")

    def fail() -> None:
        with atomic_dir(tmp_path / "model") as folder:
            (folder / "a").write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "a").read_text() == "old"


def test_a_folder_moved_aside_by_a_killed_process_comes_back(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    aside = tmp_path / f".shards.old-{dead.pid}"
    aside.mkdir()
    (aside / "index.json").write_text("finished")
    with pytest.raises(KeyError), atomic_dir(tmp_path / "shards"):
        raise KeyError
    assert (tmp_path / "shards" / "index.json").read_text() == "finished"
    aside.mkdir()
    with atomic_dir(tmp_path / "shards"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]
