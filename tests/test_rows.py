"""The native core fills and masks rows as numpy does, number for number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_corpus import (
    CLS,
    CONTINUATION,
    FIRST_WORD,
    MASK,
    PAD,
    SEP,
    UNK,
    WORDS,
    assert_same,
    toy_shards,
    toy_stream,
)

from edad_fast.batches import BatchStream, TokenShards, rows, shards
from edad_fast.batches.packing import Spans
from edad_fast.batches.rows import RowFiller, Rows
from edad_fast.errors import InputError

VOCABULARY = FIRST_WORD + WORDS
NATIVE = pytest.mark.parametrize("native", [True, False])


def filler(of: TokenShards, **options: Any) -> RowFiller:
    special = np.zeros(VOCABULARY, np.bool_)
    special[:CONTINUATION] = True
    defaults = {"seq_len": 16, "special": special, "continuation": None, "probability": 0.15, "seed": 3}
    return RowFiller(of, cls_id=CLS, sep_id=SEP, pad_id=PAD, mask_id=MASK, **(defaults | options))


def spans_of(**columns: int) -> Spans:
    """One span, of the tokens 3 to 7."""
    one = {"row": 0, "start": 3, "length": 5, "column": 1, "origin": 0, "segment": 1, "token_type": 0}
    return Spans(**{name: np.array([value]) for name, value in (one | columns).items()})


ONE = np.zeros(1, np.int64)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Shards of short and of long documents, in one file each, and in many."""
    folders = []
    short, long = [1, 2, 2, 3, 1, 5, 2, 4, 3, 2] * 3, [60, 3, 200, 41, 90, 7, 33, 150] * 2
    for number, lengths in enumerate((short, long)):
        for tokens_per_file in (17, 2**26):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(shards, "TOKENS_PER_FILE", tokens_per_file)
                folder = tmp_path_factory.mktemp(f"corpus-{number}-{tokens_per_file}")
                toy_shards(folder, lengths, tails=(0, 1, 0, 3))
            folders.append(folder / "shards")
    return folders


