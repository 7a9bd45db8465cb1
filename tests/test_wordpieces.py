"""Learning pieces from counts and merging them with a general vocabulary."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_vocabulary import CASED_TEXT, SPECIAL, TEXT, TINY, check_merged, counts_of, greedy

from edad_fast.errors import InputError
from edad_fast.vocabulary import (
    Learning,
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


def test_huge_counts() -> None:
    """Beyond 32 bits the counts of tokenizers' trainer would run over."""
    counts = counts_of(TEXT)
    huge = WordCounts({word: count * 10**12 for word, count in counts.items()})
    assert learn_wordpieces(huge, 150) == learn_wordpieces(counts, 150, min_frequency=1)


def test_likelihood_prefers_what_belongs_together() -> None:
    # "ab" is more frequent, but "xy" never occurs apart.
    counts = WordCounts({"ab": 50, "ac": 90, "cb": 90, "xy": 20})
    by_criterion = {
        name: [piece for piece in learn_wordpieces(counts, 30, criterion=name) if len(piece) == 2]
        for name in ("frequency", "likelihood")
    }
    assert by_criterion["frequency"][:2] == ["ac", "cb"]
    assert by_criterion["likelihood"][0] == "xy"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "magic"}, "criterion 'magic' is unknown; there are: frequency, likelihood"),
        ({"min_frequency": 0}, "min_frequency is 0; give 1 or more"),
        ({"limit_alphabet": 0}, "limit_alphabet is 0"),
        ({"max_piece_characters": -1}, "max_piece_characters is -1"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        learn_wordpieces(WordCounts({"a": 3}), 5, **options)


def test_longest_piece() -> None:
    pieces = learn_wordpieces(counts_of(TEXT), 200, max_piece_characters=4)
    assert max(len(piece.removeprefix("##")) for piece in pieces) == 4


def test_ctrl_c_interrupts_learning() -> None:
    """The signal is noticed inside the native core, and nothing hangs."""
    code = (
        "import random, signal; from edad_fast.vocabulary import learn_wordpieces\n"
        "letters = [chr(97 + n) for n in range(26)]; r = random.Random(0)\n"
        "words = {''.join(r.choices(letters, k=12)): 2 for _ in range(60_000)}\n"
        "signal.signal(signal.SIGALRM, signal.default_int_handler)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.2)\n"
        "try: learn_wordpieces(words, 10**6); print('finished')\n"
        "except KeyboardInterrupt: print('interrupted')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "interrupted", done.stderr


# Merging


def test_merge_keeps_general_ids_and_adds_no_unreachable_piece() -> None:
    counts = counts_of(TEXT)
    learned = learn_wordpieces(counts, 300)
    merged = merge_vocabularies(TINY, learned, counts, size=len(TINY) + 12)
    check_merged(merged, TINY, counts, len(TINY) + 12)
    assert merged.passed_over > 0
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
    assert merged.passed_over == 3
    with pytest.raises(
        InputError, match=rf"supports: {len(general) + 2} pieces \({len(general)} to begin with and 2 new\)"
    ):
        merge_vocabularies(general, ["ab", "abc", "zz", "abcd", "xy"], counts, size=len(general) + 3)


def test_size_below_the_general_vocabulary() -> None:
    with pytest.raises(InputError, match=rf"size 10 is below the general vocabulary's {len(TINY)} pieces"):
        merge_vocabularies(TINY, [], WordCounts({"a": 1}), size=10)


def test_general_vocabulary_without_unknown_token() -> None:
    with pytest.raises(InputError, match=r"no \[UNK\]"):
        merge_vocabularies(["a"], ["b"], WordCounts({"b": 1}), size=2)


def test_unused_rows_are_taken_first_and_padding_comes_last() -> None:
    counts = counts_of(TEXT)
    general = [*SPECIAL, "[unused0]", "[unused1]", *TINY[5:], "[unused7]"]
    learned = learn_wordpieces(counts, 300)
    plain = merge_vocabularies(general, learned, counts, size=len(general) + 5)
    merged = merge_vocabularies(
        general, learned, counts, size=len(general) + 5, reuse_unused=True, pad_to_multiple=16
    )
    assert merged.added[:5] == plain.added
    assert len(merged.added) == 8
    assert list(merged.added_rows)[:4] == [5, 6, len(general) - 1, len(general)]
    kept = [piece for piece in general if not piece.startswith("[unused")]
    assert [piece for piece in merged.pieces[: len(general)] if piece in kept] == kept
    assert len(merged.pieces) % 16 == 0
    assert merged.padding == len(merged.pieces) - len(general) - 5
    assert all(piece.startswith("[unused") for piece in merged.pieces[len(general) + 5 :])
    assert len(set(merged.pieces)) == len(merged.pieces)
    assert (piece_counts(merged.pieces, counts)[list(merged.added_rows)] > 0).all()


def test_counts_and_curve_are_those_of_the_final_words() -> None:
    counts = counts_of(TEXT, "z" * 101)
    merged = extend_vocabulary(TINY, counts, len(TINY) + 12)
    assert merged.counts is not None
    assert merged.curve is not None
    assert merged.counts.tolist() == piece_counts(merged.pieces, counts).tolist()
    assert merged.curve.size[[0, -1]].tolist() == [len(TINY), len(TINY) + 12]
    assert merged.curve.tokens[-1] == merged.counts.sum()
    assert merged.curve.log_likelihood[-1] == pytest.approx(_log_likelihood(TINY + merged.added, counts))
    thin = merged.curve.thinned(5)
    assert len(thin.size) == 5
    assert thin.size[[0, -1]].tolist() == merged.curve.size[[0, -1]].tolist()


# Automatic size

STEMS = ["hepat", "nephr", "gastr", "dermat", "cardi", "neur", "oste", "arthr", "enter", "my"]
ENDINGS = ["itis", "osis", "ectomy", "oma", "algia", "opathy", "ology", "otomy"]
RICH = WordCounts(
    {
        stem + ending: 1 + 4000 // (3 * m + 5 * n + 1)
        for m, stem in enumerate(STEMS)
        for n, ending in enumerate(ENDINGS)
    }
)


def _log_likelihood(pieces: list[str], counts: WordCounts) -> float:
    """Sum of c ln(c / C), from segmenting every word with the plain algorithm."""
    known = set(pieces)
    histogram: Counter[str] = Counter({"[UNK]": counts.long_words})
    for word, count in counts.items():
        for piece in greedy(word, known):
            histogram[piece] += count
    total = sum(histogram.values())
    return math.fsum(count * math.log(count / total) for count in histogram.values() if count)


def _plain_search(general: list[str], counts: WordCounts, learning: Learning) -> tuple[int, str]:
    """AdaLM's rule with a vocabulary of its own for each size, everything computed anew."""
    before, size = _log_likelihood(general, counts), len(general)
    while True:
        size += learning.interval
        if size > learning.max_size:
            return learning.max_size, "max_size"
        try:
            merged = extend_vocabulary(general, counts, size, learning=learning)
        except InputError as error:
            return int(str(error).split("supports: ")[1].split()[0]), "candidates"
        now = _log_likelihood(merged.pieces, counts)
        if 1.0 - now / before <= learning.threshold:
            return size, "threshold"
        before = now


@pytest.mark.parametrize(
    ("threshold", "interval", "max_size", "end"),
    [
        (0.05, 7, 1000, "threshold"),
        (0.2, 3, 1000, "threshold"),
        (0.0, 50, 1000, "candidates"),
        (0.0, 3, len(TINY) + 7, "max_size"),
        (0.999, 1, 1000, "threshold"),
    ],
)
@pytest.mark.parametrize("criterion", ["frequency", "likelihood"])
def test_automatic_size_is_that_of_the_plain_rule(
    threshold: float, interval: int, max_size: int, end: str, criterion: str
) -> None:
    counts = RICH
    learning = Learning(criterion, threshold=threshold, interval=interval, max_size=max_size)
    merged = extend_vocabulary(TINY, counts, "auto", learning=learning)
    assert (len(merged.pieces), merged.end) == _plain_search(TINY, counts, learning)
    assert merged.end == end
    check_merged(merged, TINY, counts, len(merged.pieces))
    assert merged.steps is not None
    assert merged.gains is not None
    assert (np.diff(merged.steps.size) == interval).all()
    for size, likelihood in zip(
        merged.steps.size.tolist(), merged.steps.log_likelihood.tolist(), strict=True
    ):
        expected = extend_vocabulary(TINY, counts, size, learning=learning).pieces
        assert likelihood == pytest.approx(_log_likelihood(expected, counts), rel=1e-12)


def test_automatic_size_learns_once_where_that_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    learn = build_module._native.learn
    monkeypatch.setattr(
        build_module._native, "learn", lambda *args, **named: (runs.append(args[1]), learn(*args, **named))[1]
    )
    extend_vocabulary(TINY, RICH, "auto", learning=Learning(interval=5, threshold=0.1, max_size=300))
    assert runs == [300]


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
