"""Registers, spills and shared memory of the Triton kernels, compiled without a GPU.

python benchmarks/triton_registers.py [--only relation] [--case bfloat16] [--spills] [--arch 80 90]

One line for each compiled kernel: the loss's case, architecture, registers of a thread, bytes that a thread
stores to and loads from memory for want of registers, kilobytes of shared memory of a block.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # before Triton is imported

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from edad_fast.kernels.triton import attention, cross_entropy, hidden, linear_attention, logits, relation

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


class NoGpu:
    """Stands for a GPU of one architecture, as far as compiling asks for it."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_device(self) -> int:
        return self.arch

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)


def usage(kernel: Any) -> tuple[int, int, float]:
    """Registers, bytes of spill stores and loads, kilobytes of shared memory."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(kernel.asm["ptx"], encoding="utf-8")
        arch = re.search(r"\.target (sm_\w+)", kernel.asm["ptx"])
        assert arch
        command = [
            get_ptxas(driver.active.get_current_device()).path,
            "-v",
            f"-arch={arch[1]}",
            str(source),
            "-o",
            f"{folder}/out",
        ]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        assert not done.returncode, done.stderr
        report = done.stderr
    registers = re.search(r"Used (\d+) registers", report)
    assert registers, report
    spills = re.findall(r"(\d+) bytes spill", report)
    return int(registers[1]), sum(map(int, spills)), kernel.metadata.shared / 1024


def compiled(call: Callable[[], object]) -> dict[str, Any]:
    """The kernels of a call by name; none is launched."""
    kernels = {}
    run = JITFunction.run

    def only_compile(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        kernels[f"{self.fn.__name__}{len(kernels)}"] = kernel
        return kernel

    JITFunction.run = only_compile
    try:
        call()
    finally:
        JITFunction.run = run
    return kernels


def vectors(length: int, width: int, dtype: torch.dtype) -> Tensor:
    """[1, 12, L, d] as models lay it out."""
    return torch.zeros(1, length, 12, width, dtype=dtype).transpose(1, 2)


def attention_cases(module: Any, lengths: tuple[int, ...]) -> Iterator[tuple[str, Callable[[], object]]]:
    options: dict[str, Any] = {"student_scale": 0.2, "teacher_scale": 0.1, "want_q": True, "want_k": True}
    for dtype in DTYPES:
        for length in lengths:
            for student, teacher in ((26, 64), (32, 64), (64, 64), (64, 128)):
                if module is linear_attention and teacher > 64:
                    continue
                segments = torch.ones(1, length, dtype=torch.int32)
                lists = [[vectors(length, w, dtype)] * 4 for w in (student, student, teacher, teacher)]
                yield (
                    f"{dtype} L={length} d={student}/{teacher}",
                    lambda x=lists, s=segments: module.attention_terms(
                        *x, s, mode="tinybert", cu_seqlens=None, max_length=s.shape[1], **options
                    ),
                )


def relation_cases() -> Iterator[tuple[str, Callable[[], object]]]:
    ids = torch.ones(1, 512, dtype=torch.int32)
    for dtype in DTYPES:
        for student, teacher in ((8, 16), (26, 64), (64, 64), (128, 128)):
            s, t = vectors(512, student, dtype), vectors(512, teacher, dtype)
            yield (
                f"{dtype} d={student}/{teacher}",
                lambda s=s, t=t: relation.relation_terms(
                    s, t, ids, student_scale=0.2, teacher_scale=0.1, want=True
                ),
            )


def hidden_cases() -> Iterator[tuple[str, Callable[[], object]]]:
    for dtype in DTYPES:
        states, targets = ([torch.zeros(128, w, dtype=dtype)] * 4 for w in (312, 768))
        weight, bias = torch.zeros(768, 312, dtype=dtype), torch.zeros(768, dtype=dtype)
        product = torch.float32 if dtype == torch.float16 else dtype
        yield (
            f"{dtype} 312 -> 768",
            lambda h=states, t=targets, w=weight, b=bias, p=product: hidden.hidden_terms(
                h, t, [w], [b], None, product=p, want_h=True, want_w=True, want_b=True
            ),
        )


def head_cases() -> Iterator[tuple[str, Callable[[], object]]]:
    for dtype in (torch.bfloat16, torch.float32):
        rows, weight = torch.zeros(4, 8, dtype=dtype), torch.zeros(48_180, 8, dtype=dtype)
        labels = torch.zeros(4, dtype=torch.int64)
        yield (
            f"{dtype} V=48180",
            lambda x=rows, w=weight, y=labels, p=dtype: cross_entropy.cross_entropy_terms(
                *(x, w, w[:, 0].contiguous(), y),
                label_smoothing=0.1,
                z_loss=0.1,
                product=p,
                want_x=True,
                want_w=True,
                want_b=True,
            ),
        )


def logit_cases() -> Iterator[tuple[str, Callable[[], object]]]:
    for dtype in DTYPES:
        for classes in (2, 9, 48_180):
            x = torch.zeros(4, classes, dtype=dtype)
            yield f"{dtype} C={classes}", lambda x=x: logits.logit_terms(x, x, temperature=2.0, want=True)


CASES = {
    "attention": lambda: attention_cases(attention, (64, 128, 512)),
    "linear_attention": lambda: attention_cases(linear_attention, (1024,)),
    "hidden": hidden_cases,
    "cross_entropy": head_cases,
    "relation": relation_cases,
    "logits": logit_cases,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=list(CASES), action="append", help="one kind of loss; repeatable")
    parser.add_argument("--case", default="", help="only cases with this in their name")
    parser.add_argument("--spills", action="store_true", help="only kernels that spill")
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90], help="compute capabilities x 10")
    options = parser.parse_args()
    spilling = total = 0
    for arch in options.arch:
        driver.set_active(NoGpu(arch))
        attention.roomy = lambda _, arch=arch: arch // 10 in (9, 10)  # asks a GPU
        for kind in options.only or CASES:
            for case, call in CASES[kind]():
                for name, kernel in compiled(call).items() if options.case in case else ():
                    registers, spilled, shared = usage(kernel)
                    total += 1
                    spilling += spilled > 0
                    if spilled or not options.spills:
                        print(
                            f"{kind:16} {case:32} sm_{arch} {name:18} {registers:3} registers "
                            f"{spilled:5} bytes spilled {shared:6.1f} kB shared",
                            flush=True,
                        )
    print(f"{spilling} of {total} kernels spill")


if __name__ == "__main__":
    main()