@settings(max_examples=40, deadline=None)
@given(
    corpus=st.integers(0, 3),
    unknown=st.sampled_from([1, 2, 3, 10**6]),
    world_size=st.integers(1, 2),
    seq_len=st.sampled_from([5, 6, 16, 33, 128]),
    rows_per_step=st.integers(6, 40),
    mlm_probability=st.sampled_from([0.0, 0.01, 0.15, 0.5, 1.0]),
    accumulation_steps=st.integers(1, 3),
    split=st.sampled_from(["train", "held_out"]),
    whole_word=st.booleans(),
    nsp=st.booleans(),
    seed=st.integers(-1, 2**64),
)
def test_native_and_numpy_make_the_same_batches(
    corpora: list[Path], corpus: int, unknown: int, world_size: int, **options: Any
) -> None:
    made = TokenShards(corpora[corpus], held_out_fraction=0.45)
    special, continuation = np.zeros(VOCABULARY, np.bool_), np.zeros(VOCABULARY, np.bool_)
    special[[PAD, UNK, CLS, SEP, MASK]] = True
    special[FIRST_WORD::unknown] = True  # so that rows have few tokens to mask, or none
    continuation[CONTINUATION] = True
    for rank in range(world_size):
        stream = BatchStream(
            made,
            cls_id=CLS,
            sep_id=SEP,
            pad_id=PAD,
            mask_id=MASK,
            vocab_size=VOCABULARY,
            continuation=continuation,
            special=special,
            rank=rank,
            world_size=world_size,
            **options,
        )
        for step in (0, 1, 9):
            native = stream.step(step)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(rows, "_native", None)
                plain = stream.step(step)
            assert_same(native, plain)
            for left, right in zip(native, plain, strict=True):
                assert left.cu_seqlens is not None
                assert right.cu_seqlens is not None
                assert torch.equal(left.cu_seqlens, right.cu_seqlens)


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_rows_have_the_same_types_and_sizes(
    tmp_path: Path, n: int, probability: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also without rows, and with rows that no span fills."""
    made, _ = toy_shards(tmp_path, [20, 20])
    fill = filler(made, probability=probability).fill
    spans = spans_of(row=n - 1)
    if not n:
        spans = Spans(*(np.zeros(0, np.int64) for _ in range(7)))
    keys = np.arange(n)
    native = fill(spans, keys, keys)
    monkeypatch.setattr(rows, "_native", None)
    plain = fill(spans, keys, keys)
    for name in Rows._fields:
        left, right = getattr(native, name), getattr(plain, name)
        assert (left.dtype, left.shape) == (right.dtype, right.shape), name
        np.testing.assert_array_equal(left, right, name)


@pytest.mark.parametrize("n", range(1, 41))
def test_halves_are_rounded_to_even(tmp_path: Path, n: int) -> None:
    made, _ = toy_shards(tmp_path, [50])
    for probability in (0.5, 0.25, 0.1, 0.15, 0.3, 0.7):
        found = filler(made, seq_len=64, probability=probability).fill(spans_of(length=n), ONE, ONE)
        assert found.masked[0] == max(1, np.rint(probability * n))


@NATIVE
@pytest.mark.parametrize("token", [-1, VOCABULARY, 2**31 - 1, -(2**31)])
def test_a_damaged_token_is_named(
    tmp_path: Path, token: int, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_shards(tmp_path, [30])
    path = tmp_path / "shards" / "tokens-00000.int32"
    tokens = np.fromfile(path, "<i4")
    tokens[6] = token
    tokens.tofile(path)
    if not native:
        monkeypatch.setattr(rows, "_native", None)
    fill = filler(TokenShards(tmp_path / "shards")).fill
    with pytest.raises(InputError, match=f"shards: token {token} is outside the vocabulary of {VOCABULARY};"):
        fill(spans_of(), ONE, ONE)
    fill(spans_of(start=7), ONE, ONE)


@NATIVE
@pytest.mark.parametrize("tokens_per_file", [7, 2**26])
@pytest.mark.parametrize("start", [-1, -(2**62), 26, 30, 2**62])
def test_damaged_offsets_are_never_followed(
    tmp_path: Path, start: int, tokens_per_file: int, native: bool, monkeypatch
) -> None:
    monkeypatch.setattr(shards, "TOKENS_PER_FILE", tokens_per_file)
    made, _ = toy_shards(tmp_path, [30])
    if not native:
        monkeypatch.setattr(rows, "_native", None)
    with pytest.raises(InputError, match="the shards are damaged"):
        filler(made).fill(spans_of(start=start), ONE, ONE)


@NATIVE
def test_the_tokens_are_only_read(tmp_path: Path, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made, documents = toy_shards(tmp_path, [30])
    assert not any(file.flags.writeable for file in made.files[0])
    if not native:
        monkeypatch.setattr(rows, "_native", None)
    stream = toy_stream(made, mlm_probability=1.0)
    for array in vars(stream._filler).values():
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    stream.step(0)
    assert made.document(0).tolist() == documents[0]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"row": 1}, {}, "span 0 does not fit into 1 rows of 16 tokens"),
        ({"row": -1}, {}, "does not fit"),
        ({"length": 15}, {}, "does not fit"),
        ({"length": -1}, {}, "does not fit"),
        ({"column": 0}, {}, "does not fit"),
        ({"origin": -1}, {}, "does not fit"),
        ({}, {"continuation": np.zeros(5, np.bool_)}, "continuation has 5 elements"),
        ({}, {"probability": 1.1}, "probability is 1.1"),
        ({}, {"probability": float("nan")}, "probability is"),
    ],
)
def test_what_does_not_fit_is_told(
    tmp_path: Path, columns: dict[str, int], options: dict[str, Any], message: str
) -> None:
    made, _ = toy_shards(tmp_path, [30])
    with pytest.raises(ValueError, match=message):
        filler(made, **options).fill(spans_of(**columns), ONE, ONE)


@pytest.mark.parametrize("kind", ["int64", "float32", ">i4"])
def test_files_are_never_converted(tmp_path: Path, kind: str) -> None:
    made, _ = toy_shards(tmp_path, [30])
    made._tokens[0] = made._tokens[0].astype(kind)
    with pytest.raises(TypeError, match="int32"):
        filler(made).fill(spans_of(), ONE, ONE)
