"""Every row of the table of targets: EDAD-fast against its peers in one run; floors in floors.toml."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import peers
import pytest
from conftest import HERE, OUT, Contest, Row, Table, Timing, judge, ratio
from data import Text, load
from fuzz_wordpiece import fuzz

from edad_fast.vocabulary import FastWordPieceTokenizer, WordCounts, extend_vocabulary, learn_wordpieces

PIECES = 48_180


def _rate(text: Text, seconds: float) -> str:
    return f"{text.n_bytes / 1e6 / seconds:.1f} MB/s"


def _contenders(
    table: Table, text: Text, keys: dict[str, str], make: Callable[[str], Callable[[], object]]
) -> dict[str, Callable[[], object]]:
    """The peers of `keys` that are installed; a row of the table for each that is not."""
    found = {}
    for peer, key in keys.items():
        try:
            found[peer] = make(peer)
        except peers.AbsentError as absent:
            table.add(Row(key, text.name, peer, note=str(absent)))
    return found


ENCODE_KEYS = {
    "tokenizers encode_batch_fast": "encode_tokenizers",
    "tokie encode_files": "encode_tokie",
    "flash-tokenizer": "encode_flash",
    "tokie encode_batch": "encode_other",
}


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.usefixtures("one_core")
def test_encode(
    size: str, request: pytest.FixtureRequest, contest: Contest, vocabulary: peers.Vocabulary
) -> None:
    text: Text = request.getfixturevalue(size)
    tokenizer = FastWordPieceTokenizer(vocabulary.pieces, lowercase=True)
    table = contest.table

    def bound(peer: str) -> Callable[[], object]:
        encode = peers.ENCODERS[peer][1](vocabulary)
        return lambda: encode(text)

    rivals = _contenders(table, text, ENCODE_KEYS, bound)
    with_files = lambda: tokenizer.encode_files(text.file, rows="line")  # noqa: E731
    warm = {peer: call() for peer, call in rivals.items()}
    ids, _ = tokenizer.encode_flat(text.lines)
    expected = warm["tokenizers encode_batch_fast"]
    timings = contest.run(
        f"encode {text.name}",
        lambda: tokenizer.encode_flat(text.lines),
        {**rivals, "encode_files": with_files},
    )
    differing = (
        int(np.count_nonzero(ids != expected)) if len(ids) == len(expected) else abs(len(ids) - len(expected))
    )
    rows = [
        table.add(Row("identical_ids", text.name, "tokenizers", float(differing), ours=f"{len(ids):,} ids"))
    ]
    from_files = timings.pop("encode_files")
    for peer, timing in timings.items():
        value, by_cpu = ratio(timing, contest.ours)
        cores = median(c / w for c, w in zip(timing.cpu, timing.wall, strict=True))
        assert cores < 1.2, f"{peer} has used more than one thread"
        n_ids = len(warm[peer]) - (2 * len(text.lines) if peer == "flash-tokenizer" else 0)
        note = "" if n_ids == len(ids) else f"{n_ids - len(ids):+,} ids"
        ours, theirs = _rate(text, contest.ours.seconds), _rate(text, timing.seconds)
        rows.append(
            table.add(Row(ENCODE_KEYS[peer], text.name, peer, value, by_cpu, ours, theirs, note, text.real))
        )
        if peer == "tokie encode_files":
            value, by_cpu = ratio(timing, from_files)
            ours = _rate(text, from_files.seconds)
            key = "encode_files_tokie"
            rows.append(table.add(Row(key, text.name, peer, value, by_cpu, ours, theirs, judged=text.real)))
    judge(*rows)


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("one_core")
def test_encode_with_offsets(contest: Contest, small: Text, vocabulary: peers.Vocabulary) -> None:
    tokenizer = FastWordPieceTokenizer(vocabulary.pieces, lowercase=True)
    peer = "tokenizers encode_batch"
    theirs = peers.ENCODERS[peer][1](vocabulary)
    tokenizer.encode_flat_with_offsets(small.lines)
    timings = contest.run(
        "offsets", lambda: tokenizer.encode_flat_with_offsets(small.lines), {peer: lambda: theirs(small)}
    )
    value, by_cpu = ratio(timings[peer], contest.ours)
    speeds = _rate(small, contest.ours.seconds), _rate(small, timings[peer].seconds)
    judge(contest.table.add(Row("offsets", small.name, peer, value, by_cpu, *speeds, judged=small.real)))


@pytest.mark.parametrize("size", ["small", "large"])
def test_cold_first_pass(
    size: str, request: pytest.FixtureRequest, table: Table, vocabulary: peers.Vocabulary
) -> None:
    """The first call in a process of its own, after the tokenizer is built."""
    text: Text = request.getfixturevalue(size)
    environment = {**os.environ, **peers.ONE_THREAD}
    contenders = {
        "ours": f"cold_{size}",
        "tokie encode_files": "cold_other",
        "tokie encode_batch": "cold_other",
    }
    timings = {name: Timing() for name in contenders}
    for _ in range(5):
        for name, timing in timings.items():
            command = [sys.executable, str(HERE / "cold.py"), name, str(vocabulary.txt), str(text.file)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode == 0:
                wall, cpu = map(float, done.stdout.split())
                timing.wall.append(wall)
                timing.cpu.append(cpu)
            else:
                assert "AbsentError" in done.stderr, done.stderr
    rows = []
    for name, key in contenders.items():
        timing = timings[name]
        row = Row(key, text.name, "-" if name == "ours" else name, judged=text.real)
        if timing.wall:
            table.time(f"cold {text.name}: {name}", timing)
            row.value, row.by_cpu = (text.n_bytes / 1e6 / median(t) for t in (timing.wall, timing.cpu))
        else:
            row.note = "not installed"
        rows.append(table.add(row))
    judge(*rows)


def test_two_threads(contest: Contest, large: Text, vocabulary: peers.Vocabulary) -> None:
    tokenizer = FastWordPieceTokenizer(vocabulary.pieces, lowercase=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores < 2:
        contest.table.add(Row("threads", large.name, "-", note="one core only"))
        pytest.skip("one core only")
    tokenizer.encode_flat(large.lines, n_threads=2)
    timings = contest.run(
        "threads",
        lambda: tokenizer.encode_flat(large.lines, n_threads=2),
        {"1 thread": lambda: tokenizer.encode_flat(large.lines, n_threads=1)},
        rounds=15,
    )
    value, _ = ratio(timings["1 thread"], contest.ours)
    # Another process on the second core shows as less CPU time than wall time for two threads.
    busy = median(c / w for c, w in zip(contest.ours.cpu, contest.ours.wall, strict=True))
    speeds = _rate(large, contest.ours.seconds), _rate(large, timings["1 thread"].seconds)
    note = f"{busy:.2f} cores busy"
    judge(contest.table.add(Row("threads", large.name, "-", value, None, *speeds, note, large.real)))


LEARN_KEYS = {
    "tokenizers WordPieceTrainer": "learn_tokenizers",
    "rustbpe": "learn_rustbpe",
    "rustbpe, BERT-like words": "learn_other",
    "sentencepiece BPE": "learn_other",
}


def _learn(text: Text) -> list[str]:
    return learn_wordpieces(WordCounts.from_documents(text.lines, lowercase=True), PIECES)


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("one_core")
def test_learn(contest: Contest, large: Text) -> None:
    def bound(peer: str) -> Callable[[], object]:
        package, train = peers.TRAINERS[peer]
        peers.version_of(package)
        return lambda: train(large, PIECES)

    rivals = _contenders(contest.table, large, LEARN_KEYS, bound)
    timings = contest.run(f"learn {large.name}", lambda: _learn(large), rivals)
    rows = []
    for peer, timing in timings.items():
        value, by_cpu = ratio(timing, contest.ours)
        seconds = f"{contest.ours.seconds:.2f} s", f"{timing.seconds:.2f} s"
        key = LEARN_KEYS[peer]
        rows.append(contest.table.add(Row(key, large.name, peer, value, by_cpu, *seconds, judged=large.real)))
    judge(*rows)


@pytest.mark.timeout(7200)
@pytest.mark.usefixtures("one_core")
def test_learn_from_the_whole_corpus(contest: Contest, folder: Path, request: pytest.FixtureRequest) -> None:
    peer = "tokenizers WordPieceTrainer"
    if not request.config.getoption("--whole-corpus"):
        contest.table.add(Row("learn_all", "all", peer, note="only with --whole-corpus"))
        pytest.skip("only with --whole-corpus: takes ten minutes")
    text = load(None, folder)
    if not text.real:
        contest.table.add(Row("learn_all", "all", peer, note="shared corpus absent"))
        pytest.skip("shared corpus absent")
    train = peers.TRAINERS[peer][1]
    timings = contest.run("learn all", lambda: _learn(text), {peer: lambda: train(text, PIECES)}, rounds=3)
    value, by_cpu = ratio(timings[peer], contest.ours)
    seconds = f"{contest.ours.seconds:.2f} s", f"{timings[peer].seconds:.2f} s"
    judge(contest.table.add(Row("learn_all", text.name, peer, value, by_cpu, *seconds)))


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("one_core")
def test_automatic_size(contest: Contest, large: Text, vocabulary: peers.Vocabulary) -> None:
    """AdaLM's rule from text to vocabulary, against learning 48,180 pieces once from the same text."""
    counted = WordCounts.from_documents(large.lines, lowercase=True)

    def search() -> object:
        counts = WordCounts.from_documents(large.lines, lowercase=True)
        return extend_vocabulary(vocabulary.pieces, counts, "auto")

    timings = contest.run(
        "automatic size",
        search,
        {
            "learn": lambda: _learn(large),
            "learn from counts": lambda: learn_wordpieces(counted, PIECES),
            "search from counts": lambda: extend_vocabulary(vocabulary.pieces, counted, "auto"),
        },
    )
    size = len(extend_vocabulary(vocabulary.pieces, counted, "auto").pieces)
    table, note = contest.table, f"{size:,} pieces"
    value, by_cpu = ratio(contest.ours, timings["learn"])
    seconds = f"{contest.ours.seconds:.2f} s", f"{timings['learn'].seconds:.2f} s"
    whole = table.add(Row("automatic_size", large.name, "-", value, by_cpu, *seconds, note, large.real))
    learn, found = timings["learn from counts"], timings["search from counts"]
    value, by_cpu = ratio(found, learn)
    seconds = f"{found.seconds:.2f} s", f"{learn.seconds:.2f} s"
    table.add(Row("automatic_size_counted", large.name, "-", value, by_cpu, *seconds, note, large.real))
    judge(whole)


