"""The Unicode tables of the WordPiece core, and the oracle of its mode "slow"."""

from __future__ import annotations

import importlib.util
import sys
import unicodedata
from pathlib import Path
from types import ModuleType

import pytest
from google_basic_tokenizer import BasicWord, basic_words

FOLDER = Path(__file__).parents[1] / "csrc" / "wordpiece"


def load_maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_unicode_tables", FOLDER / "make_unicode_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


maker = load_maker()


def test_installed_tokenizers_agree_for_every_code_point() -> None:
    assert maker.differences(maker.probe_hf(), maker.load("hf")) == []


@pytest.mark.skipif(
    unicodedata.unidata_version != maker.load("slow").version,
    reason=f"the table is pinned to Unicode {maker.load('slow').version}, "
    f"this Python has {unicodedata.unidata_version}",
)
def test_unicodedata_agrees_for_every_code_point() -> None:
    assert maker.differences(maker.derive_slow(), maker.load("slow")) == []


def test_files_are_what_the_maker_writes() -> None:
    hf, slow = maker.load("hf"), maker.load("slow")
    maker.check_assumptions(hf)
    maker.check_assumptions(slow)
    for name, text in maker.render(hf, slow).items():
        assert (FOLDER / name).read_text("ascii") == text, name
        assert len(text) < 40_000, name


def test_differences_are_named() -> None:
    expected, changed = maker.load("hf"), maker.load("hf")
    changed.properties[0x2F] = 0
    del changed.decomposed[0xE9]
    changed.lower[0x10400] = (0x10400,)
    changed.properties[0xD800] = 77
    lines = maker.differences(expected, changed)
    assert [line.split(":")[0] for line in lines] == ["U+002F", "U+00E9", "U+10400"]


def test_assumptions_are_checked() -> None:
    table = maker.load("hf")
    table.properties[0x1100] = maker.PUNCTUATION
    with pytest.raises(AssertionError, match="0xac00"):
        maker.check_assumptions(table)


def test_runs_are_packed_without_loss() -> None:
    mapping = {4: (9,), 5: (10,), 8: (2,), 10: (4,), 12: (6,), 13: (7,), 0x130: (0x69, 0x307)}
    assert maker.pack_lower(mapping) == [4, 2, 1, 10, 4, 3, 2, 11, 5, 1, 1, 11]


@pytest.mark.parametrize(
    ("text", "cased", "uncased"),
    [
        ("", [], []),
        ("Naïve É", ["Naïve", "É"], ["naive", "e"]),
        ("a\u00adb\u0378c\ue000\ufffd\0d", ["abcd"], ["abcd"]),
        ("a\u2028b\x1cc\x85d", ["a", "bcd"], ["a", "bcd"]),  # Zl is white space, and no control
        ("x中y\U0002b820z", ["x", "中", "y", "\U0002b820", "z"], ["x", "中", "y", "\U0002b820", "z"]),
        ("ΑΣ ΣΑΣ. Σ", ["ΑΣ", "ΣΑΣ", ".", "Σ"], ["ας", "σας", ".", "\u03c3"]),
        ("İI", ["İI"], ["ii"]),
        ("a$b;\u037e", ["a", "$", "b", ";", "\u037e"], ["a", "$", "b", ";", ";"]),
        ("각", ["각"], ["\u1100\u1161\u11a8"]),
    ],
)
def test_oracle(text: str, cased: list[str], uncased: list[str]) -> None:
    assert [word.text for word in basic_words(text, lowercase=False)] == cased
    assert [word.text for word in basic_words(text)] == uncased


def test_oracle_cuts_and_traces() -> None:
    assert basic_words("\u200bÉe\u0301İé x", max_chars=2) == [
        BasicWord("eei", 4, [(1, 2), (2, 3), (4, 5)]),
        BasicWord("x", 1, [(7, 8)]),
    ]
