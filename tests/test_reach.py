"""Pieces that no text produces: found, and the rule behind it proved for every character."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_vocabulary import SPECIAL, TINY, write_base

from edad_fast import vocab
from edad_fast.vocabulary import (
    FastWordPieceTokenizer,
    Normalization,
    WordCounts,
    build_vocabulary,
    find_unreachable,
    load_tokenizer,
    write_vocab,
)

MODES = [
    Normalization("hf", True),
    Normalization("hf", True, strip_accents=False),
    Normalization("hf", False),
    Normalization("slow", True),
    Normalization("slow", False),
]
# The planes in use; in the others all characters are alike.
CHARACTERS = [
    chr(c) for c in (*range(0xD800), *range(0xE000, 0x34000), *range(0xE0000, 0xE0200), 0xF0000, 0x10FFFD)
]


def test_each_kind() -> None:
    dead = [
        "The",
        "hép",
        "a-b",
        "##-",
        "##.5",
        "a b",
        "x" * 101,
        "##" + "y" * 100,
        "##中",
        "中文",
        "##É",
        "##",
        "\u00ad",
    ]
    live = ["hep", "##atitis", "½", "##½", "中", "x" * 100, "##" + "y" * 99, "ß", "##ß", "€", "##€", "#"]
    pieces = [*TINY, "[unused3]", *dead, *live]
    reach = find_unreachable(FastWordPieceTokenizer(pieces, lowercase=True))
    assert [pieces[row] for row in reach.unreachable] == dead
    assert reach.undecided == []
    assert [pieces[row] for row in reach.reserved] == [*SPECIAL, "[unused3]"]
    assert len(reach.witnesses) + len(dead) + len(reach.reserved) == len(pieces)
    cased = find_unreachable(FastWordPieceTokenizer(pieces, lowercase=False))
    assert set(dead) - {pieces[row] for row in cased.unreachable} == {"The", "hép", "##É"}
    only = find_unreachable(
        FastWordPieceTokenizer(pieces, lowercase=True), [0, pieces.index("The"), len(pieces) - 1]
    )
    assert (only.unreachable, only.reserved, list(only.witnesses)) == (
        [pieces.index("The")],
        [0],
        [len(pieces) - 1],
    )


def test_a_piece_that_a_longer_one_always_hides() -> None:
    """##b can stand inside a word, but after every piece the longest match takes it along."""
    reach = find_unreachable(FastWordPieceTokenizer(["[UNK]", "a", "ab", "##b"]))
    assert (reach.unreachable, reach.undecided) == ([], [])
    assert reach.witnesses[3] == "abb"
    hidden = find_unreachable(FastWordPieceTokenizer(["[UNK]", "a", "ab", "##b", "abb", "abbb"[:3] + "c"]))
    assert hidden.undecided == []
    none = find_unreachable(FastWordPieceTokenizer(["[UNK]", "-", "##b"]))
    assert none.undecided == [2]


@settings(max_examples=100, deadline=None)
@given(
    pieces=st.lists(st.text("abAé-中#\u0301 ", min_size=1, max_size=4), unique=True, max_size=25),
    lowercase=st.booleans(),
)
def test_witnesses_are_witnesses_and_the_unreachable_never_turn_up(
    pieces: list[str], lowercase: bool
) -> None:
    tokenizer = FastWordPieceTokenizer(["[UNK]", *pieces], lowercase)
    reach = find_unreachable(tokenizer)
    for row, word in reach.witnesses.items():
        assert row in tokenizer.encode_flat([word])[0]
    bodies = [piece.removeprefix("##") for piece in pieces]
    texts = [
        *bodies,
        *(a + b for a in bodies for b in bodies),
        *("x" + b for b in bodies),
        "aAé-中 #\u0301".join(bodies),
    ]
    produced = set(tokenizer.encode_flat(texts)[0].tolist())
    assert not produced.intersection(reach.unreachable)


@pytest.mark.parametrize("normalization", MODES, ids=str)
def test_what_normalisation_has_done_it_leaves_alone(normalization: Normalization) -> None:
    """The rule's ground: every character's words are their own normal form, alone and inside a word."""
    words = list(WordCounts.from_documents(CHARACTERS, normalization=normalization))
    assert len(words) > 90_000
    pieces = ["[UNK]", "a", *(word for word in words if word != "a")]
    options = {key: value for key, value in normalization.options().items() if key != "compat"}
    tokenizer = FastWordPieceTokenizer(pieces, compat=normalization.compat, **options)
    ids, offsets = tokenizer.encode_flat(pieces[1:])
    assert (np.diff(offsets) == 1).all()
    assert (ids == np.arange(1, len(pieces))).all()
    # Behind a letter a character goes on with its word or is a word of its own, the same in every text.
    ids, offsets = tokenizer.encode_flat(["a" + piece for piece in pieces[1:]])
    assert set(np.diff(offsets).tolist()) == {1, 2}
    apart = np.flatnonzero(np.diff(offsets) == 2)
    assert (ids[offsets[apart]] == 1).all()
    assert (ids[offsets[apart] + 1] == apart + 1).all()
    reach = find_unreachable(tokenizer.with_pieces([*pieces, *("##" + piece for piece in pieces[1:])]))
    assert reach.unreachable == (apart + len(pieces)).tolist()


def test_published_vocabulary(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published, base = shared / "data/vocab/exbert_vocab.txt", shared / "data/models/minilm-l6-h384-uncased"
    # 2,782 rows behind the base are of no use: one is an empty line, 2,781 no text produces.
    flags = ["--check", str(published), "--base", str(base), "--output_dir", str(tmp_path)]
    assert vocab.main(flags) == 0
    shown = capsys.readouterr().out
    assert "unreachable         3,118" in shown
    assert "2,781 of them behind the 30,522 pieces" in shown
    assert "empty lines         1 (line 30,523), counted as [unused] rows" in shown
    assert "undecided           0" in shown
    lines = (tmp_path / "unreachable.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3118
    assert lines[0] == "2134\t..."


def test_check_counts_what_a_corpus_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_vocab(tmp_path / "v.txt", [*TINY, "Treat", "pain"])
    (tmp_path / "c.txt").write_text(" ".join([*TINY[5:48], "the treating"]))
    assert (
        vocab.main(
            ["--check", str(tmp_path / "v.txt"), "--lowercase", "true", "--corpus", str(tmp_path / "c.txt")]
        )
        == 0
    )
    shown = capsys.readouterr().out
    assert "unreachable         1:" in shown
    assert "not in this corpus  37 of the reachable ones" in shown
    assert vocab.main(["--check", str(tmp_path / "nowhere.txt")]) == 2


def test_warning_for_a_ready_vocabulary(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = load_tokenizer(write_base(tmp_path / "base"))
    write_vocab(tmp_path / "v.txt", [*TINY, "pain", "3.5", "##-x"])
    assert build_vocabulary(base, [], vocab_file=tmp_path / "v.txt").added == ["pain", "3.5", "##-x"]
    assert f"no text produces 2 of the 3 new pieces, such as '3.5' on line {len(TINY) + 2}" in caplog.text
    caplog.clear()
    write_vocab(tmp_path / "v.txt", [*TINY, "pain"])
    build_vocabulary(base, [], vocab_file=tmp_path / "v.txt")
    assert caplog.text == ""
