"""Device, precision and their names, as the evaluation tasks need them."""

from __future__ import annotations

import platform
import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from ..errors import InputError


def resolve_device(name: str) -> torch.device:
    """Turn "auto", "cpu", "cuda" or "cuda:N" into a device; "auto" takes CUDA where there is one.

    Raises:
        InputError: the device does not exist on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device {name}: no such device; use auto, cpu or cuda") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices; use cpu")
    return device


def device_name(device: torch.device) -> str:
    """Name of the GPU, or of the processor with the number of threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        match = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(errors="replace"), re.MULTILINE)
        name = match.group(1).strip() if match else name
    return f"{name}, {torch.get_num_threads()} threads"


def resolve_precision(name: str, device: torch.device) -> str:
    """Precision of `name`: "auto" takes "bf16" where the hardware multiplies it natively, else "fp32".

    On x86 that is AVX512_BF16 or AMX. Elsewhere bf16 on a CPU is emulated and slower than fp32.
    """
    if name in ("fp32", "bf16"):
        return name
    if name != "auto":
        raise InputError(f"--precision {name}: use auto, fp32 or bf16")
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if _cpu_has_bf16() else "fp32"


def _cpu_has_bf16() -> bool:
    # torch has no public test in every supported version; the system's list of flags is the fact itself.
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return False
    match = re.search(r"^flags\s*:\s*(.+)$", cpuinfo.read_text(errors="replace"), re.MULTILINE)
    return match is not None and not {"avx512_bf16", "amx_bf16"}.isdisjoint(match.group(1).split())


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """bf16 autocast on `device`, or nothing for "fp32"."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()
