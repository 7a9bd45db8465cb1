"""The baselines of benchmarks/ compute what EDAD-fast computes, and device_hours.py measures them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers
from tiny import tiny_corpus, tiny_student, tiny_teacher
from torch import Tensor
from transformers import BertForPreTraining

from edad_fast.batches import Batch, build_shards
from edad_fast.losses import layer_map
from edad_fast.methods.adapt import AdaptationLoss, Execution
from edad_fast.methods.general_distillation import LayerDistillation
from edad_fast.models import (
    EncoderOutput,
    add_extension,
    build_pretraining_model,
    encode,
    load_pretraining_model,
    set_dropout,
    student_config,
)
from edad_fast.vocabulary import load_tokenizer

if int(transformers.__version__.split(".")[0]) < 5:
    pytest.skip("the baselines patch attention through transformers 5", allow_module_level=True)
sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

from baselines import composed, naive
from baselines.common import Chunks, Settings, fit_dense

SEQ_LEN, ROWS = 32, 6


@dataclass
class Case:
    """Models, and one batch of each collator over the same rows."""

    teacher: Callable[[], BertForPreTraining]
    student: Callable[[], BertForPreTraining]
    settings: Settings
    naive: dict[str, Tensor]
    composed: dict[str, Tensor]


def _model(model: BertForPreTraining) -> BertForPreTraining:
    """No dropout, and attention scores that are not all near 0, as those of fresh weights are."""
    set_dropout(model, 0.0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("query.weight", "key.weight")):
                weight *= 20
    return model.train()


@pytest.fixture(scope="module", params=["bert", "exbert"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("baselines")
    source = tiny_teacher(folder / "teacher")
    tokenizer = load_tokenizer(source)
    shards = build_shards(tokenizer, [tiny_corpus(folder / "text.txt")], folder / "shards", progress=False)
    settings = Settings(
        torch.device("cpu"), SEQ_LEN, ROWS, layer_map("uniform", 2, 4), steps=10, precision="fp32"
    )
    chunks = Chunks(shards, tokenizer, SEQ_LEN)
    shortest = min(range(len(chunks)), key=lambda i: len(chunks[i]))
    rows = [chunks[i] for i in [*range(ROWS - 1), shortest]]
    assert len(rows[-1]) < SEQ_LEN

    def teacher() -> BertForPreTraining:
        torch.manual_seed(1)
        model = load_pretraining_model(source)
        return _model(add_extension(model, (8, 16), 0.0) if request.param == "exbert" else model)

    def student() -> BertForPreTraining:
        torch.manual_seed(2)
        file = tiny_student(folder / "student.json")
        config = student_config(str(file), vocab_size=len(tokenizer), max_positions=SEQ_LEN)
        return _model(build_pretraining_model(config))

    torch.manual_seed(3)
    return Case(
        teacher,
        student,
        settings,
        naive.MaskingCollator(tokenizer, settings)(rows),
        composed.Collator(tokenizer, settings, masking=True)(rows),
    )


def _batch(input_ids: Tensor, mask: Tensor, positions: Tensor, labels: Tensor) -> Batch:
    """The package's form of a padded batch: one segment a row."""
    return Batch(
        input_ids=input_ids,
        segment_ids=mask.int(),
        position_ids=torch.arange(input_ids.shape[1]).expand_as(input_ids),
        token_type_ids=torch.zeros_like(input_ids),
        masked_positions=positions,
        masked_labels=labels,
        next_sentence_labels=None,
    )


def _ours(found: dict[str, Tensor]) -> Batch:
    if "positions" in found:
        kept = found["labels"] != composed.IGNORED
        return _batch(found["input_ids"], found["mask"], found["positions"][kept], found["labels"][kept])
    labels = found["labels"].flatten()
    positions = (labels != -100).nonzero().flatten()
    return _batch(found["input_ids"], found["attention_mask"].bool(), positions, labels[positions])