def test_the_vocabulary_is_the_same_however_it_is_made(
    table: Table, small: Text, vocabulary: peers.Vocabulary
) -> None:
    def digest(counts: WordCounts) -> str:
        pieces = extend_vocabulary(vocabulary.pieces, counts, len(vocabulary.pieces) + 4000).pieces
        return hashlib.sha256("\n".join([*pieces, *learn_wordpieces(counts, 20_000)]).encode()).hexdigest()

    def count(lines: list[str], n_threads: int = 1) -> WordCounts:
        return WordCounts.from_documents(lines, lowercase=True, n_threads=n_threads)

    shuffled = random.Random(0).sample(small.lines, len(small.lines))
    shards = [count(small.lines[start::3]) for start in range(3)]
    ways = [*(count(small.lines, n) for n in (1, 1, 2, 7)), count(shuffled), WordCounts.merge(shards)]
    found = {digest(counts) for counts in ways}
    judge(
        table.add(Row("identical_vocabulary", small.name, "-", float(len(found)), ours=f"{len(ways)} ways"))
    )


@pytest.mark.parametrize("mode", ["hf", "slow"])
def test_hostile_strings(mode: str, table: Table) -> None:
    """Some strings now, and what the long run of fuzz_wordpiece.py has found."""
    report = fuzz(strings=20_000, mode=mode, seed=int.from_bytes(os.urandom(4)))
    ours = f"{report['strings']:,} strings, seed {report['seed']}"
    now = table.add(Row("fuzzed", "hostile", mode, float(report["differences"]), ours=ours))
    path = OUT / f"fuzz-{mode}.json"
    if path.is_file():
        long = json.loads(path.read_text())
        ours = f"{long['strings']:,} strings, seed {long['seed']}"
        judge(table.add(Row("fuzzed", "hostile, long run", mode, float(long["differences"]), ours=ours)))
    else:
        note = "run fuzz_wordpiece.py"
        table.add(Row("fuzzed", "hostile, long run", mode, note=note))
    judge(now)
