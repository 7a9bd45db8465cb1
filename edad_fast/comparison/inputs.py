"""What a comparison reads: versions of the inputs, and all that is missing or wrong, before anything runs."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..corpus import corpus_fingerprint, expand_globs
from ..errors import InputError
from ..options import suggestion
from .suite import METRICS

if TYPE_CHECKING:
    from .plan import Job

_TEXT = ("corpus", "validation", "general_corpus")
_FILES = ("data", "labelled", "target", "vocab")
_MODELS = ("teacher", "base", "model")
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")


def missing_inputs(options: Mapping[str, Any], output_dir: Path) -> list[str]:
    """In words, which files and folders that `options` name are not there.

    What the suite makes itself (inside `output_dir`), hub ids and `{name}` without a value are passed over.
    """
    found = []
    for name, value in options.items():
        for item in value if isinstance(value, list) else [value]:
            if not isinstance(item, str) or not item or "{" in item or item.startswith("hf:"):
                continue
            path = Path(item).expanduser()
            if path.is_relative_to(output_dir):
                continue
            if name in _TEXT or (name in _FILES and any(mark in item for mark in "*?[")):
                try:
                    expand_globs([item])
                except InputError as error:
                    found.append(str(error))
            elif name in _FILES and not path.exists():
                found.append(f"{item}: no such file or folder (--{name})")
            elif name in _MODELS and not path.is_dir() and not _may_be_hub_id(item):
                found.append(f"{item}: no such folder (--{'teacher' if name == 'base' else name})")
    return found


def _may_be_hub_id(item: str) -> bool:
    """`name` or `owner/name`, unless a folder here has the first part as its name."""
    return bool(_HUB_ID.fullmatch(item)) and not ("/" in item and Path(item.split("/")[0]).is_dir())


def versions(values: Iterable[Any], output_dir: Path) -> dict[str, str]:
    """Hash of the content of every file, folder or glob among `values`, but for what the suite makes.

    Raises:
        InputError: a file cannot be read.
    """
    found = {}
    for value in values:
        for item in value if isinstance(value, list) else [value]:
            if not isinstance(item, str) or not item or Path(item).is_relative_to(output_dir):
                continue
            path = Path(item)
            if path.is_dir():
                files = sorted(
                    file
                    for file in path.rglob("*")
                    # An evaluation is written into the folder of a model, and into its card.
                    if file.is_file()
                    and file.name != "README.md"
                    and "evaluation" not in file.relative_to(path).parts
                )
            elif path.is_file():
                files = [path]
            elif any(mark in item for mark in "*?["):
                try:
                    files = [Path(file) for file in expand_globs([item])]
                except InputError:  # `missing_inputs` says so
                    continue
            else:
                continue
            content = json.dumps(corpus_fingerprint(files), sort_keys=True)
            found[item] = hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
    return found


def task_problems(jobs: Sequence[Job]) -> dict[str, str]:
    """What edad_fast.evaluate does not know of its tasks' names and flags -> where it is asked for."""
    found: dict[str, str] = {}
    helps: dict[str, set[str] | None] = {}
    for job in jobs:
        if job.kind in ("train", "vocabulary"):  # the first was checked, the second comes first
            continue
        if job.kind not in helps:
            asked = subprocess.run([*job.command[:4], "--help"], capture_output=True, text=True, check=False)
            words = asked.stdout.replace("[", " ").replace("]", " ").replace(",", " ").split()
            flags = {word for word in words if word.startswith("--")}
            helps[job.kind] = None if asked.returncode else flags
        known = helps[job.kind]
        if known is None:
            problem = f"edad_fast.evaluate has no task {job.kind!r}{suggestion(job.kind, list(METRICS))}"
            found.setdefault(problem, job.title)
            continue
        for flag in job.command:
            if flag.startswith("--") and flag not in known:
                near = suggestion(flag, sorted(known))
                found.setdefault(f"unknown option {flag.removeprefix('--')!r}{near}", job.title)
    return found


def refuse(suite: str, problems: Mapping[str, str]) -> None:
    """Raise an InputError that lists `problems` (what -> where), if there are any."""
    lines = [f"{where}: {what}" for what, where in problems.items()]
    if len(lines) == 1:
        raise InputError(lines[0])
    if lines:
        raise InputError(
            f"{suite}: {len(lines)} inputs or options are missing or wrong; nothing was started:\n  "
            + "\n  ".join(lines)
        )
