"""Every method has its page, and the commands on the pages are commands of this program."""

from __future__ import annotations

import re
import shlex
import typing
from pathlib import Path

import pytest

from edad_fast.config import Distillation, Method, TrainConfig
from edad_fast.methods import METHODS
from edad_fast.options import parse_config
from edad_fast.report.model_card import _METHODS as DESCRIBED

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "methods"
PRETRAINING = [
    *("edad", "general_distillation", "adapt_then_distill", "from_scratch", "distill_then_adapt"),
    "adapt_and_distill",
]
PAGES = [FOLDER / f"{n}.md" for n in (*PRETRAINING, "minilmv2", "distilbert", "vocabulary_variants")]


def _command(page: Path) -> TrainConfig:
    (block,) = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    words = shlex.split(block.replace("\\\n", " "))
    assert words[:3] == ["python", "-m", "edad_fast.train"]
    return parse_config(words[3:])


@pytest.mark.parametrize("name", PRETRAINING)
def test_methods_have_pages_stages_and_a_line_on_the_card(name: str) -> None:
    assert name in typing.get_args(Method)
    assert METHODS[name]
    assert DESCRIBED[name]
    assert _command(FOLDER / f"{name}.md").method == name


@pytest.mark.parametrize("name", ["minilmv2", "distilbert"])
def test_losses_have_pages(name: str) -> None:
    assert name in typing.get_args(Distillation)
    assert _command(FOLDER / f"{name}.md").distillation == name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_are_short_whole_and_linked(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 40
    assert re.findall(r"^## (.*)$", text, re.MULTILINE)[-2:] == ["Command", "Measured"]
    _command(page)
    for target in re.findall(r"\]\(([\w.]+)\)", text):
        assert (FOLDER / target).is_file(), target
    for flag in set(re.findall(r"--([a-z_]+)", text)) - {"check"}:
        assert flag in TrainConfig.__dataclass_fields__, flag
