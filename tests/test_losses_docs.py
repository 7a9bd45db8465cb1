"""The examples of docs/losses.md run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import BertConfig, BertForMaskedLM

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "losses.md").read_text(encoding="utf-8")
FETCH = 'BertForMaskedLM.from_pretrained("bert-base-uncased")'


def example(containing: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (found,) = [block for block in blocks if containing in block]
    return found.replace(FETCH, "given_teacher").replace("hidden_size=312", "hidden_size=24, vocab_size=60")


def teacher() -> BertForMaskedLM:
    return BertForMaskedLM(BertConfig(vocab_size=60, hidden_size=768, intermediate_size=64))


def rows(count: int) -> dict[str, torch.Tensor]:
    mask = torch.ones(count, 12, dtype=torch.long)
    mask[0, 7:] = 0
    return {"input_ids": torch.randint(5, 60, (count, 12)), "attention_mask": mask}


def test_the_loop() -> None:
    logged: list[dict[str, torch.Tensor]] = []
    code = example("optimizer.step()").replace("(312, 768", "(24, 768")
    exec(code, {"given_teacher": teacher(), "batches": [rows(2), rows(3)], "log": logged.append})
    assert len(logged) == 2
    assert all(set(terms) == {"attention", "hidden"} for terms in logged)
    assert all(torch.isfinite(x) for terms in logged for x in terms.values())


def test_the_single_losses() -> None:
    names: dict[str, Any] = {}
    exec(example("relations ="), names)
    torch.testing.assert_close(names["same"], names["scores"])
    assert names["ends"].tolist() == [0, 7, 11]
    logits = names["decoder"](names["transform"](names["student_hidden"]))
    smoothed = F.cross_entropy(logits.mT, names["hf_labels"], label_smoothing=0.1)
    normaliser = logits.logsumexp(-1)[names["hf_labels"] != -100].square().mean()
    torch.testing.assert_close(names["masked_lm"], smoothed + 1e-4 * normaliser)
    losses = [names[x] for x in ("scores", "same", "hidden", "relations", "predictions", "masked_lm")]
    sum(losses).backward()
    assert all(x.isfinite() for x in losses)


@pytest.fixture
def _accelerate() -> None:
    pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate (the extra `test`)")


@pytest.mark.usefixtures("_accelerate")
def test_accumulated_gradients_are_a_mean_with_labels_in_the_batch(tmp_path: Path) -> None:
    row = {name: x[1] for name, x in rows(2).items()}
    dataset = [{**row, "labels": row["input_ids"]}] * 4
    code = example("Trainer").replace("vocab_size=60", "vocab_size=60, hidden_dropout_prob=0.0")
    code = code.replace("vocab_size=60", "vocab_size=60, attention_probs_dropout_prob=0.0")
    common = 'max_steps=1, report_to="none", use_cpu=True, optim="sgd", learning_rate=0.1, max_grad_norm=0.0'
    given, results = teacher(), []
    for steps, rows_at_once in ((1, 4), (4, 1)):
        batches = f"gradient_accumulation_steps={steps}, per_device_train_batch_size={rows_at_once}"
        names: dict[str, Any] = {"given_teacher": given, "dataset": dataset}
        torch.manual_seed(0)
        text = code.replace("max_steps=1000", f"{common}, {batches}")
        exec(text.replace('"runs/trainer"', repr(str(tmp_path))), names)
        results.append(names["student"].distillation.fit_dense.weight.detach())
    torch.testing.assert_close(*results)


@pytest.mark.usefixtures("_accelerate")
def test_the_trainer(tmp_path: Path) -> None:
    batch = rows(4)
    dataset = [{name: x[i] for name, x in batch.items()} for i in range(4)]
    code = example("Trainer").replace("max_steps=1000", 'max_steps=2, report_to="none", use_cpu=True')
    names: dict[str, Any] = {"given_teacher": teacher(), "dataset": dataset}
    exec(code.replace('"runs/trainer"', repr(str(tmp_path))), names)
    assert names["trainer"].state.global_step == 2
    assert names["student"].distillation.fit_dense.weight.shape == (768, 24)
