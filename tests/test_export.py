"""Students outside this package: ONNX, int8 and sentence-transformers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_models import PIECES, save_tiny
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification

from edad_fast import export
from edad_fast.models import load_encoder, load_masked_lm
from edad_fast.tasks.embeddings import embed
from edad_fast.vocabulary import load_tokenizer, save_tokenizer


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "plain")


@pytest.fixture(scope="module")
def exbert(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "exbert", extension=True)


@pytest.fixture
def onnx() -> Any:
    pytest.importorskip("onnxruntime", reason="the extra `onnx`")
    return pytest.importorskip("onnx", reason="the extra `onnx`")


def answer(file: Path, texts: list[str], model: Path) -> np.ndarray:
    """What an onnxruntime user gets, without this package's helpers."""
    import onnxruntime

    batch = load_tokenizer(model)(texts, padding=True, return_tensors="np")
    names = ("input_ids", "attention_mask", "token_type_ids")
    return onnxruntime.InferenceSession(str(file)).run(None, {n: batch[n].astype(np.int64) for n in names})[0]


def expected(model: Path, texts: list[str]) -> np.ndarray:
    batch = load_tokenizer(model)(texts, padding=True, return_tensors="pt")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        return load_masked_lm(model).eval()(**inputs).logits.numpy()


TEXTS = ["the gout was cured .", "flu", "aspirin cured the polio of the flu with the gout ."]


