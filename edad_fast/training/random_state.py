"""The state of every random generator a training step may draw from, as tensors."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def seed_all(*key: int | str) -> None:
    """Seed torch (all devices), numpy and Python from a key, such as (seed, stage number, purpose)."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    seed = int.from_bytes(digest, "little") >> 1
    torch.manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    random.seed(seed)


def capture(device: torch.device) -> dict[str, Tensor]:
    """The generators' states as CPU tensors: torch's (and `device`'s, if CUDA), numpy's and Python's."""
    _, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    _, words, next_gauss = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "numpy_extra": torch.tensor([float(position), float(has_gauss), gauss], dtype=torch.float64),
        "python": torch.tensor(words, dtype=torch.int64),
        "python_extra": torch.tensor([math.nan if next_gauss is None else next_gauss], dtype=torch.float64),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def pack(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The states of all processes as one: names of process 0's as they are, of process r's as "r/NAME"."""
    return {f"{rank}/{name}" if rank else name: t for rank, s in enumerate(states) for name, t in s.items()}


def unpack(packed: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """The state of process `rank` from `pack`; {} when there were fewer processes."""
    prefix = f"{rank}/" if rank else ""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in packed.items()
        if name.startswith(prefix) and "/" not in name.removeprefix(prefix)
    }


def restore(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Inverse of `capture`. A CUDA state is left out when `device` is not CUDA."""
    torch.set_rng_state(state["torch"].clone())
    position, has_gauss, gauss = state["numpy_extra"].tolist()
    keys = state["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), gauss))
    next_gauss = state["python_extra"].item()
    words = tuple(state["python"].tolist())
    random.setstate((3, words, None if math.isnan(next_gauss) else next_gauss))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].clone(), device)
