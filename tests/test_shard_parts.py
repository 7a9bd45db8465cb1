"""A corpus counted and tokenised in parts gives what one process gives, whatever the number of parts."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_corpus
from toy_runs import arguments_of, write_inputs

from edad_fast import shards, train, vocab
from edad_fast.corpus import files_of_shard
from edad_fast.errors import InputError
from edad_fast.vocabulary import WordCounts
from edad_fast.vocabulary.command import build_parser
from edad_fast.vocabulary.parts import Part

FILES = 5


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As of a run; the corpus is five files, the third without text."""
    folder = write_inputs(tmp_path_factory.mktemp("inputs"))
    for number in range(FILES):
        tiny_corpus(folder / f"part{number}.txt", documents=7 + number, seed=number)
    (folder / "part2.txt").write_text("\n\n")
    return folder


def options_of(inputs: Path, out: Path) -> list[str]:
    vocabulary = inputs / "teacher" / "vocab.txt"
    return arguments_of(
        inputs, out, corpus=inputs / "part?.txt", vocab_size=None, vocab=vocabulary, max_steps=2
    )


def build(inputs: Path, out: Path, number: int, part: int) -> int:
    return shards.main([*options_of(inputs, out), "--num_shards", str(number), "--shard_id", str(part)])


@pytest.fixture(scope="module")
def whole(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    assert train.main(options_of(inputs, out)) == 0
    return out / "shards" / "corpus"


@pytest.mark.parametrize("number", [1, 2, FILES])
def test_a_run_with_parts_has_the_shards_of_one_without(
    inputs: Path, whole: Path, tmp_path: Path, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    for part in reversed(range(number)):
        assert build(inputs, out, number, part) == 0
    capsys.readouterr()
    assert train.main([*options_of(inputs, out), "--dry_run"]) == 0
    assert "joining parts" in capsys.readouterr().err
    files = {path.name: path.read_bytes() for path in whole.iterdir()}
    assert {path.name: path.read_bytes() for path in (out / "shards" / "corpus").iterdir()} == files
    assert json.loads(files["index.json"])["n_tokens"] > 1000


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("missing", "00001-of-00003: this part of the token shards is missing"),
        ("number", "00004-of-00005: of another number of parts than"),
        ("vocabulary", "00000-of-00003: made from other vocabulary than this run"),
        ("text", "00000-of-00003: made from other files than this run"),
        ("fewer", "corpus.parts: made from fewer files than the corpus has now"),
        ("damaged", "tokens-00000.int32: the token shard is not what was written"),
    ],
)
def test_parts_that_do_not_fit_are_named(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: str, message: str
) -> None:
    folder, out = tmp_path / "inputs", tmp_path / "run"
    shutil.copytree(inputs, folder)
    for part in range(3):
        assert build(folder, out, 3, part) == 0
    parts = out / "shards" / "corpus.parts"
    if harm == "missing":
        shutil.rmtree(parts / "00001-of-00003")
    elif harm == "number":
        assert build(folder, out, 5, 4) == 0
    elif harm == "vocabulary":
        with (folder / "teacher" / "vocab.txt").open("a") as file:
            file.write("kinase\n")
    elif harm == "text":
        tiny_corpus(folder / "part0.txt", documents=2)
    elif harm == "fewer":
        tiny_corpus(folder / "part9.txt", documents=2)
    else:
        file = parts / "00002-of-00003" / "tokens-00000.int32"
        file.write_bytes(bytes(4) + file.read_bytes()[4:])
    capsys.readouterr()
    assert train.main([*options_of(folder, out), "--dry_run"]) == 2
    assert message in capsys.readouterr().err


def test_parts_need_a_vocabulary_that_is_there(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = ["--num_shards", "2", "--shard_id", "0"]
    assert shards.main([*arguments_of(inputs, tmp_path / "run", vocab_size=90), *part]) == 2
    assert "learn it first with edad_fast.vocab" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [1, 3, FILES])
def test_counts_of_parts_add_up(inputs: Path, tmp_path: Path, number: int) -> None:
    count = ["--base", str(inputs / "teacher"), "--corpus", str(inputs / "part?.txt"), "--save_counts"]
    assert vocab.main([*count, str(tmp_path / "whole")]) == 0
    for part in range(number):
        shard = ["--num_shards", str(number), "--shard_id", str(part)]
        assert vocab.main([*count, str(tmp_path / f"{part}.counts"), *shard]) == 0
    merge = ["--base", str(inputs / "teacher"), "--counts", str(tmp_path / "*.counts"), "--save_counts"]
    assert vocab.main([*merge, str(tmp_path / "merged")]) == 0
    assert (tmp_path / "merged").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.fixture(scope="module")
