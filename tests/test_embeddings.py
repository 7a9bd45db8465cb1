"""Vectors of texts: pooling, order, files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_corpus, tiny_teacher

from edad_fast import evaluate
from edad_fast.models import load_encoder
from edad_fast.tasks import embeddings
from edad_fast.tasks.embeddings import embed, iter_texts, pool
from edad_fast.vocabulary import load_tokenizer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_teacher(tmp_path_factory.mktemp("model") / "teacher", layers=2)


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("text") / "a.txt", documents=20)


def alone(model: Path, line: str, length: int) -> np.ndarray:
    """The mean vector of one text, without batches or padding."""
    inputs = load_tokenizer(model)(
        line, truncation=True, max_length=length, padding=False, return_tensors="pt"
    )
    with torch.no_grad():
        return load_encoder(model).eval()(input_ids=inputs["input_ids"])[0][0].mean(0).numpy()


def test_pool():
    states = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [50.0, 60.0]]])
    mask = torch.tensor([[1, 1, 0]])
    assert pool(states, mask, "mean").tolist() == [[2.0, 3.0]]
    assert pool(states, mask, "cls").tolist() == [[1.0, 2.0]]


def test_vectors_do_not_depend_on_the_batch(model):
    texts = ["the cell .", "a " * 70, "drug", "the liver binds a gene and often lowers the heart ."]
    tokenizer, encoder = load_tokenizer(model), load_encoder(model).eval()
    options = {"device": CPU, "max_length": 32}
    found = embed(encoder, tokenizer, texts, batch_size=3, **options)
    for text, vector in zip(texts, found, strict=True):
        np.testing.assert_allclose(vector, alone(model, text, 32), atol=2e-6)
    unit = embed(encoder, tokenizer, texts, normalise=True, **options)
    np.testing.assert_allclose(unit, found / np.linalg.norm(found, axis=1, keepdims=True), atol=1e-6)
    first = embed(encoder, tokenizer, texts, pooling="cls", **options)
    assert np.abs(first - found).max() > 0.01


def test_texts_are_lines_and_rows(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n\n \nthree\n")
    (tmp_path / "b.jsonl").write_text('{"text": "four\\nfive"}\n{"text": ""}\n{"text": "six"}\n')
    (tmp_path / "c.jsonl").write_text(json.dumps({"text": "long " * 300_000}) + "\n")
    found = list(iter_texts([tmp_path / "a.txt", tmp_path / "b.jsonl", tmp_path / "c.jsonl"]))
    assert [(t.text[:9], Path(t.source).name, t.line) for t in found] == [
        ("one", "a.txt", 1),
        ("two", "a.txt", 2),
        ("three", "a.txt", 5),
        ("four\nfive", "b.jsonl", 1),
        ("six", "b.jsonl", 3),
        ("long long", "c.jsonl", 1),
    ]


def test_command_writes_numpy_and_index(model, text, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("edad_fast.evaluate.embeddings._POOL", 7)
    command = ["embeddings", "--model", str(model), "--data", str(text), "--device", "cpu"]
    command += ["--precision", "fp32", "--max_length", "24", "--output", str(tmp_path / "v.npy")]
    assert evaluate.main(command) == 0
    lines = [line for line in text.read_text().split("\n") if line.strip()]
    assert f"{len(lines)} texts, 24 numbers each" in capsys.readouterr().out
    vectors = np.load(tmp_path / "v.npy")
    assert vectors.shape == (len(lines), 24)
    for row in (0, 8, len(lines) - 1):
        np.testing.assert_allclose(vectors[row], alone(model, lines[row], 24), atol=2e-6)
    index = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert [entry["row"] for entry in index] == list(range(len(lines)))
    assert text.read_text().split("\n")[index[9]["line"] - 1] == lines[9]
    assert evaluate.main(command) == 2
    assert "is there already" in capsys.readouterr().err
    assert evaluate.main([*command, "--overwrite", "--normalise"]) == 0
    np.testing.assert_allclose(np.linalg.norm(np.load(tmp_path / "v.npy"), axis=1), 1.0, rtol=1e-5)


def test_command_writes_parquet(model, text, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra `parquet`")
    command = ["embeddings", "--model", str(model), "--data", str(text), "--device", "cpu"]
    for name in ("v.npy", "v.parquet"):
        assert evaluate.main([*command, "--output", str(tmp_path / name)]) == 0
    table = parquet.read_table(tmp_path / "v.parquet")
    assert table.column_names == ["source", "line", "embedding"]
    np.testing.assert_array_equal(
        np.array(table["embedding"].to_pylist(), np.float32), np.load(tmp_path / "v.npy")
    )


def test_a_failure_leaves_nothing_behind(model, text, tmp_path, capsys):
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"one\n\xff\n")
    command = [
        "embeddings",
        "--model",
        str(model),
        "--device",
        "cpu",
        "--output",
        str(tmp_path / "out" / "v.npy"),
    ]
    assert evaluate.main([*command, "--data", str(bad)]) == 2
    assert "bad.txt: invalid UTF-8 at byte 4" in capsys.readouterr().err
    assert evaluate.main([*command, "--data", str(text), "--max_length", "65"]) == 2
    assert "between 3 and 64" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert evaluate.main([*command[:-1], str(tmp_path / "v.txt"), "--data", str(text)]) == 2
    assert "ends in .npy or .parquet" in capsys.readouterr().err


@pytest.mark.parametrize("change", [-1, 1])
def test_texts_that_change_while_they_are_read_are_refused(
    model, text, tmp_path, capsys, monkeypatch, change
):
    whole, calls = embeddings.iter_texts, []

    def changing(*arguments, **options):
        calls.append(1)
        found = list(whole(*arguments, **options))
        return iter(found if len(calls) == 1 else found[:-1] if change < 0 else [*found, found[0]])

    monkeypatch.setattr(embeddings, "iter_texts", changing)
    command = ["embeddings", "--model", str(model), "--device", "cpu", "--data", str(text)]
    assert evaluate.main([*command, "--output", str(tmp_path / "v.npy")]) == 2
    assert "changed while they were read" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
