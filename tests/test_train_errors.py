"""`python -m edad_fast.train` on bad input: clear messages, finished work kept."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tiny import tiny_student, tiny_teacher
from toy_runs import arguments_of, metrics_of, write_inputs

from edad_fast import train


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
