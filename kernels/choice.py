"""Which implementation computes a loss. An explicit backend that cannot is an error, never a fallback."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import check_choice
from .common import product_dtype

BACKENDS = ("auto", "reference", "chunked", "cpu", "triton", "cuda")
ALGORITHMS = ("auto", "direct", "linear")
# Longest row for which the C++ code is faster tile by tile than in the linear form (or as fast: it is exact
# near convergence), measured at head widths 26 and 64.
CPU_CROSSOVER = {torch.float32: 256, torch.bfloat16: 144, torch.float16: 144}
# Not measured yet: well above where the linear form takes fewer operations (147 at those widths).
TRITON_CROSSOVER = 512
# Backends with code for the hidden-state loss, and for the losses of outputs and relations.
HIDDEN_BACKENDS = ("auto", "reference", "chunked", "triton", "cuda")
OUTPUT_BACKENDS = ("auto", "reference", "chunked", "cpu", "triton")
CPU_DTYPES = tuple(CPU_CROSSOVER)
CUDA_DTYPES = (torch.bfloat16, torch.float16)
WIDEST_CUDA = 64
# The widest head whose column products stay in a GPU program's registers.
WIDEST_LINEAR = 64
# The widest relation head whose tiles fit a GPU program's registers.
WIDEST_RELATION = 128


def attention(
    backend: str,
    algorithm: str,
    student: Tensor,
    teacher: Tensor,
    constants: list[str],
    *,
    single: bool,
    length: int,
    varlen: bool,
) -> str:
    """The module, as ops.py names it, that computes the attention-score loss; or "reference".

    Args:
        student, teacher: queries of the first layer.
        constants: the teacher's tensors that ask for a gradient; only the reference gives them one.
        single: whether rows are known to hold one segment at most.
        length: the longest sequence.
        varlen: whether sequences are laid end to end.

    Raises:
        ValueError: an explicit backend or algorithm that cannot.
    """
    backend = _with_gradients(backend, constants)
    if backend == "auto":
        backend = _default_attention(student, teacher)
    if algorithm == "linear" and not single:
        raise ValueError(
            'algorithm "linear" needs a bool mask or cu_seqlens: it does not tell several segments of a row '
            "apart"
        )
    if backend == "reference":
        if algorithm == "linear":
            raise ValueError('backend "reference" has one algorithm: leave algorithm at "auto"')
        return "reference"
    if backend == "chunked":
        linear = algorithm == "linear" or (
            algorithm == "auto" and single and prefers_linear(length, student, teacher)
        )
        if varlen and student.device.type != "cpu":  # would read cu_seqlens back
            if algorithm == "linear":
                raise ValueError('backend "chunked" has no linear form for cu_seqlens on a GPU: use "triton"')
            linear = False
        return "linear_form" if linear else "chunked"
    if backend == "cpu":
        _check_cpu(student, teacher)
        linear = algorithm == "linear" or (
            algorithm == "auto" and single and length > CPU_CROSSOVER[student.dtype]
        )
        return "cpu:linear" if linear else "cpu:direct"
    if backend == "triton":
        _check_triton(student, teacher)
        fits = max(student.shape[-1], teacher.shape[-1]) <= WIDEST_LINEAR
        if algorithm == "linear" and not fits:
            raise ValueError(
                f'backend "triton" has the linear form for heads of {WIDEST_LINEAR} at most: use "direct"'
            )
        linear = algorithm == "linear" or (
            algorithm == "auto"
            and single
            and fits
            and length > TRITON_CROSSOVER
            # Its sums are in fp32: enough for 16-bit inputs, not for fp32 ones near convergence.
            and student.dtype.itemsize == teacher.dtype.itemsize == 2
        )
        return "triton.linear_attention" if linear else "triton.attention"
    if backend == "cuda":
        _check_cuda_attention(student, teacher)
        if algorithm == "linear":
            raise ValueError('backend "cuda" has no linear form: use "triton"')
        return "cuda.attention"
    raise AssertionError(backend)


def hidden(
    backend: str, student: Tensor, teacher: Tensor, weight: Tensor | None, constants: list[str]
) -> str:
    """The module that computes the hidden-state loss; or "reference".

    Args:
        student, teacher, weight: of the first layer.
        constants: as for `attention`.

    Raises:
        ValueError: an explicit backend that cannot.
    """
    check_hidden_backend(backend)
    if weight is None:
        if backend not in ("auto", "reference"):
            raise ValueError(f'backend {backend!r} needs a weight: use "auto" or "reference" without one')
        return "reference"
    backend = _with_gradients(backend, constants)
    if backend == "auto":
        backend = "triton" if _on_triton(student) else "chunked"
    if backend == "triton":
        _check_triton(student)
        return "triton.hidden"
    if backend == "cuda":
        _check_cuda_hidden(student, teacher, weight)
        return "cuda.hidden"
    return backend


def outputs(backend: str, kernel: str, tensors: Sequence[Tensor], constants: list[str]) -> str:
    """The module that computes a loss of outputs or relations; or "reference".

    Args:
        kernel: the module of the Triton backend.
        tensors: the student's and the teacher's, or activation and weight.
        constants: as for `attention`.

    Raises:
        ValueError: an explicit backend that cannot.
    """
    check_output_backend(backend, kernel)
    backend = _with_gradients(backend, constants)
    wide = kernel == "relation" and max(x.shape[-1] for x in tensors) > WIDEST_RELATION
    if backend == "auto":
        backend = "triton" if not wide and _on_triton(*tensors) else "chunked"
        if kernel == "cross_entropy" and _suits_cpu(*tensors) and available("cpu"):
            backend = "cpu"
    if backend == "cpu":
        if not available("cpu"):
            raise ValueError('backend "cpu" was not built (it needs a C++20 compiler): use "chunked"')
        if not _suits_cpu(*tensors):
            raise ValueError(
                'backend "cpu" computes fp32 and 16-bit types on a CPU, not '
                f'{" and ".join(f"{x.dtype} on {x.device}" for x in tensors)}: use "chunked"'
            )
        return "cpu.cross_entropy"
    if backend == "triton":
        if wide:
            raise ValueError(
                f'backend "triton" takes relation heads of {WIDEST_RELATION} at most: use more heads, or '
                '"chunked"'
            )
        _check_triton(*tensors)
        return f"triton.{kernel}"
    return "chunked_outputs" if backend == "chunked" else backend


def check_output_backend(backend: str, kernel: str) -> None:
    """Raise ValueError unless the loss of this kernel has such a backend; `kernel` as for `outputs`."""
    check_choice("backend", backend, BACKENDS)
    if backend not in OUTPUT_BACKENDS or (backend == "cpu" and kernel != "cross_entropy"):
        others = "auto, reference, chunked, triton"
        raise ValueError(f"backend {backend!r} has no code for this loss: choose from {others}")


def check_hidden_backend(backend: str) -> None:
    """Raise ValueError unless the hidden-state loss has such a backend."""
    check_choice("backend", backend, BACKENDS)
    if backend not in HIDDEN_BACKENDS:
        raise ValueError(
            f'backend {backend!r} has no code for the hidden-state loss: use "triton" or "chunked"'
        )


def _with_gradients(backend: str, constants: list[str]) -> str:
    if constants and backend == "auto":
        return "reference"
    if constants and backend != "reference":
        raise ValueError(
            f"backend {backend!r} computes no gradient for {' and '.join(constants)}: detach() the teacher, "
            'or use backend "reference"'
        )
    return backend


def _check_cpu(student: Tensor, teacher: Tensor) -> None:
    if not available("cpu"):
        raise ValueError('backend "cpu" was not built (it needs a C++20 compiler): use "chunked"')
    if student.device.type != "cpu":
        raise ValueError(f'backend "cpu" needs tensors on a CPU, not on {student.device}: use "auto"')
    if student.dtype not in CPU_DTYPES or teacher.dtype != student.dtype:
        raise ValueError(
            f'backend "cpu" computes {", ".join(map(str, CPU_DTYPES))}, the same for both models, not '
            f'{student.dtype} and {teacher.dtype}: use "chunked"'
        )


def _check_cuda(*tensors: Tensor) -> None:
    for x in tensors:
        if not x.is_cuda:
            raise ValueError(f'backend "cuda" needs tensors on a GPU, not on {x.device}: use "auto"')
    if not available("cuda"):
        raise ValueError('backend "cuda" was not built (it needs nvcc): use "triton"')


def _check_cuda_attention(student: Tensor, teacher: Tensor) -> None:
    _check_cuda(student, teacher)
    if student.dtype not in CUDA_DTYPES or teacher.dtype != student.dtype:
        raise ValueError(
            f'backend "cuda" computes {" and ".join(map(str, CUDA_DTYPES))}, the same for both models, not '
            f'{student.dtype} and {teacher.dtype}: use "triton"'
        )
    if max(student.shape[-1], teacher.shape[-1]) > WIDEST_CUDA:
        raise ValueError(f'backend "cuda" takes heads of {WIDEST_CUDA} at most: use "triton"')


def _check_cuda_hidden(student: Tensor, teacher: Tensor, weight: Tensor) -> None:
    _check_cuda(student, teacher)
    half = student.dtype == weight.dtype == torch.float16
    if teacher.dtype == torch.float64 or (not half and product_dtype(student, weight) != torch.bfloat16):
        raise ValueError(
            'backend "cuda" projects in bfloat16 (states and weight, or autocast) or float16 (states and '
            f"weight), not {student.dtype} states by a {weight.dtype} weight towards {teacher.dtype}: use "
            '"triton"'
        )


def _check_triton(*tensors: Tensor) -> None:
    installed = available("triton")
    for x in tensors:
        if not x.is_cuda and not (installed and _runs_on(x.device.type)):
            raise ValueError(f'backend "triton" needs tensors on a GPU, not on {x.device}: use "auto"')
    if not installed:
        raise ValueError('backend "triton" needs the package triton: install it, or use "auto"')
    for x in tensors:
        if x.dtype == torch.float64:
            raise ValueError('backend "triton" computes in fp32: use "reference" or "chunked" for fp64')


@torch.compiler.assume_constant_result
def available(backend: str) -> bool:
    """Whether a backend was built or its package is installed."""
    if backend == "triton":
        return importlib.util.find_spec("triton") is not None
    return importlib.import_module(f".{backend}", __package__).library() is not None


@torch.compiler.assume_constant_result
def _runs_on(device_type: str) -> bool:
    return importlib.import_module(".triton.launch", __package__).can_run(torch.device(device_type))


def _default_attention(student: Tensor, teacher: Tensor) -> str:
    """The backend that "auto" stands for."""
    if student.device.type == "cpu":
        fits = student.dtype in CPU_DTYPES and teacher.dtype == student.dtype
        return "cpu" if fits and available("cpu") else "chunked"
    return "triton" if _on_triton(student, teacher) else "chunked"


def _on_triton(*tensors: Tensor) -> bool:
    """Whether "auto" may choose Triton; its interpreter is for tests."""
    return all(x.is_cuda and x.dtype != torch.float64 for x in tensors) and available("triton")


def _suits_cpu(*tensors: Tensor) -> bool:
    return all(x.device.type == "cpu" and x.dtype != torch.float64 for x in tensors)


def prefers_linear(length: int, student: Tensor, teacher: Tensor) -> bool:
    """Whether the linear form takes fewer operations than the direct one, both as plain PyTorch."""
    width, total = student.shape[-1], student.shape[-1] + teacher.shape[-1]
    return length * (2 * total + 4 * width) > 4 * total * (total + width)
