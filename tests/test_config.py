"""Options: YAML and flags, types, near names, values that cannot go together."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from edad_fast.config import TrainConfig
from edad_fast.errors import InputError
from edad_fast.options import build_parser, parse_config


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("teacher: bert\nseq_len: 64\nlearning_rate: 1e-3\ncorpus: [a.txt, b.txt]\nnsp: true\n")
    config = parse_config(["--config", str(file), "--seq_len", "96", "--max_tokens", "1_000_000"])
    assert (config.teacher, config.seq_len, config.learning_rate) == ("bert", 96, 1e-3)
    assert config.corpus == ["a.txt", "b.txt"]
    assert config.nsp is True
    assert config.max_tokens == 1_000_000


def test_resolved_configuration_reads_back(tmp_path: Path) -> None:
    config = parse_config(
        ["--teacher", "x", "--corpus", "c", "--vocab_size", "40000", "--alpha_start", "0.9"]
    )
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert parse_config(["--config", str(tmp_path / "config.yaml")]) == config


def test_every_option_has_a_flag_and_help() -> None:
    text = build_parser().format_help()
    for option in dataclasses.fields(TrainConfig):
        assert f"--{option.name} " in text or f"--{option.name}\n" in text


def test_automatic_vocabulary_size() -> None:
    config = parse_config(["--vocab_size", "auto", "--criterion", "likelihood", "--vocab_threshold", "0.02"])
    assert (config.vocab_size, config.criterion, config.vocab_threshold) == ("auto", "likelihood", 0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--techer", "x"], r"unknown option '--techer'; did you mean '--teacher'"),
        (["--seq_len", "long"], r"--seq_len is 'long', which is not of type int"),
        (["--seq_len", "12.5"], r"not of type int"),
        (["--schedule", "linaer"], r"not one of linear.*did you mean 'linear'"),
        (["--max_tokens", "5", "--epochs", "1"], r"give one of .*--max_tokens, --epochs"),
        (["--max_steps", "0"], r"--max_steps is 0; it must be positive"),
        (["--vocab_size", "big"], r"--vocab_size is 'big'; give the number"),
        (["--vocab_size", "9", "--vocab", "v.txt"], r"not both"),
        (["--resume", "--overwrite"], r"give one of them"),
        (["--distributed", "fsdp", "--frozen_teacher", "bf16"], r"--frozen_teacher bf16 needs"),
        (["--frozen_teacher", "bf16"], r"--method edad has none, so leave it out"),
        (["--process_timeout", "0"], r"--process_timeout is 0.0; it must be positive"),
        (["--alpha", "1.5"], r"--alpha is 1.5; it must lie between 0 and 1"),
        (["--alpha", "0.3"], r"--alpha 0.3 goes with --schedule constant"),
        (["--learning_rate", "-1"], r"--learning_rate is -1.0; it must be positive"),
        (["--hidden_weight", "-1"], r"--hidden_weight is -1.0; it must not be negative"),
        (["--mlm_probability", "0"], r"--mlm_probability 0 leaves nothing to learn"),
        (["--batch_tokens", "100"], r"--batch_tokens 100 is less than 1 sequence.*at least 128"),
        (["--seq_len", "4"], r"--seq_len is 4, which is too small"),
        (["--teacher_extension", "252"], r"takes two widths"),
        (["--nsp", "maybe"], r"--nsp is 'maybe', which is not of type bool"),
    ],
)
def test_bad_flags_are_explained(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_config(arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sequence_len: 64", r"run.yaml: unknown option 'sequence_len'; did you mean 'seq_len'"),
        ("seq_len: [1, 2]", r"run.yaml: seq_len is \[1, 2\]"),
        ("- a\n- b", r"run.yaml: expected lines of 'option: value'"),
        ("a: [", r"run.yaml: not valid YAML"),
    ],
)
def test_bad_files_are_explained(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        parse_config(["--config", str(tmp_path / "run.yaml")])


def test_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.yaml: cannot be read.*check --config"):
        parse_config(["--config", str(tmp_path / "none.yaml")])


def test_fingerprint_ignores_where_and_how_to_run() -> None:
    base = TrainConfig()
    assert base.fingerprint() == TrainConfig(output_dir="elsewhere", resume=True, log_every=1).fingerprint()
    assert base.fingerprint() != TrainConfig(seed=1).fingerprint()
    assert base.fingerprint() == TrainConfig(**yaml.safe_load(base.to_yaml())).fingerprint()
