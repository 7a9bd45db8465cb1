"""The page docs/using_the_student.md, run from top to bottom on a tiny student."""

from __future__ import annotations

import importlib.util
import os
import random
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_models import PIECES, WORDS, save_tiny

from edad_fast import evaluate, export

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "using_the_student.md").read_text(encoding="utf-8")
DISEASES = ("gout", "flu", "polio")
# What makes a tiny model learn, or a command quick.
MORE = {
    "ner": "--seeds 1 --epochs 5 --learning_rate 5e-3 --batch_size 8 --device cpu --precision fp32",
    "speed": "--repeats 5 --batch_size 2 --seq_len 8 --device cpu",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A working directory with the student, its teacher and data that the page speaks of."""
    home = tmp_path_factory.mktemp("home")
    save_tiny(home / "runs" / "mine" / "student")
    save_tiny(home / "runs" / "mine" / "teacher", layers=4)
    rng = random.Random(0)
    for split, count in (("train", 96), ("devel", 16), ("test", 16)):
        file = home / "ner" / "my_task" / f"{split}.tsv"
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = []
        for _ in range(count):
            words = [rng.choice(WORDS) for _ in range(rng.randint(2, 8))]
            rows += [f"{w}\t{'B-Disease' if w in DISEASES else 'O'}" for w in words] + [""]
        file.write_text("\n".join(rows) + "\n")
    (home / "texts").mkdir()
    (home / "texts" / "a.txt").write_text("the gout was cured .\nflu\n\naspirin cured the polio .\n")
    return home


def blocks(heading: str) -> list[tuple[str, str]]:
    """(language, code) of a section, in order."""
    (section,) = [part for part in PAGE.split("\n## ") if part.startswith(heading)]
    return re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL)


def run_section(
    heading: str, home: Path, monkeypatch: pytest.MonkeyPatch, *, without: str = ""
) -> dict[str, Any]:
    monkeypatch.chdir(home)
    names: dict[str, Any] = {}
    for language, code in blocks(heading):
        if without and without in code:
            continue
        if language == "python":
            exec(code, names)
            continue
        for line in code.splitlines():
            if line.startswith("pip "):
                continue
            python, flag, module, task, *arguments = shlex.split(line)
            assert (python, flag) == ("python", "-m")
            main = {"edad_fast.evaluate": evaluate.main, "edad_fast.export": export.main}[module]
            assert main([task, *arguments, *shlex.split(MORE.get(task, ""))]) == 0, line
    return names


def test_masked_words(home, monkeypatch):
    names = run_section("Masked words", home, monkeypatch)
    assert {guess["token_str"] for guess in names["guesses"]} <= set(PIECES)


def test_named_entities(home, monkeypatch):
    names = run_section("Named entities", home, monkeypatch)
    assert names["entities"] == [("Disease", "gout")]


def test_embeddings(home, monkeypatch):
    there = importlib.util.find_spec("sentence_transformers") is not None  # in no extra
    names = run_section(
        "Embeddings", home, monkeypatch, without="" if there else "from sentence_transformers"
    )
    vectors = names["vectors"][:2]
    assert names["vectors"].shape == (3, 24)
    assert (home / "runs" / "mine" / "sentences" / "modules.json").is_file()
    if not there:
        return
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(names["unit_vectors"], unit, atol=0.02)  # evaluate may take bf16


def test_onnx(home, monkeypatch):
    pytest.importorskip("onnxruntime", reason="the extra `onnx`")
    names = run_section("ONNX and int8", home, monkeypatch)
    assert names["logits"].shape == (2, 7, 16)
    assert np.isfinite(names["logits"]).all()


def test_how_much_faster(home, monkeypatch, capsys):
    monkeypatch.setattr("edad_fast.tasks.speed._SECONDS_PER_TIMING", 0.002)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # two busy threads take seconds where others work
    run_section("How much faster", home, monkeypatch)
    assert "cosine to fp32" in capsys.readouterr().out
