"""Batches of texts: order, shares, parts of processes and micro-batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edad_fast.batches import DomainStream, EncodedTexts, TextStream
from edad_fast.errors import InputError

PAD = 0


def _texts(count: int = 23, longest: int = 70, seed: int = 0) -> EncodedTexts:
    rng = np.random.default_rng(seed)
    ids = [rng.integers(1, 50, rng.integers(3, longest + 1)) for _ in range(count)]
    return EncodedTexts(ids, PAD, rng.integers(0, 2, count))


def test_an_epoch_shows_every_text_once_in_an_order_of_its_own() -> None:
    texts = _texts(24)
    stream = TextStream(texts, 6, seed=3)
    assert stream.steps_per_epoch == 4
    numbers = [n for (batch,) in stream.iterate(0, 8) for n in batch.numbers.tolist()]
    assert sorted(numbers[:24]) == sorted(numbers[24:]) == list(range(24))
    assert numbers[:24] != numbers[24:]
    assert numbers != [n for (b,) in TextStream(texts, 6, seed=4).iterate(0, 8) for n in b.numbers.tolist()]


def test_rows_are_the_texts_padded() -> None:
    texts = _texts()
    for (batch,) in TextStream(texts, 5).iterate(0, 9):
        assert batch.input_ids.shape[1] in (32, 64, texts.longest)
        assert batch.tokens == int((batch.segment_ids == 1).sum()) == int(batch.mask.sum())
        for row, number in enumerate(batch.numbers.tolist()):
            ids = torch.from_numpy(texts.ids[number])
            assert torch.equal(batch.input_ids[row, : len(ids)], ids)
            assert not batch.mask[row, len(ids) :].any()
            assert batch.labels[row] == texts.labels[number]
    assert batch.epoch == 1
    assert batch.to("cpu").epoch == 1


def test_a_step_is_the_same_wherever_one_starts() -> None:
    stream = TextStream(_texts(), 5)
    later = TextStream(_texts(), 5)
    for (one,), (other,) in zip(list(stream.iterate(0, 12))[7:], later.iterate(7, 12), strict=True):
        assert torch.equal(one.input_ids, other.input_ids)
        assert one.shares == other.shares


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_parts_make_up_the_step(world_size: int, accumulation_steps: int) -> None:
    texts = _texts()
    ((whole,),) = TextStream(texts, 7).iterate(2, 3)
    parts = []
    for rank in range(world_size):
        stream = TextStream(texts, 7, accumulation_steps=accumulation_steps, rank=rank, world_size=world_size)
        parts += stream.step(2)
    assert torch.equal(torch.cat([part.numbers for part in parts]), whole.numbers)
    for name in ("rows", "tokens", "pairs"):
        assert sum(getattr(p.shares, name) for p in parts) / world_size == pytest.approx(1.0)
    weighted = sum(p.shares.tokens * (p.input_ids * p.mask).sum() / p.tokens for p in parts) / world_size
    torch.testing.assert_close(weighted, (whole.input_ids * whole.mask).sum() / whole.tokens)


def test_in_order_gives_every_text_once() -> None:
    texts = _texts()
    numbers = torch.cat([batch.numbers for batch in texts.in_order(4)])
    assert sorted(numbers.tolist()) == list(range(23))


def test_two_domains_side_by_side() -> None:
    source, target = TextStream(_texts(), 5), TextStream(_texts(12, seed=1), 5)
    stream = DomainStream(source, target)
    assert stream.steps_per_epoch == 3
    for step, (batch,) in enumerate(stream.iterate(0, 4)):
        batch = batch.to(torch.device("cpu"))
        assert torch.equal(batch.source.numbers, source.step(step)[0].numbers)
        assert torch.equal(batch.target.numbers, target.step(step)[0].numbers)
        assert batch.tokens == batch.source.tokens + batch.target.tokens


def test_too_few_rows_are_explained() -> None:
    with pytest.raises(InputError, match="3 texts a step cannot be cut into 2 micro-batches for each of 2"):
        TextStream(_texts(), 3, accumulation_steps=2, world_size=2)


def test_no_text_is_explained() -> None:
    with pytest.raises(InputError, match="no text to train on"):
        EncodedTexts([], PAD)
