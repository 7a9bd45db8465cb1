"""Merging and the automatic size in the native core, against splitting all words afresh."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference_learning import UNKNOWN, histogram, naive_merge
from toy_counts import english, learned, native, tables
from toy_vocabulary import LETTERS, SPECIAL, TEXT

from edad_fast._native import merge

GENERAL = [*SPECIAL, "a", "b", "c", "##a", "##b", "##c", "ab", "##bc"]


def check_merge(
    general: list[str], candidates: list[str], words: dict[str, int], size: int | None, **options: object
) -> dict[str, object]:
    """The native result, after comparing all of it with `naive_merge`."""
    long_words = int(options.pop("long_words", 0))  # type: ignore[call-overload]
    result = merge(
        general, candidates, native(words, long_words), size=size, unk_id=general.index(UNKNOWN), **options
    )
    expected = naive_merge(general, candidates, words, size, long_words=long_words, **options)  # type: ignore[arg-type]
    pieces = result["pieces"]
    assert pieces == expected.pieces
    assert [pieces[row] for row in result["added"]] == expected.added
    assert (result["general_size"], result["passed_over"]) == (len(general), expected.passed_over)
    assert (result["end"], result["padding"]) == (expected.end, 0)
    tokens = histogram(pieces, words, long_words, int(options.get("max_chars", 100)))  # type: ignore[call-overload]
    assert result["counts"].tolist() == [tokens[piece] for piece in pieces]
    curve, steps = result["curve"], result["steps"]
    assert list(zip(curve["size"], curve["tokens"], strict=True)) == [point[:2] for point in expected.curve]
    assert curve["log_likelihood"] == pytest.approx(
        [point[2] for point in expected.curve], rel=1e-9, abs=1e-6
    )
    assert np.isnan(curve["gain"]).all()
    assert list(zip(steps["size"], steps["tokens"], strict=True)) == [step[:2] for step in expected.steps]
    assert steps["log_likelihood"] == pytest.approx([step[2] for step in expected.steps], rel=1e-13, abs=1e-9)
    assert steps["gain"] == pytest.approx([step[3] for step in expected.steps], abs=1e-12, nan_ok=True)
    return result


_CANDIDATES = st.lists(
    st.tuples(st.sampled_from(["", "##"]), st.text("abcd", min_size=1, max_size=5)).map("".join), max_size=40
)


@settings(max_examples=150, deadline=None)
@given(
    tables("abcd", most=15),
    _CANDIDATES,
    st.integers(0, 20),
    st.sampled_from([100, 4]),
    st.sampled_from([0, 3]),
)
@example({"abc": 2, "abd": 1}, ["##d", "abd", "##cd"], 3, 100, 0)
@example({"abcd": 2}, ["##d", "abcd", "##bcd"], 3, 100, 0)
@example({"ccd": 2}, ["##cd", "cc", "##d"], 3, 100, 0)
@example({"ccd": 2, "cc": 1}, ["##cd", "cc", "ca", "ccd"], 3, 100, 0)
@example({"ccd": 2, "cca": 1}, ["##cd", "cc", "cca", "##d"], 3, 100, 0)
@example({"acbcd": 1, "d": 4, "da": 1}, ["acb", "##cd", "d", "acbc", "##d"], 20, 100, 1)
def test_merge_equals_splitting_afresh(
    words: dict[str, int], candidates: list[str], new: int, max_chars: int, long_words: int
) -> None:
    check_merge(GENERAL, candidates, words, len(GENERAL) + new, max_chars=max_chars, long_words=long_words)


@settings(max_examples=80, deadline=None)
@given(tables("abc#", most=15), st.integers(0, 12))
def test_merge_of_learned_pieces(words: dict[str, int], new: int) -> None:
    check_merge(GENERAL, learned(words, 60, min_frequency=1)[0], words, len(GENERAL) + new)


@settings(max_examples=80, deadline=None)
@given(
    tables("abcd", most=20),
    _CANDIDATES,
    st.integers(1, 5),
    st.sampled_from([0.0, 0.01, 0.05, 0.3]),
    st.integers(0, 15),
)
def test_automatic_size_follows_the_rule(
    words: dict[str, int], candidates: list[str], interval: int, threshold: float, most: int
) -> None:
    check_merge(
        GENERAL, candidates, words, None, interval=interval, threshold=threshold, max_size=len(GENERAL) + most
    )


def test_automatic_size_of_a_corpus() -> None:
    words = english(distinct=300)
    general = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    candidates = learned(words, 400)[0]
    most = len(general) + 200
    result = check_merge(general, candidates, words, None, interval=15, threshold=0.05, max_size=most)
    assert result["end"] == "threshold"
    assert len(result["steps"]["gain"]) > 3  # type: ignore[index]
    assert all(gain > 0.05 for gain in result["steps"]["gain"][1:-1])  # type: ignore[index]
    assert result["steps"]["gain"][-1] <= 0.05  # type: ignore[index]
    assert math.isnan(result["steps"]["gain"][0])  # type: ignore[index]
    assert len(result["pieces"]) == result["steps"]["size"][-1]  # type: ignore[index, arg-type]
    exact = merge(general, candidates, native(words), size=len(result["pieces"]), unk_id=1)  # type: ignore[arg-type]
    assert exact["pieces"] == result["pieces"]
    for options, end in [({"max_size": len(general) + 22}, "max_size"), ({"interval": 10**6}, "candidates")]:
        assert (
            check_merge(general, candidates, words, None, **{"threshold": 0.0, "interval": 15} | options)[
                "end"
            ]
            == end
        )


@settings(max_examples=80, deadline=None)
@given(tables("abcd", most=15), _CANDIDATES, st.integers(0, 12))
@example({"[unused7]": 1, "abab": 1}, ["abab", "aba", "abc"], 0)
def test_unused_rows_are_taken_first(words: dict[str, int], candidates: list[str], new: int) -> None:
    general = ["[unused1]", *GENERAL[:8], "[unused7]", "[unused]", *GENERAL[8:], "[unused0]"]
    result = check_merge(general, candidates, words, len(general) + new, reuse_unused=True)
    kept = [row for row in range(len(general)) if row not in result["added"]]  # type: ignore[operator]
    assert [result["pieces"][row] for row in kept] == [general[row] for row in kept]  # type: ignore[index]


def test_padding_takes_free_names() -> None:
    general = [*SPECIAL, "[unused0]", "a", "##a", "[unused2]"]
    result = merge(general, ["aa"], native({"aa": 3}), size=9, unk_id=1, reuse_unused=True, pad_to_multiple=4)
    assert result["pieces"] == [
        *SPECIAL, "aa", "a", "##a", "[unused2]", "[unused1]", "[unused3]", "[unused4]",
    ]  # fmt: skip
    assert (result["padding"], result["added"].tolist()) == (3, [5])
    assert result["counts"].tolist() == [0] * 5 + [3] + [0] * 6
    assert merge(general, [], native({}), size=9, unk_id=1, pad_to_multiple=3)["padding"] == 0


@pytest.mark.parametrize(
    ("general", "candidates", "options", "message"),
    [
        (["a", "[UNK]", "a"], [], {"unk_id": 1}, r"general piece 2 \('a'\) appears twice"),
        (["[UNK]", ""], [], {}, "general piece 1 is empty"),
        (["[UNK]"], ["a", ""], {}, "candidate 1 is empty"),
        (["[UNK]"], [], {"unk_id": 1}, "unk_id 1 is outside the 1 general pieces"),
        (["[UNK]", "a"], [], {"size": 1}, "size 1 is below the general vocabulary's 2 pieces"),
        (["[UNK]", "a"], [], {"size": None, "max_size": 1}, "size 1 is below the general"),
        (["[UNK]"], [], {"size": None, "interval": 0}, "interval is 0"),
    ],
)
def test_merges_that_make_no_sense(
    general: list[str], candidates: list[str], options: dict[str, int | None], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        merge(general, candidates, native({"a": 1}), **{"size": 10} | options)


def test_merge_needs_no_more_than_the_words(shared: Path) -> None:
    general = (shared / "data/vocab/bert_base_uncased_vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    words = {word: 3 for word in TEXT.lower().split()}
    candidates = learned(words, 500, min_frequency=1)[0]
    result = merge(general, candidates, native(words), size=len(general) + 5, unk_id=general.index(UNKNOWN))
    assert len(result["pieces"]) == len(general) + 5
    assert (result["counts"][result["added"]] > 0).all()
