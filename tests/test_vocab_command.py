"""`python -m edad_fast.vocab`: what it refuses, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from toy_vocabulary import TEXT, TINY, counts_of, write_base

from edad_fast import vocab
from edad_fast.errors import InputError
from edad_fast.vocabulary import (
    Learning,
    build_tokenizer,
    command,
    decompose,
    extend_vocabulary,
    learn_wordpieces,
    load_tokenizer,
    merge_vocabularies,
    piece_counts,
    read_vocab,
    write_vocab,
)
from edad_fast.vocabulary import tokenizer as tokenizer_module


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    write_base(tmp_path / "base")
    (tmp_path / "c.txt").write_text(TEXT)
    return ["--base", str(tmp_path / "base"), "--corpus", str(tmp_path / "c.txt")]


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert vocab.main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert len(shown.err) < 500
    return shown.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--n_threads", "-2"], "n_threads is -2; give 1 or more"),
        (["--size", "4²"], "--size is '4²'; give auto, or the number of pieces"),
        (["--size", "9" * 30], "--size is '999999999999999999999999999999'; give 1073741824 or less"),
        (["--size", "1" + "0" * 5000], "give 1073741824 or less"),
        (["--min_frequency", str(2**63)], "min_frequency is 9223372036854775808; give 9223372036854775807"),
        (["--max_size", str(2**70)], "max_size is 1180591620717411303424; give 1073741824 or less"),
        (["--max_line_mib", "0"], "--max_line_mib is 0; give 1 or more"),
        (["--pad_to_multiple", str(2**21)], "pad_to_multiple is 2097152; give 1048576 or less"),
        (["--threshold", "nan"], "threshold is nan"),
        (["--lowercase", "true"], "--lowercase goes with --check"),
    ],
)
def test_bad_numbers(
    flags: list[str], tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    always = [*flags, "--size", "100", "--output_dir", str(tmp_path / "out")]
    assert message in refused([*always, *options], capsys)
    assert not (tmp_path / "out").exists()


def test_folders_that_cannot_be_made(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: Any) -> None:
        pytest.fail("started to work")

    monkeypatch.setattr(command, "load_tokenizer", work)
    (tmp_path / "file").write_text("")
    size = ["--size", "100"]
    for folder in ("file", "file/deeper", "x" * 300):
        error = refused([*flags, *size, "--output_dir", str(tmp_path / folder)], capsys)
        assert "--output_dir" in error
    assert "File name too long" in refused(["--check", "x" * 300], capsys)
    assert "is a folder; name a file" in refused([*flags, "--save_counts", str(tmp_path)], capsys)
    assert "--save_counts" in refused([*flags, "--save_counts", str(tmp_path / "file/a.counts")], capsys)


def test_a_disk_that_refuses(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied", "some/file")

    monkeypatch.setattr(command, "save_tokenizer", refuse)
    error = refused([*flags, "--size", "100", "--output_dir", str(tmp_path / "out")], capsys)
    assert "some/file: cannot be written (Permission denied)" in error


def test_results_are_kept_unless_overwritten(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--output_dir", str(tmp_path / "out")]
    assert vocab.main([*flags, *out, "--size", "100"]) == 0
    error = refused([*flags, *out, "--size", "101"], capsys)
    assert "holds vocab.txt already; name another --output_dir, or give --overwrite" in error
    assert len(read_vocab(tmp_path / "out/vocab.txt")) == 100
    assert vocab.main([*flags, *out, "--size", "101", "--overwrite"]) == 0
    assert len(read_vocab(tmp_path / "out/vocab.txt")) == 101
    assert vocab.main(["--check", str(tmp_path / "out"), *out]) == 0
    assert len(read_vocab(tmp_path / "out/vocab.txt")) == 101


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "100"], "--check makes no use of --size; leave that out"),
        (["--save_counts=f"], "--save_counts"),
        (["--reuse_unused", "--criterion", "likelihood"], "no use of --criterion, --reuse_unused"),
        (["--text_field", "body"], "--text_field (without --corpus)"),
        (["--overwrite"], "--overwrite"),
    ],
)
def test_check_refuses_what_it_makes_no_use_of(
    tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_vocab(tmp_path / "v.txt", TINY)
    assert message in refused(["--check", str(tmp_path / "v.txt"), *options], capsys)


def test_check_of_a_vocabulary_over_another_base(
    tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_vocab(tmp_path / "v.txt", [*TINY[:9], "odd", *TINY[10:], "Dead"])
    error = refused(["--check", str(tmp_path / "v.txt"), *flags[:2]], capsys)
    assert f"v.txt: does not start with the {len(TINY)} pieces of --base" in error


def test_globs_of_tables_and_tables_twice(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        assert vocab.main([*flags, "--save_counts", str(tmp_path / f"{number}.counts")]) == 0
    capsys.readouterr()
    tables = ["--counts", str(tmp_path / "*.counts")]
    assert vocab.main([*flags[:2], *tables, "--save_counts", str(tmp_path / "all")]) == 0
    assert f"{2 * counts_of(TEXT).total_words:,} in all" in capsys.readouterr().out
    error = refused([*flags[:2], *tables, str(tmp_path / "base/../0.counts"), "--save_counts", "all"], capsys)
    assert "--counts names" in error
    assert "0.counts twice; its words would be counted twice" in error
    error = refused([*flags[:2], "--counts", str(tmp_path / "none*"), "--save_counts", "all"], capsys)
    assert "no file matches" in error


def test_numbers_beyond_64_bits_in_python() -> None:
    huge = {"aaaa": 2**62}
    for work in (
        lambda: learn_wordpieces(huge, 10),
        lambda: piece_counts(TINY, huge),
        lambda: extend_vocabulary(TINY, huge, len(TINY) + 1),
        lambda: merge_vocabularies(TINY, ["aaaa"], huge, size=len(TINY) + 1),
    ):
        with pytest.raises(InputError, match="18446744073709551616 characters in all, more than 92233"):
            work()
    with pytest.raises(InputError, match="size is -1"):
        learn_wordpieces({"a": 3}, -1)
    with pytest.raises(InputError, match="size is '9'; give a whole number"):
        extend_vocabulary(TINY, {"a": 3}, "9")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"min_frequency is 2\.5"):
        Learning(min_frequency=2.5).check()  # type: ignore[arg-type]


def test_dictionaries_go_by_id(tmp_path: Path) -> None:
    ids = dict(sorted(((piece, n) for n, piece in enumerate(TINY)), reverse=True))
    counts = counts_of(TEXT)
    assert extend_vocabulary(ids, counts, 100).pieces == extend_vocabulary(TINY, counts, 100).pieces
    assert piece_counts(ids, counts).tolist() == piece_counts(TINY, counts).tolist()
    assert decompose(["treating"], ids) == decompose(["treating"], TINY)
    base = load_tokenizer(write_base(tmp_path / "base"))
    assert build_tokenizer(base, ids).get_vocab() == ids
    write_vocab(tmp_path / "v.txt", ids)
    assert read_vocab(tmp_path / "v.txt") == TINY


def test_ctrl_c_says_what_is_written(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    always = [*flags, "--size", "100", "--output_dir", str(tmp_path / "out")]
    monkeypatch.setattr(command, "extend_vocabulary", interrupt)
    assert vocab.main(always) == 130
    assert capsys.readouterr().err == "interrupted; nothing was written\n"
    assert vocab.main([*always, "--save_counts", str(tmp_path / "a.counts")]) == 130
    assert capsys.readouterr().err == f"interrupted; the word counts are in {tmp_path / 'a.counts'}\n"
    assert (tmp_path / "a.counts").is_file()
    monkeypatch.undo()
    monkeypatch.setattr(command, "write_vocabulary_report", interrupt)
    assert vocab.main(always) == 130
    assert capsys.readouterr().err == f"interrupted; {tmp_path / 'out'} is incomplete\n"


def test_ctrl_c_while_loading(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        @staticmethod
        def find_spec(name: str, *_: Any) -> None:
            raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "edad_fast.vocabulary.command")
    monkeypatch.setattr(sys, "meta_path", [Interrupted])
    assert vocab.main(["--check", "nowhere.txt"]) == 130
    assert capsys.readouterr().err == "interrupted; nothing was written\n"


def test_a_reader_that_leaves(tmp_path: Path) -> None:
    write_vocab(tmp_path / "v.txt", TINY)
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "edad_fast.vocab", "--check", str(tmp_path / "v.txt")],
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_hub_out_of_reach_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the local cache alone is looked through; a hub that answers is left to the library."""
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError

    loads: list[bool] = []

    class Library:
        @staticmethod
        def from_pretrained(name: str, *, local_files_only: bool, **_: Any) -> None:
            loads.append(local_files_only)
            raise OSError("not there")

    monkeypatch.setattr(tokenizer_module, "AutoTokenizer", Library)
    asked: list[str] = []

    class Hub:
        failure: Exception

        def model_info(self, name: str, timeout: float) -> None:
            asked.append(name)
            raise self.failure

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    Hub.failure = OSError("Name or service not known")
    with pytest.raises(InputError, match="nobody/nothing: no tokenizer could be loaded"):
        load_tokenizer("nobody/nothing")
    Hub.failure = RepositoryNotFoundError.__new__(RepositoryNotFoundError)
    with pytest.raises(InputError, match="no tokenizer could be loaded"):
        load_tokenizer("nobody/nothing")
    assert (asked, loads) == (["nobody/nothing"] * 2, [True, False])
