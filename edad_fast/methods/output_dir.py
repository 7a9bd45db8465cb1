"""The folder of a run: whose it is, and when it may be started anew."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from ..config import TrainConfig
from ..errors import InputError
from ..files import atomic_write

logger = logging.getLogger(__name__)

# Reused when their fingerprints fit; they hold no result.
_PREPARATION = {"vocabulary", "shards"}
# What a killed process may leave behind before it has a config.yaml, see `edad_fast.files`.
_LEFT_OVER = re.compile(r"\.preparing|\.(vocabulary|shards|config\.yaml)\.(tmp|old)-\d+")
_RESULTS = (
    *("student", "teacher", "checkpoints", "tensorboard", "plots"),
    *("metrics.jsonl", "report.json", "report.md", "config.yaml"),
)


def has_results(folder: Path) -> bool:
    """Whether a run in `folder` came as far as its first checkpoint."""
    return (folder / "report.json").is_file() or any((folder / "checkpoints").glob("stage*"))


def check_output_dir(config: TrainConfig) -> Path:
    """Return the run's folder if `config` may run in it; nothing is changed yet.

    Raises:
        InputError: another run's results are in it and neither --resume nor --overwrite is given; --resume
            with options that change the result (they are named); or it holds something else.
    """
    folder = Path(config.output_dir)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; give a folder as --output_dir")
    file = folder / "config.yaml"
    if not file.is_file():
        names = {entry.name for entry in folder.iterdir()} if folder.exists() else set()
        if any(not _LEFT_OVER.fullmatch(name) for name in names - _PREPARATION):
            raise InputError(
                f"{folder}: is not empty and holds no run of this program; give another --output_dir"
            )
        if config.resume:
            logger.warning("%s: no run to resume; starting one", folder)
    elif has_results(folder) and not config.overwrite:
        if not config.resume:
            raise InputError(
                f"{folder}: holds another run; add --resume to go on with it, --overwrite to remove it"
            )
        _check_same_run(config, file)
    return folder


def _check_same_run(config: TrainConfig, file: Path) -> None:
    try:
        earlier = TrainConfig(**yaml.safe_load(file.read_text(encoding="utf-8")))
    except (yaml.YAMLError, TypeError) as error:
        raise InputError(f"{file}: not a configuration of this program ({error}); use --overwrite") from error
    changed = [
        f"--{name} was {getattr(earlier, name)!r}, is {value!r}"
        for name, value in vars(config).items()
        if value != getattr(earlier, name) and name not in TrainConfig.FREE
    ]
    if changed:
        raise InputError(
            f"{file}: the run was started with other options: {'; '.join(changed)}. "
            "Resume with the same ones."
        )


@contextmanager
def staging_dir(config: TrainConfig, folder: Path) -> Iterator[Path]:
    """Yield where vocabulary and shards are made: `folder`, or a temporary one in it while it holds a run.

    A dry run, or a failure before the training, then leaves the old run as it was.
    """
    if not (config.overwrite and has_results(folder)):
        yield folder
        return
    staging = folder / ".preparing"
    shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def take_output_dir(config: TrainConfig, folder: Path, staging: Path) -> None:
    """Make `folder` this run's, now that all is ready to train: old results go, config.yaml is written.

    Only what this program writes is removed, and only with --overwrite or without results. What was made in
    `staging` (see `staging_dir`) moves to its place.
    """
    if config.overwrite or not has_results(folder):
        for name in _RESULTS:
            path = folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    if staging != folder:
        for name in sorted(_PREPARATION):
            shutil.rmtree(folder / name, ignore_errors=True)
            (staging / name).replace(folder / name)
    with atomic_write(folder / "config.yaml") as temporary:
        temporary.write_text(config.to_yaml(), encoding="utf-8")
