"""The CUDA sources: they compile without warnings and spills, and an emulated block computes."""

from __future__ import annotations

import ctypes
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from loss_cases import queries_and_keys, random_states

from edad_fast.kernels import chunked, cuda
from edad_fast.kernels.common import product_dtype, segments_of_lengths
from edad_fast.kernels.cuda import attention, hidden

FOLDER = Path(__file__).resolve().parents[1] / "kernels" / "cuda"
SOURCES = sorted(map(str, FOLDER.glob("*.cu")))
# Variants of each kernel, and the threads of a block, two of which share an SM.
KERNELS = {"attention_kernel": (6, 256), "product_kernel": (10, 128)}


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
            *("-Xptxas", "-v", "-shared", *SOURCES, "-o", str(tmp_path / cuda.NAME)),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    assert len(spills) == 2 * sum(count for count, _ in KERNELS.values()), "for each of two architectures"
    assert set(spills) == {("0", "0")}, done.stderr
    registers = re.findall(r"Compiling entry function '(\w+)'.*?Used (\d+) registers", done.stderr, re.DOTALL)
    for name, (count, threads) in KERNELS.items():
        used = [int(x) for function, x in registers if name in function]
        assert len(used) == 2 * count
        assert 2 * threads * max(used) <= 65536
    loaded = ctypes.CDLL(str(tmp_path / cuda.NAME))
    assert loaded.edad_fast_cuda_rows() == 128
    assert [loaded.edad_fast_cuda_hidden_columns(x) for x in (312, 384, 768)] == [160, 128, 128]


@pytest.mark.parametrize("module", [attention, hidden])
def test_python_and_cpp_agree_on_the_arguments(tmp_path: Path, module: Any) -> None:
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    assert compiler
    kind = module.__name__.rpartition(".")[2]
    names = [name for name, *_ in module.Arguments._fields_]
    source = tmp_path / "offsets.cpp"
    source.write_text(
        f'#include "{FOLDER / kind}.cuh"\n#include <cstddef>\n#include <cstdio>\n'
        f"int main() {{\n  using A = edad_fast::{kind.capitalize()}Arguments;\n"
        + "".join(f'  std::printf("%zu ", offsetof(A, {name}));\n' for name in names)
        + '  std::printf("%zu %d", sizeof(A), edad_fast::MAX_LAYERS);\n}\n'
    )
    subprocess.run([compiler, "-std=c++17", str(source), "-o", str(tmp_path / "offsets")], check=True)
    done = subprocess.run([str(tmp_path / "offsets")], capture_output=True, text=True, check=True)
    expected = [getattr(module.Arguments, name).offset for name in names]
    assert [int(x) for x in done.stdout.split()] == [
        *expected,
        ctypes.sizeof(module.Arguments),
        cuda.MAX_LAYERS,
    ]


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The sources themselves, run thread by thread on the CPU: tiles, fragments, masks, strides, copies."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if not compiler or not sys.platform.startswith("linux"):
        pytest.skip("the emulation needs a C++20 compiler and Linux")
    built = tmp_path_factory.mktemp("emulated") / "emulated.so"
    header = Path(__file__).with_name("cuda_block.hpp")
    subprocess.run(
        [
            *(compiler, "-std=c++20", "-O2", "-fno-strict-aliasing", "-fPIC", "-shared"),
            # A GPU refuses what is not aligned.
            *("-fsanitize=alignment", "-fsanitize-undefined-trap-on-error", "-x", "c++"),
            *(f'-DEDAD_FAST_CUDA_BLOCK="{header}"', *SOURCES, "-o", str(built)),
        ],
        check=True,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDAD_FAST_CUDA_LIBRARY", str(built))
        cuda.library.cache_clear()
        yield
    cuda.library.cache_clear()


PACKED = torch.tensor([[1, 1, 2, 2, 2, 0, -1, 3, 3] * 2, [0] * 18], dtype=torch.int32)
ENDS = torch.tensor([0, 7, 7, 19], dtype=torch.int32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("shape", "layers", "segments", "mode", "ends", "scale"),
    [
        ((2, 1, 18, 26, 64), 2, PACKED, "tinybert", None, 200),  # scores beyond the range of fp16
        ((1, 1, 130, 25, 31), 1, None, "tinybert", None, 1),
        ((1, 1, 20, 64, 40), 1, None, "valid_pairs", ENDS, 1),
    ],
)
def test_attention_on_an_emulated_block(
    emulated: None,
    shape: tuple[int, int, int, int, int],
    layers: int,
    segments: torch.Tensor | None,
    mode: str,
    ends: torch.Tensor | None,
    scale: float,
    dtype: torch.dtype,
) -> None:
    made = [[scale * x for x in queries_and_keys(*shape, dtype=dtype, seed=i)] for i in range(layers)]
    lists = [[layer[i] for layer in made] for i in range(4)]
    options = {
        **{"mode": mode, "student_scale": 0.2, "teacher_scale": 0.125},
        **{"want_q": True, "want_k": True},
    }
    found = attention.attention_terms(*lists, segments, cu_seqlens=ends, max_length=shape[2], **options)
    if ends is not None:
        segments = segments_of_lengths(ends, shape[2])
    exact = chunked.attention_terms(
        *[[x.double() for x in tensors] for tensors in lists], segments, **options
    )
    torch.testing.assert_close(found[0].double(), exact[0], rtol=1e-6, atol=0)
    for a, e in zip(found[1:], exact[1:], strict=True):
        assert (a.double() - e).abs().max() <= rounding(a) * e.abs().max()


def test_no_sequence_leaves_its_tensor_on_an_emulated_block(emulated: None) -> None:
    lists = [[x] for x in queries_and_keys(1, 2, 20, 26, 31, dtype=torch.bfloat16)]
    options: dict[str, Any] = {"mode": "valid_pairs", "student_scale": 0.2, "teacher_scale": 0.1}
    options |= {"want_q": True, "want_k": True, "max_length": 20}
    wild, clamped = (
        attention.attention_terms(*lists, None, cu_seqlens=torch.tensor(x, dtype=torch.int32), **options)
        for x in ([-9, 5, 5, 1 << 30, -(1 << 31)], [0, 5, 5, 20, 20])
    )
    assert all(torch.equal(a, b) for a, b in zip(wild, clamped, strict=True))


def rounding(x: torch.Tensor) -> float:
    """Half a unit of bf16 and a little for the sum before it; in fp32, two bf16 parts of a difference."""
    return 0.6 * torch.finfo(torch.bfloat16).eps if x.dtype == torch.bfloat16 else 2**-15


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("rows", "width", "teacher_width", "layers", "weights", "other", "scale"),
    [
        (150, 20, 130, 2, 1, None, 1000),  # projected states beyond the range of fp16
        (300, 150, 24, 1, 1, None, 1),  # three tiles of rows, a chunk each; a tile of 160 columns
        (33, 17, 9, 3, 3, torch.float32, 1),  # no row starts at a multiple of 16 bytes
        (7, 8, 8, 17, 1, torch.float32, 1),  # more layers than a launch takes
    ],
)
def test_hidden_states_on_an_emulated_block(
    emulated: None,
    monkeypatch: pytest.MonkeyPatch,
    rows: int,
    width: int,
    teacher_width: int,
    layers: int,
    weights: int,
    other: torch.dtype | None,
    scale: float,
    dtype: torch.dtype,
) -> None:
    """`other`: dtype of the teacher's states."""
    monkeypatch.setattr(hidden, "BUDGET", 1)  # of a tile of rows at a time
    states, matrices, biases = (
        random_states(*[shape] * count, dtype=dtype, seed=seed)
        for seed, (shape, count) in enumerate(
            [((rows, width), layers), ((teacher_width, width), weights), ((teacher_width,), weights)]
        )
    )
    if layers > 1:  # laid out otherwise than the others: a launch of its own
        states[0] = torch.nn.functional.pad(states[0], (0, 64 - width), value=math.nan)[:, :width]
    targets = random_states(*[(rows, teacher_width)] * layers, dtype=other or dtype, seed=3)
    matrices = [x * scale for x in matrices]
    valid = torch.arange(rows) % 3 != 1
    product = product_dtype(states[0], matrices[0])
    wanted = {"want_h": True, "want_w": True, "want_b": True}
    found = hidden.hidden_terms(states, targets, matrices, biases, valid, product=product, **wanted)
    again = hidden.hidden_terms(states, targets, matrices, biases, valid, product=product, **wanted)
    exact = chunked.hidden_terms(
        *[[x.double() for x in tensors] for tensors in (states, targets, matrices, biases)],
        valid,
        product=torch.float64,
        **wanted,
    )
    torch.testing.assert_close(found[0].double(), exact[0], rtol=1e-6, atol=0)
    # The gradients of states and weight are of a difference in one part of bf16, or two.
    parts = rounding(torch.empty(0, dtype=torch.bfloat16) if dtype == torch.bfloat16 else torch.empty(0))
    for a, e, least in zip(found[1:], exact[1:], (parts, parts, 0.0), strict=True):
        assert (a.double() - e).abs().max() <= (least + rounding(a)) * e.abs().max()
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    nothing = hidden.hidden_terms(
        states, targets, matrices, [], valid, product=product, want_h=False, want_w=False, want_b=False
    )
    assert nothing[0].isfinite().all()


