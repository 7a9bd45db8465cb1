"""`python -m edad_fast.train` on bad input: clear messages, finished work kept."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_student, tiny_teacher
from toy_runs import arguments_of, metrics_of, write_inputs

from edad_fast import train
from edad_fast.errors import InputError
from edad_fast.methods import run as run_module
from edad_fast.methods.output_dir import check_output_dir
from edad_fast.methods.preflight import preflight
from edad_fast.options import parse_config


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("loader_workers", -1),
        ("checkpoint_every", -3),
        ("evaluation_tokens", 0),
        ("max_line_mib", 0),
        ("seed", -1),
    ],
)
def test_numbers_out_of_range_are_refused(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: int
) -> None:
    assert train.main(arguments_of(inputs, tmp_path / "run", **{option: value})) == 2
    assert f"--{option} is {value}; give" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_named(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(arguments_of(inputs, Path("/proc/none"))) == 2
    assert "error: /proc/none" in capsys.readouterr().err


def _damage(inputs: Path, folder: Path, case: str) -> dict[str, object]:
    """Prepare the bad input `case` in `folder`; returns the options that lead to it."""
    match case:
        case "no_match":
            return {"corpus": folder / "*.absent"}
        case "empty":
            (folder / "empty.txt").write_text(" \n\n")
            return {"corpus": folder / "empty.txt"}
        case "utf8":
            (folder / "latin.txt").write_bytes(b"the cell acts\n" + "caf\xe9".encode("latin-1"))
            return {"corpus": folder / "latin.txt"}
        case "small_vocabulary":
            return {"vocab_size": 20}
        case "large_vocabulary":
            return {"vocab_size": 5000}
        case "duplicate_pieces":
            text = (inputs / "teacher" / "vocab.txt").read_text()
            (folder / "vocab.txt").write_text(text + "##xx\n##xx\n")
            return {"vocab": folder / "vocab.txt", "vocab_size": None}
        case "no_tokenizer":
            teacher = tiny_teacher(folder / "teacher")
            for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
                (teacher / name).unlink(missing_ok=True)
            return {"teacher": teacher}
        case "deep_student":
            return {"student": tiny_student(folder / "deep.json", layers=6)}
        case "long":
            return {"seq_len": 128}
        case "student_name":
            return {"student": "tinybret4"}
        case "other_pieces":
            student = tiny_teacher(folder / "student", layers=2)
            text = (student / "vocab.txt").read_text().replace("liver", "river")
            for name in ("tokenizer.json", "tokenizer_config.json"):
                (student / name).unlink()
            (student / "vocab.txt").write_text(text)
            return {"student": student}
        case "unequal_heads":
            student = tiny_student(folder / "heads.json", width=12, heads=6)
            return {"student": student, "head_match": "equal"}
        case "file_as_folder":
            (folder / "run").write_text("")
            return {}
    raise AssertionError(case)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("no_match", "*.absent"),
        ("empty", "empty.txt"),
        ("utf8", "latin.txt"),
        ("small_vocabulary", "20"),
        ("large_vocabulary", "more than the corpus supports"),
        ("duplicate_pieces", "'##xx'"),
        ("no_tokenizer", "no tokenizer"),
        ("deep_student", "6"),
        ("long", "--seq_len 128 is above the 64 positions"),
        ("student_name", "neither a known shape"),
        ("other_pieces", "its vocabulary is not the teacher's"),
        ("unequal_heads", "--head_match equal"),
        ("file_as_folder", "is a file"),
    ],
)
def test_bad_input_is_explained(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str, message: str
) -> None:
    arguments = arguments_of(inputs, tmp_path / "run", **_damage(inputs, tmp_path, case))
    assert train.main(arguments) == 2
    error = capsys.readouterr().err
    assert "error: " in error
    assert message in error
    assert "Traceback" not in error


def test_missing_inputs_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--max_steps", "1"]) == 2
    assert "--teacher is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "function", "calls", "message"),
    [
        (signal.SIGTERM, "load_data", 1, "preparing; run the same command again"),
        (signal.SIGINT, "masked_lm_loss_on", 1, "preparing; run the same command again"),
        (
            *(signal.SIGTERM, "masked_lm_loss_on", 3),
            "saving the results; give the same command with --resume to go on",
        ),
    ],
)
def test_a_signal_outside_training_is_answered_with_the_way_out(
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    function: str,
    calls: int,
    message: str,
) -> None:
    work, seen = getattr(run_module, function), []
    before = signal.getsignal(number)

    def interrupted(*arguments: Any, **options: Any) -> Any:
        seen.append(function)
        if len(seen) == calls:
            os.kill(os.getpid(), number)
        return work(*arguments, **options)

    monkeypatch.setattr(run_module, function, interrupted)
    assert train.main(arguments_of(inputs, tmp_path / "run", max_steps=1)) == 128 + number
    assert f"stopped by {number.name} while {message}\n" in capsys.readouterr().err
    assert signal.getsignal(number) == before


@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        (".vocabulary.tmp-123", True),
        (".vocabulary.old-123", True),
        (".config.yaml.tmp-123", True),
        (".preparing", True),
        (".notes.tmp-123", False),
        ("vocabulary.tmp-123", False),
    ],
)
def test_what_a_killed_preparation_leaves_does_not_bar_the_next(
    tmp_path: Path, name: str, accepted: bool
) -> None:
    (tmp_path / name).mkdir()
    config = parse_config(["--output_dir", str(tmp_path)])
    if accepted:
        assert check_output_dir(config) == tmp_path
    else:
        with pytest.raises(InputError, match="is not empty and holds no run"):
            check_output_dir(config)


def test_a_batch_too_small_for_the_processes_is_refused_at_the_start() -> None:
    options = ["--teacher", "none", "--corpus", "none", "--seq_len", "32", "--accumulation_steps", "2"]
    message = r"--batch_tokens 64 gives a step 2 sequence.s. of --seq_len 32, too few.*--batch_tokens 128"
    with pytest.raises(InputError, match=message):
        preflight(parse_config([*options, "--batch_tokens", "64"]), processes=2)


def test_fsdp_in_one_process_is_said_to_do_nothing(
    inputs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert train.main([*arguments_of(inputs, tmp_path / "run", distributed="fsdp"), "--dry_run"]) == 0
    assert "--distributed fsdp shards nothing in one process" in caplog.text


def test_a_loss_that_is_not_finite_shows_its_text(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    changes = {
        "learning_rate": 1e30,
        "student_learning_rate": 1e30,
        "warmup_fraction": 0.0,
        "max_grad_norm": 1e30,
    }
    assert train.main(arguments_of(inputs, out, **changes)) == 2
    error = capsys.readouterr().err
    assert "is not finite" in error
    assert f"Their text is in {out / 'bad_rows.txt'}" in error
    rows = (out / "bad_rows.txt").read_text().splitlines()
    assert rows
    assert all(re.match(r"row \d+: \S+", row) for row in rows)
    assert "[MASK]" not in "".join(rows)


def test_a_full_disk_keeps_what_is_finished(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import errno

    import edad_fast.methods.run as module

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "run"
    monkeypatch.setattr(module, "save_model", full)
    assert train.main(arguments_of(inputs, out)) == 2
    assert "no space left" in capsys.readouterr().err
    assert not (out / "student").exists()
    monkeypatch.undo()
    assert train.main([*arguments_of(inputs, out), "--resume"]) == 0
    assert len(metrics_of(out)) == 6, "the finished training is not repeated"
    assert (out / "student" / "model.safetensors").is_file()