def _gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def _same_gradients(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    ours, theirs = _gradients(expected), _gradients(found)
    assert ours.keys() <= theirs.keys()
    assert any(gradient.abs().max() > 1e-4 for gradient in ours.values())
    for name, gradient in ours.items():
        torch.testing.assert_close(theirs[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("who", ["naive", "composed"])
def test_masked_lm_loss_is_ours(case: Case, who: str) -> None:
    found = getattr(case, who)
    batch, theirs, ours = _ours(found), case.teacher(), case.teacher()
    assert len(batch.masked_positions)
    assert not batch.mask.all()
    if who == "naive":
        theirs.set_attn_implementation("eager")
        loss = naive.masked_lm_loss(theirs, found)
    else:
        loss = composed.MaskedLM(theirs, case.settings)(found)
    expected, _ = AdaptationLoss()(ours, Execution().encode(ours, batch), batch)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    loss.backward()
    expected.backward()
    _same_gradients(theirs, ours)


@pytest.mark.parametrize("who", ["naive", "composed"])
def test_distillation_losses_are_ours(case: Case, who: str) -> None:
    """Hidden and attention MSE under TinyBERT's rules; padding reads its row's tokens, as in transformers."""
    found = getattr(case, who)
    batch, pairs = _ours(found), case.settings.pairs
    teacher, theirs, ours = case.teacher(), case.student(), case.student()
    distillation = LayerDistillation(
        ours, teacher, pairs, attention_weight=1.0, hidden_weight=1.0, mode="tinybert", head_match="auto",
        backend="auto",
    )  # fmt: skip
    projection = fit_dense(theirs, teacher, torch.device("cpu"))
    distillation.loss.fit_dense.load_state_dict(projection.state_dict())

    def output(model: BertForPreTraining) -> EncoderOutput:
        return encode(model, batch.input_ids, attention_mask=batch.mask)

    total, expected = distillation(output(ours), output(teacher).detach(), batch)
    if who == "naive":
        losses = naive.TinyBertLoss(teacher, theirs, pairs, projection)
    else:
        losses = composed.Distillation(teacher, theirs, projection, case.settings)
    attention, hidden = losses(found)
    torch.testing.assert_close(attention, expected["attention"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(hidden, expected["hidden"], rtol=1e-4, atol=1e-6)
    assert min(attention, hidden) > 1e-3
    (attention + hidden).backward()
    total.backward()
    _same_gradients(theirs, ours)
    _same_gradients(projection, distillation.loss.fit_dense)


@pytest.mark.parametrize("head", [composed._all_logits, composed._torch_chunked])
def test_heads_of_composed_agree_where_they_exist(head: composed.Head) -> None:
    if head is composed._torch_chunked and not hasattr(torch.nn.functional, "linear_cross_entropy"):
        pytest.skip("this PyTorch has no chunked linear cross-entropy")
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(64, 8), torch.randn(50, 8), torch.randn(50)
    labels = torch.randint(50, (64,))
    labels[40:] = composed.IGNORED
    expected = torch.nn.functional.cross_entropy(hidden[:40] @ weight.T + bias, labels[:40])
    torch.testing.assert_close(head(hidden, weight, bias, labels), expected, rtol=1e-5, atol=1e-6)


def test_batches_by_length_hold_every_row_once() -> None:
    lengths = [10, 32, 32, 7, 32, 20, 32, 9, 32]
    batches = composed.by_length(lengths, 4)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert sorted(sorted(lengths[i] for i in batch) for batch in batches) == [[7, 9, 10, 20], [32] * 5]


def test_device_hours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import device_hours

    file = tmp_path / "hours.json"
    options = ["--shape", "tiny", "--device", "cpu", "--precision", "fp32", "--workers", "0", "--steps", "2"]
    kept = ["--work", str(tmp_path / "work")]
    device_hours.main([*options, *kept, "--repeats", "1", "--skip_memory", "--json", str(file)])
    lines = capsys.readouterr().out.splitlines()
    report = json.loads(file.read_text())
    names = ["naive", "composed", "adapt_then_distill"]
    assert lines[-3:] == [f"{name} / edad: {report['ratios'][name]:.3f}" for name in names]
    systems = report["systems"]
    assert list(systems) == [*names, "edad"]
    edad = systems["edad"]
    for name in names:
        assert report["ratios"][name] == pytest.approx(systems[name]["seconds"][0] / edad["seconds"][0])
    for found in systems.values():
        hours = found["device_hours_per_1e9_tokens"]
        assert hours * 3600 * found["tokens_per_second"] == pytest.approx(1e9)
        assert found["tflop_per_second"] > 0
        assert found["share_of_matrix_peak"] > 0
    # The text fills our rows; padding is what the others pay for it.
    assert report["tokens"] == pytest.approx(2 * 8 * 128 * (1 - edad["padding_share"]))
    assert edad["padding_share"] < systems["composed"]["padding_share"] < systems["naive"]["padding_share"]
    # One teacher forward for both losses, heads on masked positions only.
    work = {name: found["tflop_per_million_tokens"] for name, found in systems.items()}
    assert work["edad"] < work["adapt_then_distill"] < work["composed"] < work["naive"]

    device_hours.main([*options, *kept, "--probe", "edad:0"])
    assert int(capsys.readouterr().out) > 0
