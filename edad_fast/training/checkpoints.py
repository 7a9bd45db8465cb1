"""Checkpoints on disk: atomic, verified when read, the last few kept."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import InputError
from ..files import atomic_dir

logger = logging.getLogger(__name__)

FORMAT = 1
MODEL, OPTIMIZER, RNG = "model.safetensors", "optimizer.safetensors", "rng.safetensors"
STATE, MANIFEST = "state.json", "manifest.json"
_NAME = re.compile(r"stage(\d+)-step(\d{8,})")


class BrokenCheckpoint(Exception):
    """A checkpoint whose files are not those its manifest lists."""


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters (each once, tied ones under their first name) and persistent buffers by name, detached."""
    persistent = module.state_dict().keys()
    tensors = {name: parameter.detach() for name, parameter in module.named_parameters()}
    tensors |= {name: buffer.detach() for name, buffer in module.named_buffers() if name in persistent}
    return tensors


@torch.no_grad()
def load_module(module: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Copy `tensors` into the module's own.

    Raises:
        InputError: names or shapes differ.
    """
    own = module_tensors(module)
    differing = sorted(own.keys() ^ tensors.keys())
    differing += [name for name in own if name in tensors and own[name].shape != tensors[name].shape]
    if differing:
        name = differing[0]
        there, here = tensors.get(name), own.get(name)
        raise InputError(
            f"{source}: the checkpoint holds other models than this run: {name} is "
            f"{'absent' if there is None else list(there.shape)} in the checkpoint and "
            f"{'absent' if here is None else list(here.shape)} in the run ({len(differing)} such tensors). "
            "Resume with the settings of the run, or start anew with --overwrite."
        )
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk: after `step` optimiser steps of stage number `stage` (0-based)."""

    path: Path
    stage: int
    step: int

    def verify(self) -> None:
        """Compare every file with the manifest.

        Raises:
            BrokenCheckpoint: a file is missing, shorter, longer or altered.
        """
        try:
            manifest = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
            files = {name: (entry["bytes"], entry["blake2b"]) for name, entry in manifest["files"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BrokenCheckpoint(f"{self.path / MANIFEST} is missing or unreadable") from error
        for name, (size, digest) in files.items():
            file = self.path / name
            if not file.is_file():
                raise BrokenCheckpoint(f"{file} is missing")
            if file.stat().st_size != size:
                raise BrokenCheckpoint(f"{file} has {file.stat().st_size} bytes instead of {size}")
            if _digest(file) != digest:
                raise BrokenCheckpoint(f"{file} was altered (its checksum differs)")

    def state(self) -> dict[str, Any]:
        """Position, ledger and run state, as given to `CheckpointStore.save`."""
        value: dict[str, Any] = json.loads((self.path / STATE).read_text(encoding="utf-8"))
        if value["format"] != FORMAT:
            raise InputError(
                f"{self.path / STATE}: checkpoint format {value['format']}, this version reads {FORMAT}. "
                "Resume with the version that wrote it, or start anew with --overwrite."
            )
        return value

    def tensors(self, file: str) -> dict[str, Tensor]:
        """Tensors of one of its files, on the CPU."""
        return load_file(self.path / file)


class CheckpointStore:
    """The checkpoints of one run: `folder/stage{i}-step{n:08d}/`.

    The one at the end of a stage is kept until the run is deleted, since later stages may need its models; of
    the others only the last few are.

    Args:
        folder: made when absent.
        keep: how many of the newest checkpoints stay.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        if keep < 1:
            raise ValueError(f"keep_checkpoints must be at least 1, not {keep}")
        self.folder = folder
        self._keep = keep

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process and remove what a killed one left half-written.

        Raises:
            InputError: another process trains in it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / ".lock", "w") as lock:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                raise InputError(
                    f"{self.folder}: another process is training in this folder. Wait until it ends or give "
                    "another --output_dir."
                ) from error
            for leftover in self.folder.glob(".stage*-*"):
                shutil.rmtree(leftover)
            yield

    def list(self) -> list[Checkpoint]:
        """All checkpoints, oldest first, unverified."""
        found = []
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            match = _NAME.fullmatch(path.name)
            if match and path.is_dir():
                found.append(Checkpoint(path, int(match[1]), int(match[2])))
        return sorted(found, key=lambda checkpoint: (checkpoint.stage, checkpoint.step))

    def save(
        self,
        stage: int,
        step: int,
        *,
        model: Mapping[str, Tensor],
        optimizer: Mapping[str, Tensor] | None,
        rng: Mapping[str, Tensor],
        state: Mapping[str, Any],
    ) -> Checkpoint:
        """Write a checkpoint, then remove those no longer kept. `optimizer` None marks the end of the stage.

        Raises:
            InputError: no space left; the checkpoints before are untouched.
        """
        path = self.folder / f"stage{stage}-step{step:08d}"
        parts = {MODEL: model, RNG: rng} | ({OPTIMIZER: optimizer} if optimizer is not None else {})
        with atomic_dir(path) as temporary:
            for name, tensors in parts.items():
                _save_tensors(tensors, temporary / name)
            text = json.dumps({"format": FORMAT, **state}, indent=2)
            (temporary / STATE).write_text(text + "\n", encoding="utf-8")
            files = {
                file.name: {"bytes": file.stat().st_size, "blake2b": _digest(file)}
                for file in sorted(temporary.iterdir())
            }
            manifest = json.dumps({"format": FORMAT, "files": files}, indent=2)
            (temporary / MANIFEST).write_text(manifest + "\n", encoding="utf-8")
        self._prune()
        return Checkpoint(path, stage, step)

    def newest_valid(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, or None when the run has none.

        A checkpoint of a later stage counts only if those at the ends of the stages before it are whole too.
        Newer ones that do not count are reported by name and renamed to NAME.broken.

        Raises:
            InputError: there are checkpoints, and none is usable.
        """
        known: dict[Path, str] = {}
        unusable: list[tuple[Path, str]] = []
        checkpoints = self.list()
        ends = {checkpoint.stage: checkpoint for checkpoint in checkpoints}
        for checkpoint in reversed(checkpoints):
            needed = [checkpoint, *(ends[stage] for stage in range(checkpoint.stage) if stage in ends)]
            problem = next(filter(None, (_problem(c, known) for c in needed)), "")
            if not problem and len(needed) <= checkpoint.stage:
                problem = f"{checkpoint.path} needs the end of an earlier stage, which is missing"
            if problem:
                unusable.append((checkpoint.path, problem))
                continue
            for path, reason in unusable:
                aside = path.with_name(f"{path.name}.broken")
                shutil.rmtree(aside, ignore_errors=True)
                os.replace(path, aside)
                logger.warning(
                    "checkpoint %s is not usable: %s. Going on from %s", path, reason, checkpoint.path
                )
            return checkpoint
        if not checkpoints:
            return None
        raise InputError(
            f"{self.folder}: no usable checkpoint: {'; '.join(dict(unusable).values())}. Restore the files "
            "from a copy, or start anew with --overwrite."
        )

    def end_of_stage(self, stage: int) -> Checkpoint:
        """The last checkpoint of a finished stage."""
        return [checkpoint for checkpoint in self.list() if checkpoint.stage == stage][-1]

    def _prune(self) -> None:
        checkpoints = self.list()
        ends = {checkpoint.stage: checkpoint for checkpoint in checkpoints}
        for checkpoint in checkpoints[: -self._keep]:
            if checkpoint != ends[checkpoint.stage]:
                # Renamed first, so that a half-removed one is never taken for a checkpoint.
                doomed = checkpoint.path.with_name(f".{checkpoint.path.name}.old-{os.getpid()}")
                os.replace(checkpoint.path, doomed)
                shutil.rmtree(doomed)


def _problem(checkpoint: Checkpoint, known: dict[Path, str]) -> str:
    """What is wrong with a checkpoint, "" if nothing; looked up in or added to `known`."""
    if checkpoint.path not in known:
        try:
            checkpoint.verify()
            known[checkpoint.path] = ""
        except BrokenCheckpoint as error:
            known[checkpoint.path] = str(error)
    return known[checkpoint.path]


def _digest(file: Path) -> str:
    digest = hashlib.blake2b(digest_size=32)
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