def tables(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """I-N.counts: part I of N of the five files, for N of 2 and 4; whole.counts; and one of other files."""
    out = tmp_path_factory.mktemp("tables")
    count = ["--base", str(inputs / "teacher"), "--corpus", str(inputs / "part?.txt"), "--save_counts"]
    for number in (2, 4):
        for part in range(number):
            shard = ["--num_shards", str(number), "--shard_id", str(part)]
            assert vocab.main([*count, str(out / f"{part}-{number}.counts"), *shard]) == 0
    assert vocab.main([*count, str(out / "whole.counts")]) == 0
    count[3] = str(inputs / "part[0134].txt")
    assert vocab.main([*count, str(out / "other.counts"), "--num_shards", "4", "--shard_id", "3"]) == 0
    return out


def merged(inputs: Path, names: str, tables: Path, out: Path) -> int:
    named = [str(tables / f"{name}.counts") for name in names.split()]
    return vocab.main(
        ["--base", str(inputs / "teacher"), "--counts", *named, "--save_counts", str(out / "all")]
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("0-4 1-4 3-4", "0-4.counts is part 0 of 4 of a corpus, but part 2 is missing; count with --num"),
        ("3-4", "3-4.counts is part 3 of 4 of a corpus, but 3 parts (0, 1, 2) are missing"),
        ("0-2 1-2 2-4", "of the same corpus: words would be counted twice; name the tables of 2 parts"),
        ("0-2 1-2 copy", "1-2.counts and {out}/copy.counts are both part 1 of 2"),
        ("0-4 1-4 2-4 other", "0-4.counts (part 0 of 4) and"),
        ("whole 1-2", "1-2.counts is part 1 of 2 of a corpus, but part 0 is missing"),
    ],
)
def test_counts_of_parts_that_do_not_make_a_whole_are_refused(
    inputs: Path, tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], names: str, message: str
) -> None:
    shutil.copy(tables / "1-2.counts", tables / "copy.counts")
    capsys.readouterr()
    assert merged(inputs, names, tables, tmp_path) == 2
    error = capsys.readouterr().err
    assert message.format(out=tables) in error
    assert not (tmp_path / "all").exists()


def test_tables_without_parts_add_up_and_one_may_join_a_whole_corpus(
    inputs: Path, tables: Path, tmp_path: Path
) -> None:
    assert merged(inputs, "whole 0-2 1-2", tables, tmp_path) == 0
    counts = [WordCounts.load(path) for path in (tmp_path / "all", tables / "whole.counts")]
    assert counts[0].total_words == 2 * counts[1].total_words
    assert counts[0].part is None


def test_a_part_remembers_what_it_is(inputs: Path, tables: Path, tmp_path: Path) -> None:
    files = sorted(inputs.glob("part?.txt"))
    part = WordCounts.load(tables / "1-4.counts").part
    assert part == Part.of_files(files, 4, 1)
    copied = [Path(shutil.copy(file, tmp_path)) for file in files]
    assert Part.of_files(copied, 4, 1) == part
    copied[0].write_text("longer now")
    assert Part.of_files(copied, 4, 1) != part
    assert pickle.loads(pickle.dumps(WordCounts.load(tables / "1-4.counts"))).part == part


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num_shards", "2"], "--num_shards needs the other"),
        (["--num_shards", "2", "--shard_id", "2"], "--shard_id is 2; with --num_shards 2, give 0 to 1"),
        (["--num_shards", "9", "--shard_id", "0"], "--num_shards 9 is more than the 5 file(s)"),
        (["--num_shards", "2", "--shard_id", "0", "--size", "90"], "for --save_counts alone"),
    ],
)
def test_parts_to_count_that_make_no_sense(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    flags = ["--base", str(inputs / "teacher"), "--corpus", str(inputs / "part?.txt")]
    flags += ["--save_counts", str(tmp_path / "x")]
    flags += ["--output_dir", str(tmp_path / "out")] if "--size" in options else []
    assert vocab.main([*flags, *options]) == 2
    assert message in capsys.readouterr().err


def test_the_page_counts_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "many_devices.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "def count" in block]
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    names: dict[str, Any] = {}
    exec(code, names)
    tables = [names["count"](part) for part in range(64)]
    options = [build_parser().parse_args(command[3:]) for command in commands]
    assert [str(option.save_counts) for option in options] == tables
    assert {(option.num_shards, option.shard_id) for option in options} == {(64, part) for part in range(64)}


def test_parts_of_the_files_are_the_files() -> None:
    files = [f"{number}.txt" for number in range(7)]
    for number in range(1, 8):
        parts = [files_of_shard(files, number, part) for part in range(number)]
        assert all(parts)
        assert [file for part in parts for file in part] == files
    with pytest.raises(InputError, match="--num_shards 8 is more than the 7"):
        files_of_shard(files, 8, 0)
