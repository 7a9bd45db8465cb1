"""What the public functions refuse, and the words they do it with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.autograd import forward_ad


def shape(x: Tensor) -> list[int]:
    """The shape as a plain list, for messages."""
    return list(x.shape)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} {value!r} is unknown: choose from {', '.join(choices)}")


def check_tensor(name: str, x: object) -> None:
    """Raise ValueError unless `x` is a tensor."""
    if not isinstance(x, Tensor):
        raise ValueError(f"{name} is a {type(x).__name__}: a tensor is needed")


def readable(x: Tensor) -> bool:
    """Whether values can be checked: they are at hand without waiting for a GPU, and nothing is traced."""
    return not torch.compiler.is_compiling() and type(x) is Tensor and x.device.type == "cpu"


def check_reverse_mode(backend: str, tensors: Sequence[Tensor | None]) -> None:
    """Raise RuntimeError where forward-mode differentiation (torch.func.jvp) would find no derivative."""
    if torch.compiler.is_compiling():
        return
    if any(x is not None and forward_ad.unpack_dual(x).tangent is not None for x in tensors):
        raise RuntimeError(
            f"backend {backend!r} has no forward-mode derivative (torch.func.jvp, make_dual): use "
            'backend="reference"'
        )


def constant(name: str, x: Tensor) -> Tensor:
    """`x` cut from the graph. Raises ValueError unless it is a tensor."""
    check_tensor(name, x)
    return x.detach()


def check_temperature(temperature: float) -> None:
    """Raise ValueError unless it is a finite number above 0."""
    if not 0.0 < temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}: a finite number above 0 is needed")


def check_regularisers(label_smoothing: float, z_loss: float) -> None:
    """Raise ValueError unless both are in range."""
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing is {label_smoothing}: a number from 0 to 1 is needed")
    if not 0.0 <= z_loss < float("inf"):
        raise ValueError(f"z_loss is {z_loss}: a finite number, 0 or above, is needed")


def check_floating(named: Mapping[str, Tensor | None]) -> None:
    """Raise ValueError unless the tensors are floating and on one device."""
    devices = {}
    for name, x in named.items():
        if x is None:
            continue
        check_tensor(name, x)
        if not x.is_floating_point():
            raise ValueError(f"{name} is {x.dtype}: a floating dtype is needed")
        devices[name] = str(x.device)
    if len(set(devices.values())) > 1:
        raise ValueError(f"tensors lie on different devices ({devices}): move them to one")


def check_mask(name: str, mask: Tensor, like: Tensor, needed: Sequence[int]) -> None:
    """Raise ValueError unless `mask` is bool or integer, of the shape needed, beside `like`."""
    check_tensor(name, mask)
    if mask.is_floating_point() or mask.is_complex():
        raise ValueError(
            f"{name} is {mask.dtype}: a bool mask (True = token) or integers (0 = padding) are needed, "
            "such as mask.bool() of a 0/1 mask"
        )
    if tuple(mask.shape) != tuple(needed):
        raise ValueError(f"{name} is {shape(mask)}: {list(needed)} is needed")
    if mask.device != like.device:
        raise ValueError(
            f"{name} lies on {mask.device}, the states on {like.device}: move them to one device"
        )


def check_scores(
    student_q: Tensor, student_k: Tensor, teacher_q: Tensor, teacher_k: Tensor, *, varlen: bool
) -> None:
    """Raise ValueError unless the four tensors of one layer fit each other."""
    named = {"student_q": student_q, "student_k": student_k, "teacher_q": teacher_q, "teacher_k": teacher_k}
    check_floating(named)
    layout = "[tokens, heads, head width]" if varlen else "[batch, heads, length, head width]"
    for name, x in named.items():
        if x.dim() != (3 if varlen else 4):
            raise ValueError(f"{name} has shape {shape(x)}: {layout} is needed")
        if not x.shape[-1]:
            raise ValueError(f"{name} has shape {shape(x)}: a head width of 1 at least is needed")
    for one, other in (("student_q", "student_k"), ("teacher_q", "teacher_k")):
        if named[one].shape != named[other].shape:
            raise ValueError(
                f"{one} is {shape(named[one])} but {other} {shape(named[other])}: make them equal"
            )
        if named[one].dtype != named[other].dtype:
            raise ValueError(f"{one} is {named[one].dtype}, {other} {named[other].dtype}: make them equal")
    if student_q.shape[1] != teacher_q.shape[1]:
        raise ValueError(
            f"student has {student_q.shape[1]} heads, teacher {teacher_q.shape[1]}: pass them through "
            "match_heads first"
        )
    if varlen:
        agree = student_q.shape[0] == teacher_q.shape[0]
    else:
        agree = (student_q.shape[0], student_q.shape[2]) == (teacher_q.shape[0], teacher_q.shape[2])
    if not agree:
        raise ValueError(
            f"student_q is {shape(student_q)} but teacher_q {shape(teacher_q)}: batch and length must "
            "agree (both models must see the same tokens)"
        )


def check_projection(
    student: Tensor, teacher: Tensor, weight: Tensor | None, bias: Tensor | None, mask: Tensor | None
) -> None:
    """Raise ValueError unless the hidden states of one layer and their projection fit each other."""
    check_floating({"student_hidden": student, "teacher_hidden": teacher, "weight": weight, "bias": bias})
    if student.dim() < 1 or student.shape[:-1] != teacher.shape[:-1]:
        raise ValueError(
            f"student_hidden is {shape(student)} but teacher_hidden {shape(teacher)}: all but the last "
            "dimension must agree (both models must see the same tokens)"
        )
    student_width, teacher_width = student.shape[-1], teacher.shape[-1]
    if not student_width * teacher_width:
        raise ValueError(
            f"hidden states are {shape(student)} and {shape(teacher)}: a width of 1 at least is needed"
        )
    if weight is None:
        if student_width != teacher_width or bias is not None:
            raise ValueError(
                f"student width {student_width}, teacher width {teacher_width}"
                f"{', a bias' if bias is not None else ''} and no weight: give a projection "
                f"[{teacher_width}, {student_width}], such as the weight of nn.Linear"
            )
    elif weight.shape != (teacher_width, student_width):
        raise ValueError(
            f"weight is {shape(weight)}: [{teacher_width}, {student_width}] is needed, "
            "teacher width by student width"
        )
    if bias is not None and bias.shape != (teacher_width,):
        raise ValueError(f"bias is {shape(bias)}: [{teacher_width}] is needed")
    if mask is not None:
        check_mask("mask", mask, student, student.shape[:-1])


def check_lengths(cu_seqlens: Tensor, like: Tensor, max_length: int | None) -> None:
    """Raise ValueError unless cu_seqlens has the form of ends of sequences; `like` is [T, H, d]."""
    check_tensor("cu_seqlens", cu_seqlens)
    least = 2 if like.shape[0] else 1
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < least or cu_seqlens.is_floating_point():
        raise ValueError(
            f"cu_seqlens is {cu_seqlens.dtype} {shape(cu_seqlens)}: int32 [sequences + 1] is needed, 0 first"
        )
    if cu_seqlens.device != like.device:
        raise ValueError(f"cu_seqlens lies on {cu_seqlens.device}, the states on {like.device}: move it")
    if max_length is not None and max_length < 1:
        raise ValueError(f"max_length is {max_length}: the longest sequence has 1 token at least")


def check_starts(cu_seqlens: Tensor, total: int, max_length: int) -> None:
    """Raise ValueError unless cu_seqlens' values are where sequences of `total` tokens begin and end.

    Only on a CPU: a GPU's values are not read back, its kernels leave out what lies outside.
    """
    if not readable(cu_seqlens):
        return
    ends = cu_seqlens.tolist()
    lengths = [last - first for first, last in pairwise(ends)]
    if ends[0] != 0 or ends[-1] != total or min(lengths, default=0) < 0:
        raise ValueError(
            f"cu_seqlens is {_some(ends)}: it starts at 0, never falls and ends at {total}, the "
            "number of tokens"
        )
    if max(lengths, default=0) > max_length:
        raise ValueError(
            f"max_length is {max_length}, the longest sequence of cu_seqlens has {max(lengths)} tokens: pass "
            "the longest length, or none"
        )


def check_indices(name: str, x: Tensor, end: int) -> None:
    """Raise ValueError unless the values, where they lie on a CPU, are 0 to end - 1."""
    if readable(x) and x.numel() and not 0 <= int(x.min()) <= int(x.max()) < end:
        raise ValueError(
            f"{name} go from {int(x.min())} to {int(x.max())}: 0 to {end - 1} is needed; only masked "
            "positions are given, and labels of -100 none: there is no ignore_index"
        )


def _some(values: list[int]) -> str:
    """The values; the first ones where there are many."""
    return str(values) if len(values) <= 16 else f"{values[:16]} and {len(values) - 16} more"


def check_same_shapes(name: str, tensors: Sequence[Tensor]) -> None:
    """Raise ValueError unless all layers have tensors of one shape and dtype."""
    for x in tensors[1:]:
        if x.shape != tensors[0].shape or x.dtype != tensors[0].dtype:
            raise ValueError(
                f"{name} are {tensors[0].dtype} {shape(tensors[0])} in one layer, {x.dtype} {shape(x)} in "
                "another: layers of one call have one shape and dtype; use a call for each shape"
            )
