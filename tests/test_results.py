"""What the README says of GPUs is made from result files, which say where they come from."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import provenance  # noqa: E402
import render_results  # noqa: E402

FACTS = {"device": "Some GPU", "on_gpu": True, "torch": "2.11", "triton": "3.6", "commit": "c" * 40}


def losses(tree: str, measured: str = "2026-01-02T00:00:00+00:00") -> dict[str, Any]:
    parts = {"part_of_bytes_per_s": 0.5, "part_of_flop_per_s": 0.25}
    contenders = {
        "triton direct": {"median_ms": 0.5, **parts},
        "cuda direct": {"median_ms": 0.25, **parts},
        "auto": {"median_ms": 0.26, **parts},
        "eager": {"median_ms": 1.0},
        "Liger": {"error": "ModuleNotFoundError"},
    }
    case = {"case": "attention", "contenders": contenders}
    return {"kind": "losses", **FACTS, "kernels_tree": tree, "measured": measured, "cases": [case]}


def test_the_tree_is_what_git_says_of_the_same_files(tmp_path: Path) -> None:
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is not installed")
    folder = tmp_path / "kernels"
    for name in ("b.py", "a/c.cu", "a.py", "a-b/d", "__pycache__/b.pyc"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    run = lambda *words: subprocess.run(  # noqa: E731
        [git, *words], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout.strip()
    run("init", "-q")
    (tmp_path / ".gitignore").write_text("__pycache__\n")
    run("add", ".")
    tree = run("rev-parse", f"{run('write-tree')}:kernels")
    assert provenance.tree_hash(folder) == tree
    (folder / "b.py").write_text("changed")
    assert provenance.tree_hash(folder) != tree


def test_a_result_says_what_ran() -> None:
    found = provenance.provenance(torch.device("cpu"))
    assert found["kernels_tree"] == provenance.tree_hash(ROOT / "kernels")
    assert found["torch"] == torch.__version__
    assert not found["on_gpu"]


def test_the_tables_hold_the_figures_and_mark_what_is_stale() -> None:
    text = render_results.blocks([losses("now")], "now")["gpu-losses"]
    row = next(line for line in text.splitlines() if line.startswith("| attention"))
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells == ["attention", "0.260", "cuda direct: 0.250", "eager 4.0x", "50%", "25%"]
    assert "Stale" not in text
    assert "Stale" in render_results.blocks([losses("before")], "now")["gpu-losses"]


def test_of_several_results_the_newest_counts() -> None:
    old, new = losses("t", "2026-01-01T00:00:00+00:00"), losses("t")
    new["cases"][0]["contenders"]["auto"]["median_ms"] = 0.3
    text = render_results.blocks([old, new], "t")["gpu-losses"]
    assert "0.300" in text
    assert "0.260" not in text


def test_device_hours_of_a_dry_run_are_no_result(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(losses("t") | {"dry_run": True}))
    assert render_results.load(tmp_path) == []
    assert set(render_results.blocks([], "t").values()) == {render_results.NOTHING}


def test_device_hours() -> None:
    system = {
        "device_hours_per_1e9_tokens": 12.0,
        "tokens_per_second": 23_148.0,
        "share_of_matrix_peak": 0.4,
        "peak_memory_bytes": None,
    }
    names = ("naive", "composed", "adapt_then_distill", "edad")
    result = {
        "kind": "device_hours",
        **FACTS,
        **{"kernels_tree": "t", "measured": "2026-01-01", "shape": "paper", "teacher_arch": "bert"},
        **{"vocabulary": 48_180, "rows": 256, "seq_len": 128},
        "systems": dict.fromkeys(names, system),
        "ratios": {"naive": 3.5, "composed": 2.0, "adapt_then_distill": 1.2},
    }
    text = render_results.blocks([result], "t")["gpu-device-hours"]
    assert "takes 3.50x EDAD's device hours" in text
    assert "| composed" in text
    assert (
        render_results.blocks([result | {"on_gpu": False}], "t")["gpu-device-hours"] == render_results.NOTHING
    )


def test_the_readme_is_up_to_date() -> None:
    assert render_results.main(["--check"]) == 0