@pytest.mark.usefixtures("onnx")
@pytest.mark.parametrize("kind", ["plain", "exbert"])
def test_onnx_gives_pytorchs_logits(kind, request, tmp_path, capsys):
    model = request.getfixturevalue(kind)
    assert export.main(["onnx", "--model", str(model), "--output_dir", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "max abs difference to PyTorch" in printed
    assert "task masked_lm; inputs 1 x 1, 1 x 48, 3 x 5, 4 x 33" in printed
    for texts in (TEXTS, TEXTS[:1], TEXTS[1:2]):
        found, logits = answer(tmp_path / "out" / "model.onnx", texts, model), expected(model, texts)
        assert found.shape == logits.shape
        real = load_tokenizer(model)(texts, padding=True, return_tensors="np")["attention_mask"].astype(bool)
        np.testing.assert_allclose(found[real], logits[real], atol=1e-5)
    assert (
        load_tokenizer(tmp_path / "out")(TEXTS[0])["input_ids"]
        == load_tokenizer(model)(TEXTS[0])["input_ids"]
    )


def test_int8_is_int8_and_near(onnx, plain, tmp_path):
    assert export.main(["onnx", "--model", str(plain), "--output_dir", str(tmp_path / "out"), "--int8"]) == 0
    report = json.loads((tmp_path / "out" / "export.json").read_text())
    graph = onnx.load(tmp_path / "out" / "model_int8.onnx").graph
    operators = [node.op_type for node in graph.node]
    assert operators.count("MatMulInteger") >= 2 * 6  # two layers
    figures = report["files"]
    assert 0.95 < figures["model_int8.onnx"]["cosine"] < 0.999999 < figures["model.onnx"]["cosine"]
    assert answer(tmp_path / "out" / "model_int8.onnx", TEXTS, plain).shape == (3, 13, len(PIECES))


@pytest.mark.usefixtures("onnx")
@pytest.mark.parametrize("kind", ["token", "sequence"])
def test_classifiers_with_their_heads(kind, plain, tmp_path):
    model_class = BertForTokenClassification if kind == "token" else BertForSequenceClassification
    torch.manual_seed(0)
    model = model_class(BertConfig.from_pretrained(plain, num_labels=3)).eval()
    model.save_pretrained(tmp_path / "model")
    save_tokenizer(load_tokenizer(plain), tmp_path / "model")
    assert export.main(["onnx", "--model", str(tmp_path / "model")]) == 0
    report = json.loads((tmp_path / "model" / "onnx" / "export.json").read_text())
    assert report["task"] == f"{kind}_classification"
    found = answer(tmp_path / "model" / "onnx" / "model.onnx", TEXTS[:1], plain)
    with torch.no_grad():
        logits = model(**load_tokenizer(plain)(TEXTS[:1], return_tensors="pt")).logits
    np.testing.assert_allclose(found, logits.numpy(), atol=1e-5)


@pytest.mark.usefixtures("onnx")
def test_features_of_one_text(plain, tmp_path):
    command = ["onnx", "--model", str(plain), "--output_dir", str(tmp_path / "out")]
    assert export.main([*command, "--task", "feature_extraction"]) == 0
    states = answer(tmp_path / "out" / "model.onnx", TEXTS[:1], plain)
    vector = embed(load_encoder(plain).eval(), load_tokenizer(plain), TEXTS[:1], device=torch.device("cpu"))
    np.testing.assert_allclose(states[0].mean(0), vector[0], atol=1e-5)


@pytest.mark.usefixtures("onnx")
def test_an_export_unlike_the_model_is_refused(plain, tmp_path, capsys, monkeypatch):
    from edad_fast.export import onnx_model

    whole = onnx_model.export_onnx

    def damaged(model: Any, file: Path, **options: Any) -> None:
        parameter = next(model.parameters())
        before = parameter.detach().clone()
        parameter.data.neg_()
        whole(model, file, **options)
        parameter.data.copy_(before)

    monkeypatch.setattr(onnx_model, "export_onnx", damaged)
    out = tmp_path / "out"
    assert export.main(["onnx", "--model", str(plain), "--output_dir", str(out)]) == 2
    assert "differs from PyTorch by more than --tolerance" in capsys.readouterr().err
    monkeypatch.undo()
    command = ["onnx", "--model", str(plain), "--output_dir", str(out)]
    assert export.main([*command, "--int8", "--min_cosine", "1.1"]) == 2
    assert "int8 outputs" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("onnx")
def test_onnx_bad_input(plain, exbert, tmp_path, capsys):
    def error(*arguments: str) -> str:
        assert export.main(["onnx", *arguments]) == 2
        return capsys.readouterr().err

    mine = tmp_path / "mine"
    mine.mkdir()
    assert "is there already; name a new" in error(
        "--model", str(plain), "--output_dir", str(mine), "--overwrite"
    )
    assert "no config.json" in error("--model", str(mine))
    assert "no head for --task token_classification (classifier)" in error(
        "--model", str(exbert), "--task", "token_classification"
    )
    assert not (plain / "onnx").exists()


def test_without_the_packages_the_extra_is_named(plain, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert export.main(["onnx", "--model", str(plain)]) == 2
    assert "pip install 'edad-fast[onnx]'" in capsys.readouterr().err


# --- sentence-transformers


def test_the_files_of_sentence_transformers(plain, exbert, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["sentence_transformers", "--model", str(plain), "--output_dir", str(out), "--max_length", "32"]
    assert export.main([*command, "--normalise"]) == 0
    modules = json.loads((out / "modules.json").read_text())
    assert [module["type"].rpartition(".")[2] for module in modules] == [
        "Transformer",
        "Pooling",
        "Normalize",
    ]
    assert all((out / module["path"]).is_dir() for module in modules)
    pooling = json.loads((out / "1_Pooling" / "config.json").read_text())
    assert pooling == {
        "word_embedding_dimension": 24,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
    }
    assert (out / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    assert export.main(command) == 2
    assert "give --overwrite" in capsys.readouterr().err
    assert export.main([*command, "--overwrite"]) == 0
    assert not (out / "2_Normalize").exists()
    assert export.main(["sentence_transformers", "--model", str(exbert)]) == 2
    assert "loads no exBERT" in capsys.readouterr().err


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_sentence_transformers_gives_our_embeddings(plain, tmp_path, pooling):
    library = pytest.importorskip("sentence_transformers", reason="not part of any extra")
    command = ["sentence_transformers", "--model", str(plain), "--output_dir", str(tmp_path / "out")]
    assert export.main([*command, "--pooling", pooling, "--normalise", "--max_length", "8"]) == 0
    found = library.SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(TEXTS)
    ours = embed(
        load_encoder(plain).eval(),
        load_tokenizer(plain),
        TEXTS,
        device=torch.device("cpu"),
        pooling=pooling,
        normalise=True,
        max_length=8,
    )
    np.testing.assert_allclose(found, ours, atol=1e-6)