def test_triton_kernels_compile_without_spills() -> None:
    """What the interpreter does not see: types, layouts, registers; no GPU is needed."""
    compiler = pytest.importorskip("triton.backends.nvidia.compiler")
    if not hasattr(compiler, "get_ptxas"):
        pytest.skip("this Triton does not tell its ptxas")
    script = Path(__file__).resolve().parents[1] / "benchmarks" / "triton_registers.py"
    command = [
        sys.executable,
        str(script),
        "--only",
        "relation",
        "--case",
        "bfloat16 d=26/64",
        "--arch",
        "90",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "0 of 2 kernels spill" in done.stdout


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
from edad_fast.kernels import attention_score_mse, hidden_state_mse, logit_kl, relation_kl
def random(*shape):
    return torch.randn(*shape, device="cuda").to(dtype)
for dtype in (torch.bfloat16, torch.float16):
    for length, widths in ((33, (26, 64)), (150, (40, 31))):
        x = [random(2, 2, length, widths[i // 2]) for i in range(4)]
        mask = torch.arange(length, device="cuda")[None] < torch.tensor([[length], [7]], device="cuda")
        x = [y.requires_grad_() if i < 2 else y for i, y in enumerate(x)]
        attention_score_mse(*x, mask, mode="valid_pairs", backend={backend!r}).backward()
        variables = [y.requires_grad_() for y in (random(2, length, 150), random(131, 150), random(131))]
        states, *linear = variables
        targets = random(2, length, 131)
        hidden_state_mse(states, targets, *linear, mask, mode="valid", backend={backend!r}).backward()
        if {backend!r} == "triton":
            (relation_kl(x[0], x[2], mask) + logit_kl(x[1], 2 * x[1].detach())).backward()
torch.cuda.synchronize()
"""
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
