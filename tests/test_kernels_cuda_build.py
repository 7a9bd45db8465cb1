"""The CUDA sources: they compile without warnings and spills, and an emulated block computes."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from loss_cases import queries_and_keys

from edad_fast.kernels import chunked, cuda
from edad_fast.kernels.common import segments_of_lengths

SOURCES = Path(__file__).resolve().parents[1] / "kernels" / "cuda"


def nvcc() -> str:
    found = shutil.which("nvcc", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/cuda/bin"]))
    if not found:
        pytest.skip("nvcc is not installed")
    return found


def test_sources_compile_without_warnings_and_spills(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(nvcc(), "-std=c++17", "-O3", "-Werror", "all-warnings", "-Xcompiler", "-Wall,-Wextra,-fPIC"),
            *(f"-gencode=arch=compute_{x},code=sm_{x}" for x in ("80", "90a")),
            *("-Xptxas", "-v", "-shared", str(SOURCES / "attention.cu"), "-o", str(tmp_path / cuda.NAME)),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    assert len(spills) == 6, "three kernels for each of two architectures"
    assert set(spills) == {("0", "0")}, done.stderr
    # A block of 256 threads: two of them share an SM.
    assert max(map(int, re.findall(r"Used (\d+) registers", done.stderr))) <= 128
    loaded = ctypes.CDLL(str(tmp_path / cuda.NAME))
    assert loaded.edad_fast_cuda_rows() == 128


def test_python_and_cpp_agree_on_the_arguments(tmp_path: Path) -> None:
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    assert compiler
    names = [name for name, *_ in cuda.Arguments._fields_]
    source = tmp_path / "offsets.cpp"
    source.write_text(
        f'#include "{SOURCES / "attention.cuh"}"\n#include <cstddef>\n#include <cstdio>\n'
        "int main() {\n  using A = edad_fast::AttentionArguments;\n"
        + "".join(f'  std::printf("%zu ", offsetof(A, {name}));\n' for name in names)
        + '  std::printf("%zu %d", sizeof(A), edad_fast::MAX_LAYERS);\n}\n'
    )
    subprocess.run([compiler, "-std=c++17", str(source), "-o", str(tmp_path / "offsets")], check=True)
    done = subprocess.run([str(tmp_path / "offsets")], capture_output=True, text=True, check=True)
    expected = [getattr(cuda.Arguments, name).offset for name in names]
    assert [int(x) for x in done.stdout.split()] == [
        *expected,
        ctypes.sizeof(cuda.Arguments),
        cuda.MAX_LAYERS,
    ]


def test_the_kernel_on_an_emulated_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source itself, run thread by thread on the CPU: tiles, fragments, masks and strides."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if not compiler or not sys.platform.startswith("linux"):
        pytest.skip("the emulation needs a C++20 compiler and Linux")
    built = tmp_path / "emulated.so"
    header = Path(__file__).with_name("cuda_block.hpp")
    subprocess.run(
        [
            *(compiler, "-std=c++20", "-O2", "-fPIC", "-shared", "-x", "c++"),
            *(f'-DEDAD_FAST_CUDA_BLOCK="{header}"', str(SOURCES / "attention.cu"), "-o", str(built)),
        ],
        check=True,
    )
    monkeypatch.setenv("EDAD_FAST_CUDA_LIBRARY", str(built))
    cuda.library.cache_clear()
    try:
        packed = torch.tensor([[1, 1, 2, 2, 2, 0, -1, 3, 3] * 2, [0] * 18], dtype=torch.int32)
        _emulated((2, 1, 18, 26, 64), 2, packed, "tinybert", None)
        _emulated((1, 1, 130, 25, 31), 1, None, "tinybert", None)
        _emulated((1, 1, 20, 64, 40), 1, None, "valid_pairs", torch.tensor([0, 7, 7, 19]).int())
    finally:
        cuda.library.cache_clear()


def _emulated(
    shape: tuple[int, int, int, int, int],
    layers: int,
    segments: torch.Tensor | None,
    mode: str,
    ends: torch.Tensor | None,
) -> None:
    made = [queries_and_keys(*shape, dtype=torch.bfloat16, seed=i) for i in range(layers)]
    lists = [[layer[i] for layer in made] for i in range(4)]
    options = {
        **{"mode": mode, "student_scale": 0.2, "teacher_scale": 0.125},
        **{"want_q": True, "want_k": True},
    }
    found = cuda.attention_terms(*lists, segments, cu_seqlens=ends, max_length=shape[2], **options)
    if ends is not None:
        segments = segments_of_lengths(ends, shape[2])
    exact = chunked.attention_terms(
        *[[x.double() for x in tensors] for tensors in lists], segments, **options
    )
    torch.testing.assert_close(found[0].double(), exact[0], rtol=1e-6, atol=0)
    for a, e in zip(found[1:], exact[1:], strict=True):
        # Half a unit of bf16, and a little for the sum before it.
        assert (a.double() - e).abs().max() <= 0.6 * torch.finfo(torch.bfloat16).eps * e.abs().max()


@pytest.mark.gpu
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_compute_sanitizer_finds_nothing(tool: str, backend: str) -> None:
    sanitizer = shutil.which(
        "compute-sanitizer", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/cuda/bin"])
    )
    if not sanitizer:
        pytest.skip("compute-sanitizer is not installed")
    code = f"""
import torch
from edad_fast.kernels import attention_score_mse
for length, widths in ((33, (26, 64)), (150, (40, 31))):
    s, t = widths
    x = [torch.randn(2, 2, length, w, device="cuda").bfloat16() for w in (s, s, t, t)]
    x[0].requires_grad_()
    x[1].requires_grad_()
    mask = torch.arange(length, device="cuda")[None] < torch.tensor([[length], [7]], device="cuda")
    attention_score_mse(*x, mask, mode="valid_pairs", backend={backend!r}).backward()
torch.cuda.synchronize()
"""
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
