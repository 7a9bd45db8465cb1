from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toy_models import PIECES, WORDS, save_tiny
from transformers import AutoModelForTokenClassification, BertConfig, BertModel

from edad_fast import evaluate
from edad_fast.errors import InputError
from edad_fast.models import load_masked_lm
from edad_fast.tasks.device import autocast, device_name, resolve_device, resolve_precision
from edad_fast.tasks.masked_lm import masked_lm_loss_on, unpack
from edad_fast.tasks.ner import NerSettings, NerTask, score_tags
from edad_fast.tasks.ner_data import load_ner
from edad_fast.vocabulary import load_tokenizer, save_tokenizer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "plain")


@pytest.fixture(scope="module")
def exbert(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "exbert", extension=True)


@pytest.fixture(params=["plain", "exbert"])
def model_dir(request) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    rng = random.Random(0)
    documents = [" ".join(rng.choice(WORDS) for _ in range(rng.randint(3, 90))) for _ in range(40)]
    file = tmp_path_factory.mktemp("text") / "valid.txt"
    file.write_text("\n\n".join(documents) + "\n", encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def ner_data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ner") / "toy"
    folder.mkdir()
    rng = random.Random(1)
    for split, count in (("train", 64), ("devel", 16), ("test", 16)):
        rows = []
        for _ in range(count):
            words = [rng.choice(WORDS) for _ in range(rng.randint(2, 8))]
            rows += [f"{w}\t{'B-Disease' if w in ('gout', 'flu', 'polio') else 'O'}" for w in words] + [""]
        (folder / f"{split}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


# --- MLM loss


def packed_batch() -> SimpleNamespace:
    """Row 0: pieces of 4 and 3 tokens and one padding; row 1: one piece of 8."""
    ids = torch.tensor([[2, 7, 4, 3, 2, 4, 3, 0], [2, 5, 4, 8, 9, 4, 6, 3]])
    segments = torch.tensor([[1, 1, 1, 1, 2, 2, 2, 0], [1] * 8], dtype=torch.int32)
    return SimpleNamespace(
        input_ids=ids,
        segment_ids=segments,
        token_type_ids=torch.zeros_like(ids),
        masked_positions=torch.tensor([2, 5, 10, 13]),
        masked_labels=torch.tensor([8, 6, 10, 12]),
    )


class Stream:
    steps_per_epoch = 3

    def __init__(self) -> None:
        self.asked: list[int] = []

    def step(self, step: int) -> list[SimpleNamespace]:
        self.asked.append(step)
        return [packed_batch()]


def test_unpack_gives_each_piece_its_row():
    inputs, positions = unpack(packed_batch())
    assert inputs["input_ids"].tolist() == [
        [2, 7, 4, 3, 0, 0, 0, 0],
        [2, 4, 3, 0, 0, 0, 0, 0],
        [2, 5, 4, 8, 9, 4, 6, 3],
    ]
    assert inputs["attention_mask"].sum(1).tolist() == [4, 3, 8]
    assert inputs["input_ids"].flatten()[positions].tolist() == [4, 4, 4, 4]
    assert positions.tolist() == [2, 9, 18, 21]


def test_loss_equals_that_of_the_dense_head_on_single_pieces(model_dir):
    model = load_masked_lm(model_dir).train()
    scores = masked_lm_loss_on(model, Stream(), max_batches=2, device=CPU)
    assert model.training
    model.eval()
    pieces = [([2, 7, 4, 3], {2: 8}), ([2, 4, 3], {1: 6}), ([2, 5, 4, 8, 9, 4, 6, 3], {2: 10, 5: 12})]
    losses = []
    with torch.no_grad():
        for ids, labels in pieces:
            logits = model(input_ids=torch.tensor([ids])).logits[0]
            losses += [F.cross_entropy(logits[i], torch.tensor(label)) for i, label in labels.items()]
    assert scores["loss"] == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)
    assert scores["perplexity"] == pytest.approx(float(torch.stack(losses).mean().exp()), rel=1e-4)
    assert (scores["masked_tokens"], scores["tokens"], scores["batches"]) == (8, 30, 2)


def test_a_model_without_separate_head_gives_the_same_loss(plain):
    class Wrapped(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, **inputs: torch.Tensor) -> object:
            return self.inner(**inputs)

    model = load_masked_lm(plain)
    expected = masked_lm_loss_on(model, Stream(), device=CPU)["loss"]
    assert masked_lm_loss_on(Wrapped(model), Stream(), device=CPU)["loss"] == pytest.approx(
        expected, rel=1e-6
    )


def test_loss_takes_an_epoch_at_most_and_needs_a_mask(plain):
    stream = Stream()
    masked_lm_loss_on(load_masked_lm(plain), stream, max_batches=10, device=CPU)
    assert stream.asked == [0, 1, 2]
    empty = packed_batch()
    empty.masked_positions = empty.masked_labels = torch.empty(0, dtype=torch.long)
    stream.step = lambda step: [empty]  # type: ignore[method-assign]
    with pytest.raises(InputError, match="no token"):
        masked_lm_loss_on(load_masked_lm(plain), stream, device=CPU)


def test_mlm_command_is_reproducible(model_dir, text, tmp_path, capsys):
    command = ["mlm", "--model", str(model_dir), "--data", str(text), "--seq_len", "32", "--device", "cpu"]
    results = []
    for name in ("a", "b"):
        assert evaluate.main([*command, "--output_dir", str(tmp_path / name)]) == 0
        results.append(json.loads((tmp_path / name / "mlm.json").read_text()))
        assert "MLM loss per masked token" in capsys.readouterr().out
    assert {**results[0], "seconds": 0} == {**results[1], "seconds": 0}
    assert 1.5 < results[0]["loss"] < 4.0  # near ln(16) for random weights
    assert evaluate.main([*command, "--seed", "1", "--output_dir", str(tmp_path / "c")]) == 0
    assert json.loads((tmp_path / "c" / "mlm.json").read_text())["loss"] != results[0]["loss"]
    assert evaluate.main([*command, "--max_tokens", "100", "--output_dir", str(tmp_path / "d")]) == 0
    assert json.loads((tmp_path / "d" / "mlm.json").read_text())["batches"] == 1
    folder = [*command[:4], str(text.parent), *command[5:], "--output_dir", str(tmp_path / "e")]
    assert evaluate.main(folder) == 0
    assert json.loads((tmp_path / "e" / "mlm.json").read_text())["loss"] == results[0]["loss"]


def test_mlm_results_of_other_text_are_kept(model_dir, text, tmp_path, capsys):
    other = tmp_path / "other.txt"
    other.write_text(text.read_text())
    command = [
        "mlm",
        "--model",
        str(model_dir),
        "--seq_len",
        "32",
        "--device",
        "cpu",
        "--output_dir",
        str(tmp_path),
    ]
    assert evaluate.main([*command, "--data", str(text)]) == 0
    assert evaluate.main([*command, "--data", str(text)]) == 0
    capsys.readouterr()
    assert evaluate.main([*command, "--data", str(other)]) == 2
    assert "with other data" in capsys.readouterr().err
    assert evaluate.main([*command, "--data", str(other), "--overwrite"]) == 0
    assert json.loads((tmp_path / "mlm.json").read_text())["data"] == [str(other)]


def test_mlm_bad_input(plain, text, tmp_path, capsys):
    def error(*arguments: str) -> str:
        assert evaluate.main(["mlm", "--output_dir", str(tmp_path), *arguments]) == 2
        return capsys.readouterr().err

    assert "no file matches" in error("--model", str(plain), "--data", str(tmp_path / "absent*.txt"))
    assert "--seq_len 64" in error("--model", str(plain), "--data", str(text), "--seq_len", "64")
    assert "no config.json" in error("--model", str(tmp_path), "--data", str(text))
    bare = tmp_path / "bare"
    BertModel(BertConfig.from_pretrained(plain)).save_pretrained(bare)
    save_tokenizer(load_tokenizer(plain), bare)
    assert "no MLM head" in error("--model", str(bare), "--data", str(text))
    weights = bare / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert "model.safetensors: cannot be read" in error("--model", str(bare), "--data", str(text))
    weights.unlink()
    assert "no weights" in error("--model", str(bare), "--data", str(text))


# --- named entities


def ner_command(model: Path, data: Path, output: Path, *extra: str) -> list[str]:
    arguments = [
        "ner",
        "--model",
        str(model),
        "--data",
        str(data),
        "--output_dir",
        str(output),
        "--device",
        "cpu",
    ]
    return [*arguments, "--epochs", "3", "--learning_rate", "5e-3", "--batch_size", "8", *extra]


def test_ner_command_writes_reuses_and_refuses(plain, ner_data, tmp_path, capsys, monkeypatch):
    assert evaluate.main(ner_command(plain, ner_data, tmp_path, "--seeds", "1")) == 0
    first = json.loads((tmp_path / "ner.json").read_text())
    assert first["entity_f1"]["std"] is None
    assert first["labels"] == ["O", "B-Disease"]

    assert evaluate.main(ner_command(plain, ner_data, tmp_path, "--seeds", "2")) == 0
    captured = capsys.readouterr()
    assert "seed 1, learning rate 0.005, epoch 3/3" in captured.err
    assert "s left)" in captured.err
    second = json.loads((tmp_path / "ner.json").read_text())
    assert second["seeds"] == [0, 1]
    assert second["runs"][0] == first["runs"][0]
    scores = [run["test"]["entity_f1"] for run in second["runs"]]
    assert second["entity_f1"]["mean"] == pytest.approx(sum(scores) / 2)
    assert f"{scores[1]:.4f}" in captured.out
    assert "| entity F1 (seqeval, micro) |" in (tmp_path / "ner.md").read_text()

    monkeypatch.setattr(NerTask, "fine_tune", lambda *_, **__: pytest.fail("all seeds are there"))
    assert evaluate.main(ner_command(plain, ner_data, tmp_path, "--seeds", "2")) == 0
    assert evaluate.main(ner_command(plain, ner_data, tmp_path, "--seeds", "2", "--untrained")) == 2
    assert "holds results with other settings" in capsys.readouterr().err
    assert evaluate.main(ner_command(plain, ner_data, tmp_path, "--seeds", "1", "--seed", "3")) == 2
    assert "holds results with other seed" in capsys.readouterr().err
    assert evaluate.main(ner_command(plain, ner_data, tmp_path, "--seed", "-1")) == 2
    monkeypatch.undo()
    assert evaluate.main(ner_command(plain, ner_data, tmp_path / "b", "--seeds", "1", "--seed", "1")) == 0
    other = json.loads((tmp_path / "b" / "ner.json").read_text())
    assert (other["seed"], other["seeds"]) == (1, [1])


def test_a_kill_between_seeds_loses_no_finished_seed(plain, ner_data, tmp_path, monkeypatch):
    fine_tune = NerTask.fine_tune

    def killed(self, seed, *rest, **options):
        if seed == 1:
            raise SystemExit(137)
        return fine_tune(self, seed, *rest, **options)

    monkeypatch.setattr(NerTask, "fine_tune", killed)
    with pytest.raises(SystemExit):
        evaluate.main(ner_command(plain, ner_data, tmp_path, "--seeds", "2"))
    assert json.loads((tmp_path / "ner.json").read_text())["seeds"] == [0]
    seeds = []
    monkeypatch.setattr(
        NerTask, "fine_tune", lambda self, seed, *a, **k: seeds.append(seed) or fine_tune(self, seed, *a, **k)
    )
    assert evaluate.main(ner_command(plain, ner_data, tmp_path, "--seeds", "2")) == 0
    assert seeds == [1]


def test_ner_of_exbert_and_overwrite(exbert, ner_data, tmp_path):
    assert evaluate.main(ner_command(exbert, ner_data, tmp_path, "--seeds", "1", "--untrained")) == 0
    untrained = json.loads((tmp_path / "ner.json").read_text())
    assert evaluate.main(ner_command(exbert, ner_data, tmp_path, "--seeds", "1", "--overwrite")) == 0
    trained = json.loads((tmp_path / "ner.json").read_text())
    assert trained["entity_f1"]["mean"] > 0.5
    assert trained["runs"][0]["devel"] != untrained["runs"][0]["devel"]


def test_the_best_model_is_kept_as_a_plain_token_classifier(plain, ner_data, tmp_path, capsys):
    kept, out = tmp_path / "kept", tmp_path / "out"
    command = ner_command(plain, ner_data, out, "--save_model", str(kept), "--precision", "fp32")
    assert evaluate.main([*command, "--seeds", "2"]) == 0
    runs = json.loads((out / "ner.json").read_text())["runs"]
    devel = [max(epoch["entity_f1"] for epoch in run["devel"]) for run in runs]
    best = devel.index(max(devel))
    model = AutoModelForTokenClassification.from_pretrained(kept)
    assert model.config.id2label == {0: "O", 1: "B-Disease"}
    assert model.get_input_embeddings().weight.shape[0] == len(PIECES)
    # The saved files give the test score of that run.
    task = NerTask(model, load_tokenizer(kept), load_ner(ner_data), NerSettings(), CPU)
    found = score_tags(task.splits["test"].gold, task.predict(task.model, "test"))
    assert found["entity_f1"] == pytest.approx(runs[best]["test"]["entity_f1"])
    # A piece that the data lacks keeps its embedding.
    before = load_masked_lm(plain).get_input_embeddings().weight
    unused, used = PIECES.index("[MASK]"), PIECES.index("gout")
    after = model.get_input_embeddings().weight
    assert torch.equal(after[unused], before[unused])
    assert not torch.equal(after[used], before[used])
    assert evaluate.main([*command, "--seeds", "2"]) == 0  # reused
    other = ner_command(plain, ner_data, out, "--save_model", str(tmp_path / "new"), "--precision", "fp32")
    assert evaluate.main([*other, "--seeds", "2"]) == 2
    assert "seeds 0, 1 are done and their models were not kept" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    other[other.index(str(tmp_path / "new"))] = str(tmp_path / "full")
    assert evaluate.main(other) == 2
    assert "holds other files" in capsys.readouterr().err


def test_ner_bad_input(plain, ner_data, tmp_path, capsys):
    broken = tmp_path / "data"
    broken.mkdir()
    for file in ner_data.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    with (broken / "test.tsv").open("a") as stream:
        stream.write("aspirin\tB-Drug\n")
    assert evaluate.main(ner_command(plain, broken, tmp_path / "out", "--seeds", "1")) == 2
    assert "label B-Drug does not occur" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    command = ner_command(plain, broken, tmp_path / "out", "--seeds", "1", "--ignore_unknown_labels")
    assert evaluate.main(command) == 0
    drug = json.loads((tmp_path / "out" / "ner.json").read_text())["runs"][0]["test"]["per_type"]["Drug"]
    assert drug == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "entities": 1}
    assert evaluate.main(ner_command(plain, ner_data, tmp_path / "x", "--seeds", "0")) == 2
    assert evaluate.main(ner_command(plain, ner_data, tmp_path / "y", "--num_threads", "0")) == 2


# --- device and precision


def test_device_and_precision():
    assert resolve_device("cpu") == CPU
    with pytest.raises(InputError, match="no such device"):
        resolve_device("abacus")
    if not torch.cuda.is_available():
        assert resolve_device("auto") == CPU
        with pytest.raises(InputError, match="0 CUDA devices"):
            resolve_device("cuda")
    assert "thread" in device_name(CPU)
    assert resolve_precision("fp32", CPU) == "fp32"
    assert resolve_precision("auto", CPU) in ("fp32", "bf16")
    with pytest.raises(InputError, match="fp16"):
        resolve_precision("fp16", CPU)
    with autocast(CPU, "bf16"):
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.bfloat16
    with autocast(CPU, "fp32"):
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.float32
