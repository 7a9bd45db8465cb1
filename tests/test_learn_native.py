"""Learning in the native core, against plain re-statements in Python; progress and interruption."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import repeat

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference_learning import letters_of, naive_pieces, tokenizers_pieces, usable_words
from toy_counts import english, learned, native, tables
from toy_vocabulary import LETTERS, SPECIAL

from edad_fast._native import WordCounts, learn, merge


@pytest.mark.parametrize("criterion", ["frequency", "likelihood"])
@settings(max_examples=120, deadline=None)
@given(
    words=st.one_of(tables("ab"), tables("abcde"), tables("aβ#", longest=12)),
    size=st.integers(0, 60),
    min_frequency=st.integers(1, 8),
    max_piece_chars=st.sampled_from([0, 0, 2, 3, 5]),
    alphabet_limit=st.sampled_from([1000, 3, 2, 0]),
    max_word_chars=st.sampled_from([100, 100, 4]),
)
@example(
    words={"aaaaaaa": 3, "baaaa": 2, "abababa": 5},
    size=40,
    min_frequency=1,
    max_piece_chars=0,
    alphabet_limit=9,
    max_word_chars=100,
)
@example(
    words={"##a#a": 3, "#": 1, "a##a": 2, "##aa": 4},
    size=60,
    min_frequency=1,
    max_piece_chars=0,
    alphabet_limit=9,
    max_word_chars=100,
)
def test_learning_equals_counting_afresh(
    criterion: str,
    words: dict[str, int],
    size: int,
    min_frequency: int,
    max_piece_chars: int,
    alphabet_limit: int,
    max_word_chars: int,
) -> None:
    options = {
        "min_frequency": min_frequency,
        "max_piece_chars": max_piece_chars,
        "alphabet_limit": alphabet_limit,
        "max_word_chars": max_word_chars,
    }
    assert learned(words, size, criterion, **options) == naive_pieces(words, size, criterion, **options)


@pytest.mark.parametrize("criterion", ["frequency", "likelihood"])
def test_learning_equals_counting_afresh_on_many_words(criterion: str) -> None:
    words = english(distinct=250)
    assert learned(words, 200, criterion) == naive_pieces(words, 200, criterion)


@pytest.mark.parametrize("criterion", ["frequency", "likelihood"])
def test_small_vocabularies_begin_large_ones(criterion: str) -> None:
    words = english()
    pieces, counts = learned(words, 900, criterion)
    assert len(pieces) == len(set(pieces)) == 900
    for size in (0, 1, 5, 30, 100, 555):
        assert learned(words, size, criterion) == (pieces[:size], counts[:size])


@pytest.mark.parametrize("criterion", ["frequency", "likelihood"])
def test_order_of_the_words_does_not_matter(criterion: str) -> None:
    words = english()
    shuffled = list(words.items())
    random.Random(2).shuffle(shuffled)
    assert learned(dict(shuffled), 500, criterion) == learned(words, 500, criterion)
    halves = [native(dict(shuffled[:700])), native(dict(shuffled[700:]))]
    assert learn(WordCounts.merge(halves), 500, criterion)[0] == learned(words, 500, criterion)[0]


def test_frequency_equals_the_trainer_of_tokenizers() -> None:
    for seed in range(10):
        words = english(seed, 200)
        assert learned(words, 200)[0] == tokenizers_pieces(words, 200)


@settings(max_examples=60, deadline=None)
@given(tables("abcd", most=20), st.integers(0, 60))
def test_frequency_equals_the_trainer_of_tokenizers_on_few_letters(words: dict[str, int], size: int) -> None:
    letters = letters_of(usable_words(words, 2, 1000))
    size = max(size, len(letters))
    assert learned(words, size)[0] == tokenizers_pieces(words, size)


def test_counts_of_many_billions() -> None:
    words = english(distinct=300)
    scaled = {word: count * 10**12 for word, count in words.items()}
    for criterion in ("frequency", "likelihood"):
        assert (
            learned(scaled, 300, criterion, min_frequency=2 * 10**12)[0] == learned(words, 300, criterion)[0]
        )
    # Scores that differ by one part in 10^18 and more, so that floating point cannot tell them apart.
    close = {"ab": 10**17, "cd": 10**17 + 1, "a": 1, "c": 1}
    assert learned(close, 6, "likelihood") == naive_pieces(close, 6, "likelihood")
    assert learned(close, 5, "likelihood")[0][-1] == naive_pieces(close, 5, "likelihood")[0][-1]
    with pytest.raises(ValueError, match=r"more than 2\*\*63 - 1 characters"):
        learn(native({"ab": 2**62}), 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "magic"}, "criterion 'magic' is unknown; the ones there are: frequency, likelihood"),
        ({"min_frequency": 0}, "min_frequency is 0; give 1 or more"),
        ({"prefix": ""}, "the prefix is empty"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        learn(native({"ab": 3}), 10, **options)


# Progress and interruption

LEARN = "learn"
MERGE = "merge"


def long_work(kind: str) -> tuple[Callable[..., object], WordCounts]:
    """Something to call with counts, and the counts."""
    if kind == LEARN:
        return partial(learn, size=2000), native(english(distinct=3000))
    words = english()
    general = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    return partial(merge, general, learned(words, 900)[0], size=400, unk_id=1), native(words)


@pytest.mark.parametrize("kind", [LEARN, MERGE])
def test_progress_is_reported_and_can_stop(kind: str) -> None:
    work, counts = long_work(kind)
    calls: list[tuple[int, int]] = []
    expected = work(counts)
    seen = work(counts, progress=lambda done, size: calls.append((done, size)))
    if kind == LEARN:
        assert seen[0] == expected[0]  # type: ignore[index]
    else:
        assert seen["pieces"] == expected["pieces"]  # type: ignore[index]
    assert 20 < len(calls) < 600
    assert calls == sorted(calls)
    assert len({size for _, size in calls}) == 1
    with pytest.raises(RuntimeError, match="interrupted"):
        work(counts, progress=lambda done, size: done < size // 2)

    def failing(done: int, size: int) -> bool:
        raise KeyError(done)

    with pytest.raises(KeyError):
        work(counts, progress=failing)
    with pytest.raises(TypeError, match="neither None nor something to call"):
        work(counts, progress=3)


@pytest.mark.parametrize("kind", [LEARN, MERGE])
def test_interrupt_key_stops_the_work(kind: str) -> None:
    work, counts = long_work(kind)
    finished: deque[object] = deque()

    def press() -> None:
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    key = threading.Thread(target=press)
    key.start()
    # No Python code runs between the calls: only the core itself can notice the key before all are done.
    with pytest.raises(KeyboardInterrupt):
        finished.extend(map(work, repeat(counts, 200)))
    key.join()
    assert len(finished) < 200
