"""Atomic writes: a reader sees the old content or the new one, never half of it."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .errors import InputError


def _is_full_disk(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    # safetensors reports the system's errors as text only.
    return isinstance(error, SafetensorError) and (
        "os error 28" in str(error) or "No space left" in str(error)
    )


@contextmanager
def explain_full_disk(folder: Path) -> Iterator[None]:
    """Turn a full disk into an `InputError` that names `folder`."""
    try:
        yield
    except Exception as error:
        if _is_full_disk(error):
            raise InputError(
                f"{folder}: no space left on the device; nothing finished was lost. "
                "Free some space and run again (add --resume to go on from the last checkpoint)."
            ) from error
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on failure it is removed.

    Raises:
        InputError: the disk is full (the folder is named).
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    with explain_full_disk(target.parent):
        try:
            yield temporary
            _sync(temporary)
            os.replace(temporary, target)
            _sync(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def atomic_dir(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary directory beside `path`; on success it takes `path`'s place.

    Every file in it is flushed to disk first. A directory already at `path` is replaced.

    Raises:
        InputError: the disk is full (the folder is named).
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    umask = os.umask(0o022)  # it can only be read by setting it
    os.umask(umask)
    with explain_full_disk(target.parent):
        for stale in target.parent.glob(f".{target.name}.tmp-*"):  # of a process that was killed
            if not _alive(int(stale.name.rpartition("-")[2])) or stale == temporary:
                shutil.rmtree(stale, ignore_errors=True)
        for old in target.parent.glob(f".{target.name}.old-*"):  # killed between the two renames below
            if not _alive(int(old.name.rpartition("-")[2])):
                if target.exists():
                    shutil.rmtree(old, ignore_errors=True)
                else:
                    os.replace(old, target)
        temporary.mkdir()
        try:
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    file.chmod(0o666 & ~umask)  # safetensors writes for its owner alone, whatever the umask
                    _sync(file)
            _sync(temporary)
            if target.exists():
                old = target.with_name(f".{target.name}.old-{os.getpid()}")
                os.replace(target, old)
                os.replace(temporary, target)
                shutil.rmtree(old)
            else:
                os.replace(temporary, target)
            _sync(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
