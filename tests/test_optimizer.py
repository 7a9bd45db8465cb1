"""Learning rate and optimiser."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from toy_training import WIDTH, ToyBatches, ToyObjective, network

from edad_fast.errors import InputError
from edad_fast.training import GroupedAdamW, ParameterGroup, schedule_factor


def optimizer_of(objective: ToyObjective, groups: list[ParameterGroup] | None = None) -> GroupedAdamW:
    groups = groups if groups is not None else objective.parameter_groups()
    return GroupedAdamW(objective, groups, weight_decay=0.1, betas=(0.9, 0.99), eps=1e-8, max_grad_norm=0.5)


@given(steps=st.integers(1, 400), data=st.data())
def test_schedule_rises_then_falls_and_is_never_zero(steps: int, data: st.DataObject) -> None:
    warmup = data.draw(st.integers(0, steps))
    factors = [schedule_factor(step, steps, warmup) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[:warmup] == sorted(factors[:warmup])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
    if warmup < steps:
        assert factors[warmup] == 1
        assert factors[-1] == pytest.approx(1 / (steps - warmup))


def trained_optimizer(objective: ToyObjective, groups: list[ParameterGroup], steps: range) -> GroupedAdamW:
    optimizer = optimizer_of(objective, groups)
    optimizer.set_factor(1.0)
    advance(objective, optimizer, steps)
    return optimizer


def advance(objective: ToyObjective, optimizer: GroupedAdamW, steps: range) -> None:
    for step in steps:
        objective(ToyBatches().step(step)[0], 0.5).total.backward()
        optimizer.clip()
        optimizer.step(skip=torch.zeros(()))


def test_optimizer_state_is_by_name_whatever_the_order() -> None:
    torch.manual_seed(0)
    objective = ToyObjective(network(), network(), dropout=0.0)
    first = trained_optimizer(objective, objective.parameter_groups(), range(3))
    copy = ToyObjective(network(), network(), dropout=0.0)
    copy.load_state_dict(objective.state_dict())
    turned = [
        ParameterGroup(group.name, dict(reversed(group.parameters.items())), group.learning_rate)
        for group in reversed(copy.parameter_groups())
    ]
    second = optimizer_of(copy, turned)
    second.load_state(first.state())
    second.set_factor(1.0)
    assert second.state().keys() == first.state().keys()
    advance(objective, first, range(3, 6))
    advance(copy, second, range(3, 6))
    for name, parameter in copy.named_parameters():
        torch.testing.assert_close(parameter, dict(objective.named_parameters())[name])


def test_a_skipped_step_changes_nothing() -> None:
    objective = ToyObjective(network(), network(), dropout=0.0)
    optimizer = trained_optimizer(objective, objective.parameter_groups(), range(2))
    before = [value.clone() for value in (*objective.parameters(), *optimizer.state().values())]
    for parameter in objective.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    optimizer.step(skip=torch.ones(()))
    after = [*objective.parameters(), *optimizer.state().values()]
    assert all(one.equal(other) for one, other in zip(before, after, strict=True))


def test_optimizer_state_of_other_models_is_refused_by_name() -> None:
    optimizer = optimizer_of(ToyObjective(network(), network()))
    with pytest.raises(InputError, match="exp_avg/other"):
        optimizer.load_state({"exp_avg/other": torch.zeros(1)})
    with pytest.raises(InputError, match=r"exp_avg/teacher.0.weight \[1\]"):
        optimizer.load_state({"exp_avg/teacher.0.weight": torch.zeros(1)})


def bad_groups(kind: str, objective: ToyObjective) -> list[ParameterGroup]:
    teacher, student = objective.parameter_groups()
    if kind == "stranger":
        teacher.parameters["stranger"] = nn.Parameter(torch.zeros(1))
    elif kind == "twice":
        student.parameters["2.bias"] = teacher.parameters["2.bias"]
    elif kind == "frozen":
        teacher.parameters["0.bias"].requires_grad_(False)
    elif kind == "float16":
        objective.student.half()
    elif kind == "no parameters":
        teacher.parameters.clear()
    elif kind == "distinct":
        student.name = "teacher"
    return [teacher, student]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("stranger", "stranger is not a parameter"),
        ("twice", "2.bias is listed twice"),
        ("frozen", "0.bias must be trainable"),
        ("float16", "0.weight must be .*float32"),
        ("no parameters", "teacher has no parameters"),
        ("distinct", "distinct names"),
    ],
)
def test_wrong_parameter_groups_are_refused(kind: str, message: str) -> None:
    objective = ToyObjective(network(), network())
    with pytest.raises(ValueError, match=message):
        optimizer_of(objective, bad_groups(kind, objective))


def test_a_parameter_without_gradient_is_left_alone() -> None:
    objective = ToyObjective(network(), network(), dropout=0.0)
    optimizer = optimizer_of(objective)
    optimizer.set_factor(1.0)
    before = [parameter.clone() for parameter in objective.student.parameters()]
    objective.teacher(torch.ones(1, WIDTH)).sum().backward()
    assert optimizer.clip()["student"] == 0
    optimizer.step(skip=torch.zeros(()))
    assert all(one.equal(two) for one, two in zip(before, objective.student.parameters(), strict=True))
    assert not [name for name in optimizer.state() if "student" in name]
