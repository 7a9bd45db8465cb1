from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.models import WordPiece

from edad_fast._native import Segmenter

LETTERS = "abβ€#"
PIECES = st.lists(st.text(LETTERS, min_size=1, max_size=4), unique=True, max_size=30).map(
    lambda pieces: ["[UNK]", *pieces]
)
WORDS = st.lists(st.text(LETTERS, max_size=9), max_size=8)


def segment(segmenter: Segmenter, words: list[str], as_continuation: bool = False) -> list[list[int]]:
    ids, offsets = segmenter.segment(words, as_continuation)
    assert (ids.dtype, offsets.dtype) == (np.int32, np.int64)
    assert len(offsets) == len(words) + 1
    assert (offsets[0], offsets[-1]) == (0, len(ids))
    return [part.tolist() for part in np.split(ids, offsets[1:-1])] if words else []


@given(PIECES, WORDS, st.integers(1, 9))
def test_equals_hugging_face_wordpiece(pieces: list[str], words: list[str], max_chars: int) -> None:
    model = WordPiece(
        {piece: index for index, piece in enumerate(pieces)},
        unk_token="[UNK]",
        continuing_subword_prefix="##",
        max_input_chars_per_word=max_chars,
    )
    expected = [[token.id for token in model.tokenize(word)] for word in words]
    assert segment(Segmenter(pieces, 0, max_chars=max_chars), words) == expected


@given(PIECES, WORDS)
def test_as_continuation_equals_the_rest_of_a_longer_word(pieces: list[str], words: list[str]) -> None:
    # "[" starts no other piece, so that the longer word's first piece is "[" itself.
    segmenter = Segmenter([*pieces, "["], 0)
    longer = segment(segmenter, ["[" + word for word in words])
    expected = [ids if ids == [0] else ids[1:] for ids in longer]
    assert segment(segmenter, words, as_continuation=True) == expected


def test_unk_id_and_prefix_are_the_caller_s() -> None:
    segmenter = Segmenter(["a", "@b", "?"], 2, prefix="@")
    assert segment(segmenter, ["ab", "b", "", "a"]) == [[0, 1], [2], [], [0]]


@pytest.mark.parametrize(
    ("pieces", "unk_id", "message"),
    [
        (["[UNK]", "a", "b", "a"], 0, "'a' appears twice: ids 1 and 3"),
        (["[UNK]", ""], 0, "piece 1 is empty"),
        (["[UNK]", "a"], 2, "unk_id 2 is outside the 2 pieces"),
        (["[UNK]", "a"], -1, "unk_id -1"),
        ([], 0, "unk_id 0"),
    ],
)
def test_rejects_what_is_no_vocabulary(pieces: list[str], unk_id: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Segmenter(pieces, unk_id)


def test_rejects_what_is_no_text() -> None:
    segmenter = Segmenter(["[UNK]", "a"], 0)
    with pytest.raises(TypeError, match=r"words\[1\] is not a str"):
        segmenter.segment(["a", b"a"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="incompatible"):
        segmenter.segment("a word instead of a list")  # type: ignore[arg-type]
    with pytest.raises(UnicodeEncodeError):
        segmenter.segment(["\ud800"])


def test_result_outlives_segmenter_and_words() -> None:
    ids, offsets = Segmenter(["[UNK]", "a", "##b"], 0).segment(["ab"] * 1000)
    assert ids.tolist() == [1, 2] * 1000
    assert offsets.tolist() == list(range(0, 2001, 2))


def test_other_threads_run_meanwhile() -> None:
    segmenter = Segmenter(["[UNK]", "a", "##a"], 0)
    words = ["a" * 90] * 50_000
    started = threading.Event()
    finished: list[bool] = []

    def work() -> None:
        started.set()
        segmenter.segment(words)
        finished.append(True)

    # With so long an interval this thread runs before work() ends only if segment() lets go of the GIL.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)
    try:
        worker = threading.Thread(target=work)
        worker.start()
        started.wait()
        finished_before_us = list(finished)
        worker.join()
    finally:
        sys.setswitchinterval(interval)
    assert finished
    assert not finished_before_us
