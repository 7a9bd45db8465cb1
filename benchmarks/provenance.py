"""Where a result comes from: device, versions, commit, and the state of the kernels that ran."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]


def tree_hash(folder: Path) -> str:
    """What `git rev-parse HEAD:FOLDER` prints where the files are those of HEAD; needs no git.

    Bytecode is left out. Every file is taken as not executable.
    """
    entries: list[tuple[bytes, bytes, bytes]] = []
    for path in folder.iterdir():
        if path.name == "__pycache__" or path.is_symlink():
            continue
        name = path.name.encode()
        if path.is_dir():
            entries.append((name + b"/", b"40000 " + name, bytes.fromhex(tree_hash(path))))
        else:
            entries.append((name, b"100644 " + name, _object(b"blob", path.read_bytes())))
    listed = b"".join(head + b"\0" + digest for _, head, digest in sorted(entries))
    return _object(b"tree", listed).hex()


def _object(kind: bytes, content: bytes) -> bytes:
    return hashlib.sha1(b"%b %d\0" % (kind, len(content)) + content).digest()


def _commit() -> str:
    """EDAD_FAST_COMMIT, for a copy without its repository, or git's word."""
    if named := os.environ.get("EDAD_FAST_COMMIT"):
        return named
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def version(package: str) -> str:
    """The installed version, or "absent"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def provenance(device: torch.device) -> dict[str, Any]:
    """What every result file says of itself."""
    gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if gpu else platform.processor() or platform.machine(),
        "on_gpu": gpu,
        "cuda": torch.version.cuda,
        **{name: version(name) for name in ("torch", "triton", "transformers", "edad_fast", "liger_kernel")},
        "python": platform.python_version(),
        "commit": _commit(),
        "kernels_tree": tree_hash(ROOT / "kernels"),
        "measured": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
