"""Learning pieces from counts and merging them with a general vocabulary."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_vocabulary import CASED_TEXT, SPECIAL, TEXT, TINY, check_merged, counts_of

from edad_fast.errors import InputError
from edad_fast.vocabulary import (
    WordCounts,
    decompose,
    extend_vocabulary,
    learn_wordpieces,
    merge_vocabularies,
    piece_counts,
)
from edad_fast.vocabulary import build as build_module

# Learning


def test_learned_pieces_are_alphabet_then_merges_and_never_special() -> None:
    counts = counts_of(TEXT + " [MASK] [UNK] " * 20)
    pieces = learn_wordpieces(counts, 200)
    assert len(set(pieces)) == len(pieces) <= 200
    bodies = [len(piece.removeprefix("##")) for piece in pieces]
    first_merge = next(place for place, length in enumerate(bodies) if length > 1)
    assert all(length == 1 for length in bodies[:first_merge])
    assert all(length > 1 for length in bodies[first_merge:])
    assert not set(SPECIAL) & set(pieces)
    assert "hepatitis" in pieces
    # A smaller vocabulary is the beginning of a larger one.
    assert learn_wordpieces(counts, 120) == pieces[:120]


def test_frequency_decides_the_first_merge() -> None:
    pieces = learn_wordpieces(WordCounts({"ab": 5, "cd": 9, "xcd": 1, "ef": 1}), 100, min_frequency=2)
    merges = [piece for piece in pieces if len(piece.removeprefix("##")) > 1]
    assert merges == ["cd", "ab"]
    assert "e" not in pieces
    assert "x" not in pieces


def test_learning_leaves_out_rare_characters_and_endless_words() -> None:
    counts = WordCounts({"abc": 9, "bcd": 8, "q": 1, "aqb": 7, "z" * 101: 50, "y" * 100: 50})
    pieces = learn_wordpieces(counts, 60, limit_alphabet=5)
    assert "z" * 101 not in pieces
    assert not any("q" in piece for piece in pieces)
    # Without "q" the word aqb must not be read as ab.
    assert "ab" not in learn_wordpieces(WordCounts({"aqb": 7, "ac": 50, "bd": 50}), 60, limit_alphabet=4)


def test_same_counts_same_pieces_whatever_order_threads_and_hash_seed() -> None:
    words = list(counts_of(CASED_TEXT, TEXT[::-1], TEXT.replace("e", "o")).items())
    random.Random(1).shuffle(words)
    code = (
        "import json, sys; from edad_fast.vocabulary import learn_wordpieces;"
        "print(json.dumps(learn_wordpieces(dict(json.load(sys.stdin)), 400)))"
    )
    environment = {
        **os.environ,
        "RAYON_NUM_THREADS": "4",
        "PYTHONHASHSEED": "2",
        "TOKENIZERS_PARALLELISM": "true",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(words), capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    words.reverse()
    assert json.loads(done.stdout) == learn_wordpieces(dict(words), 400)


def test_huge_counts_are_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = counts_of(TEXT)
    expected = learn_wordpieces(counts, 150)
    monkeypatch.setattr(build_module, "_MAX_WORDS_FED", counts.total_words)
    huge = WordCounts({word: count * 10**9 for word, count in counts.items()})
    assert learn_wordpieces(huge, 150) == expected


def test_unknown_criterion() -> None:
    with pytest.raises(InputError, match="criterion 'magic' is unknown"):
        learn_wordpieces(WordCounts({"a": 3}), 5, criterion="magic")


# Merging


def test_merge_keeps_general_ids_and_adds_no_unreachable_piece() -> None:
    counts = counts_of(TEXT)
    learned = learn_wordpieces(counts, 300)
    merged = merge_vocabularies(TINY, learned, counts, size=len(TINY) + 12)
    check_merged(merged, TINY, counts, len(TINY) + 12)
    assert merged.removed_unreachable > 0
    # Learning order is kept.
    assert [piece for piece in learned if piece in merged.added] == merged.added


_WORDS = st.dictionaries(st.text("abc", min_size=1, max_size=8), st.integers(1, 50), min_size=1, max_size=40)


@settings(max_examples=150)
@given(words=_WORDS, new=st.integers(0, 30))
def test_merge_is_exact_or_says_what_the_corpus_supports(words: dict[str, int], new: int) -> None:
    counts = WordCounts(words)
    general = [*SPECIAL, "a", "b", "c", "##a", "##b", "##c", "ab", "##bc"]
    try:
        merged = extend_vocabulary(general, counts, len(general) + new)
    except InputError as error:
        supported = int(str(error).split("supports: ")[1].split()[0])
        assert supported < len(general) + new
        check_merged(extend_vocabulary(general, counts, supported), general, counts, supported)
    else:
        check_merged(merged, general, counts, len(general) + new)


def test_candidates_that_no_word_uses_are_topped_up() -> None:
    counts = WordCounts({"abcd": 5, "xy": 3})
    general = [*SPECIAL, *"abcdxy", *(f"##{c}" for c in "abcdxy")]
    merged = merge_vocabularies(general, ["ab", "abc", "zz", "abcd", "xy"], counts, size=len(general) + 2)
    assert merged.added == ["abcd", "xy"]
    assert merged.removed_unreachable == 3
    with pytest.raises(
        InputError, match=rf"supports: {len(general) + 2} pieces \({len(general)} general and 2 new\)"
    ):
        merge_vocabularies(general, ["ab", "abc", "zz", "abcd", "xy"], counts, size=len(general) + 3)


def test_size_below_the_general_vocabulary() -> None:
    with pytest.raises(InputError, match=rf"size 10 is below the general vocabulary's {len(TINY)} pieces"):
        merge_vocabularies(TINY, [], WordCounts({"a": 1}), size=10)


def test_general_vocabulary_without_unknown_token() -> None:
    with pytest.raises(InputError, match=r"no \[UNK\]"):
        merge_vocabularies(["a"], ["b"], WordCounts({"b": 1}), size=2)


def test_piece_counts() -> None:
    counts = WordCounts({"abb": 5, "b": 2, "é": 4})
    pieces = ["[UNK]", "a", "b", "##b"]
    assert piece_counts(pieces, counts).tolist() == [4, 5, 2, 10]


def test_decompose() -> None:
    added = ["treats", "##tis", "pain", "é", "##é"]
    general = TINY
    ids = {piece: number for number, piece in enumerate(general)}
    split = [[ids["treat"], ids["##s"]], [ids["##t"], ids["##i"], ids["##s"]]]
    split += [[ids[piece] for piece in ("p", "##a", "##i", "##n")], [ids["[UNK]"]], [ids["[UNK]"]]]
    assert decompose(added, general) == split
