"""What the public functions refuse, and the words they do it with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor


def shape(x: Tensor) -> list[int]:
    """The shape as a plain list, for messages."""
    return list(x.shape)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} {value!r} is unknown: choose from {', '.join(choices)}")


def check_floating(named: Mapping[str, Tensor | None]) -> None:
    """Raise ValueError unless the tensors are floating and on one device."""
    devices = {}
    for name, x in named.items():
        if x is None:
            continue
        if not x.is_floating_point():
            raise ValueError(f"{name} is {x.dtype}: a floating dtype is needed")
        devices[name] = str(x.device)
    if len(set(devices.values())) > 1:
        raise ValueError(f"tensors lie on different devices ({devices}): move them to one")


def check_mask(name: str, mask: Tensor, like: Tensor, needed: Sequence[int]) -> None:
    """Raise ValueError unless `mask` is bool or integer, of the shape needed, beside `like`."""
    if mask.is_floating_point() or mask.is_complex():
        raise ValueError(
            f"{name} is {mask.dtype}: a bool mask (True = token) or integers (0 = padding) are needed, "
            f"such as {name}.bool() of a 0/1 mask"
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
    """Raise ValueError unless cu_seqlens can be the ends of sequences laid end to end."""
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 2 or cu_seqlens.is_floating_point():
        raise ValueError(
            f"cu_seqlens is {cu_seqlens.dtype} {shape(cu_seqlens)}: int32 [sequences + 1] is needed, 0 first"
        )
    if cu_seqlens.device != like.device:
        raise ValueError(f"cu_seqlens lies on {cu_seqlens.device}, the states on {like.device}: move it")
    if max_length is not None and max_length < 1:
        raise ValueError(f"max_length is {max_length}: the longest sequence has 1 token at least")


def check_same_shapes(name: str, tensors: Sequence[Tensor]) -> None:
    """Raise ValueError unless all layers have tensors of one shape and dtype."""
    for x in tensors[1:]:
        if x.shape != tensors[0].shape or x.dtype != tensors[0].dtype:
            raise ValueError(
                f"{name} are {tensors[0].dtype} {shape(tensors[0])} in one layer, {x.dtype} {shape(x)} in "
                "another: layers of one call have one shape and dtype; use a call for each shape"
            )
