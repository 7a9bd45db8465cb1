"""The examples of docs/losses.md run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "losses.md").read_text(encoding="utf-8")
FETCH = 'BertForMaskedLM.from_pretrained("bert-base-uncased")'


def example(containing: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (found,) = [block for block in blocks if containing in block]
    assert FETCH in found
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


def test_the_trainer(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    batch = rows(4)
    dataset = [{name: x[i] for name, x in batch.items()} for i in range(4)]
    code = example("Trainer").replace("max_steps=1000", 'max_steps=2, report_to="none", use_cpu=True')
    names: dict[str, Any] = {"given_teacher": teacher(), "dataset": dataset}
    exec(code.replace('"runs/trainer"', repr(str(tmp_path))), names)
    assert names["trainer"].state.global_step == 2
    assert names["student"].distillation.fit_dense.weight.shape == (768, 24)
