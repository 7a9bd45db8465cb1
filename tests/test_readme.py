"""What the README shows runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from toy_vocabulary import write_base
from transformers import BertConfig, BertForMaskedLM

from edad_fast.options import parse_config
from edad_fast.vocabulary.command import build_parser

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def _block(language: str, containing: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    (found,) = [block for block in blocks if containing in block]
    return found


def test_the_loop_with_the_losses() -> None:
    code = _block("python", "DistillationLoss")
    fetch = 'AutoModelForMaskedLM.from_pretrained("bert-base-uncased")'
    assert fetch in code
    names: dict[str, object] = {
        "untrained_teacher": BertForMaskedLM(BertConfig(vocab_size=60, intermediate_size=64)),
        "batches": [
            {
                "input_ids": torch.randint(5, 60, (2, 12)),
                "attention_mask": torch.ones(2, 12, dtype=torch.long),
            }
        ],
    }
    exec(code.replace(fetch, "untrained_teacher"), names)
    result = names["result"]
    assert set(result.terms) == {"attention", "hidden"}  # type: ignore[attr-defined]
    assert torch.isfinite(result.total)  # type: ignore[attr-defined]


def test_the_real_command_has_known_options() -> None:
    command = _block("bash", "edad_fast.train").split("edad_fast.train", 1)[1].replace("\\\n", " ")
    config = parse_config(command.replace("'", "").split())
    assert (config.teacher, config.vocab_size, config.student) == ("bert-base-uncased", "40000", "tinybert4")


def test_the_tokenizer(tmp_path: Path) -> None:
    code = _block("python", "FastWordPieceTokenizer")
    assert '"runs/mine/student"' in code
    names: dict[str, object] = {"folder": write_base(tmp_path / "base")}
    exec(code.replace('"runs/mine/student"', "folder"), names)
    assert names["batch"]["input_ids"].shape[0] == 2  # type: ignore[index]
    assert len(names["ids"]) == len(names["spans"])  # type: ignore[arg-type]


def test_the_vocabulary_command_has_known_options() -> None:
    command = _block("bash", "--size auto").split("edad_fast.vocab", 1)[1]
    assert build_parser().parse_args(command.replace("'", "").split()).size == "auto"
    command = _block("bash", "--check").split("edad_fast.vocab", 1)[1]
    assert build_parser().parse_args(command.split()).base == "bert-base-uncased"
