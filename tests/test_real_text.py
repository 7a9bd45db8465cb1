"""Real text whole: every file of the tasks, and a part of the corpus; `tokenizers` is the judge."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edad_fast.corpus import open_stream
from edad_fast.vocabulary import FastWordPieceTokenizer, load_tokenizer

_BATCH = 2000


@pytest.fixture(scope="module")
def both(shared: Path) -> tuple[FastWordPieceTokenizer, Any]:
    theirs = load_tokenizer(shared / "data/models/minilm-l6-h384-uncased")
    return FastWordPieceTokenizer.from_tokenizer(theirs), theirs.backend_tokenizer


def _batches(texts: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(texts), _BATCH):
        yield texts[start : start + _BATCH]


def _check(name: str, batch: list[str], ours: tuple[Any, ...], theirs: list[Any]) -> None:
    """Same ids, and with ours = (ids, offsets, spans, words) same characters and words."""
    columns = [[row.ids for row in theirs]]
    if len(ours) > 2:
        columns += [[row.offsets for row in theirs], [row.word_ids for row in theirs]]
    lengths = [len(row) for row in columns[0]]
    assert np.diff(ours[1]).tolist() == lengths, name
    for found, expected in zip((ours[0], *ours[2:]), columns, strict=True):
        flat = np.array(list(chain.from_iterable(expected))).reshape(found.shape)
        if not np.array_equal(found, flat):
            place = int(np.flatnonzero((found != flat).reshape(len(found), -1).any(1))[0])
            text = batch[int(np.searchsorted(ours[1], place, "right")) - 1]
            pytest.fail(f"{name}: {text!a}: {found[place]}, not {flat[place]}")


def test_all_task_files(shared: Path, both: tuple[FastWordPieceTokenizer, Any]) -> None:
    """Ids, characters and words of every sentence and every line."""
    ours, theirs = both
    files = sorted(file for file in (shared / "data").glob("[ns]e*/*/*") if file.is_file())
    assert {file.parts[-3] for file in files} == {"ner", "sentiment"}
    assert len(files) >= 20
    for file in files:
        text = file.read_bytes().decode("utf-8", "replace")
        if file.suffix == ".tsv":
            sentences = text.replace("\r", "").split("\n\n")
            texts = [" ".join(line.split("\t")[0] for line in s.split("\n")) for s in sentences]
        else:
            texts = [line for line in text.split("\n") if line]
        for batch in _batches(texts):
            expected = theirs.encode_batch(batch, add_special_tokens=False)
            _check(file.name, batch, ours.encode_flat_with_offsets(batch), expected)


def test_a_part_of_the_corpus(shared: Path, both: tuple[FastWordPieceTokenizer, Any]) -> None:
    """Ids of every paragraph."""
    ours, theirs = both
    with open_stream(shared / "data/corpus/bio-00.txt.xz") as stream:
        texts = [line for line in stream.read().decode().split("\n") if line]
    assert sum(map(len, texts)) > 20_000_000
    gc.disable()  # the millions of small lists of `tokenizers` would have it run all the time
    try:
        for batch in _batches(texts):
            expected = theirs.encode_batch_fast(batch, add_special_tokens=False)
            _check("bio-00", batch, ours.encode_flat(batch), expected)
    finally:
        gc.enable()
