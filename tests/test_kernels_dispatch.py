"""Choice of backend, refusals, and unequal head counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from loss_cases import queries_and_keys, skip_where_it_cannot_run, value_and_gradients
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from edad_fast.kernels import (
    attention_score_mse,
    choice,
    chunked,
    hidden_state_mse,
    linear_form,
    masked_lm_loss,
    match_heads,
)
from edad_fast.losses import AttentionScoreMSE, RelationKL


@pytest.fixture(autouse=True)
def _needs(request: pytest.FixtureRequest) -> None:
    skip_where_it_cannot_run(request)


def test_auto_gives_the_teacher_its_gradient_and_chunked_refuses() -> None:
    inputs = [x.requires_grad_() for x in queries_and_keys(1, 1, 3, 2, 2)]
    grads = torch.autograd.grad(attention_score_mse(*inputs), inputs)
    assert all(x.any() for x in grads)
    with pytest.raises(ValueError, match=r"teacher_q and teacher_k: detach\(\)"):
        attention_score_mse(*inputs, backend="chunked")
    with torch.no_grad():
        attention_score_mse(*inputs, backend="chunked")
    # The module takes the teacher as a constant.
    AttentionScoreMSE(backend="chunked")(*inputs).backward()
    assert inputs[0].grad is not None
    assert inputs[2].grad is None


@pytest.mark.parametrize(
    ("backend", "algorithm", "module"),
    [("chunked", "direct", "chunked"), ("chunked", "linear", "linear_form"), ("chunked", "auto", "chunked")],
)
def test_an_explicit_backend_is_the_one_called(
    monkeypatch: pytest.MonkeyPatch, backend: str, algorithm: str, module: str
) -> None:
    called = []
    for candidate in (chunked, linear_form):
        original = candidate.attention_terms

        def record(*a: Any, name: str = candidate.__name__, call: Any = original, **k: Any) -> Any:
            called.append(name.rpartition(".")[2])
            return call(*a, **k)

        monkeypatch.setattr(candidate, "attention_terms", record)
    inputs = queries_and_keys(1, 1, 3, 2, 2)
    attention_score_mse(*inputs, backend="reference")
    assert called == []
    attention_score_mse(*inputs, backend=backend, algorithm=algorithm)
    assert called == [module]


def test_auto_takes_the_linear_form_for_long_rows_of_one_segment() -> None:
    def picked(length: int, **options: Any) -> str:
        x = torch.empty(0, 12, length, 26)
        settings = {"single": True, "length": length, "varlen": False, **options}
        return choice.attention("chunked", "auto", x, torch.empty(0, 12, length, 64), [], **settings)

    assert [picked(128), picked(512), picked(512, single=False)] == ["chunked", "linear_form", "chunked"]


def test_cuda_takes_16_bit_tensors_and_says_what_it_refuses() -> None:
    double, single, half, brain = torch.float64, torch.float32, torch.float16, torch.bfloat16

    def hidden(*dtypes: torch.dtype) -> str:
        return choice.hidden("cuda", *(torch.empty(0, 4, dtype=x) for x in dtypes), [])

    def attention(student: torch.dtype, teacher: torch.dtype, width: int = 64) -> str:
        x, y = (torch.empty(0, 2, 8, width, dtype=dtype) for dtype in (student, teacher))
        return choice.attention("cuda", "auto", x, y, [], single=True, length=8, varlen=False)

    with mock.patch.object(choice, "_check_cuda"):
        taken = [(brain, brain, brain), (half, half, half), (half, single, half), (brain, single, brain)]
        assert [hidden(*x) for x in taken] == ["cuda.hidden"] * 4
        for dtypes in ((single, single, single), (half, half, single), (brain, double, brain)):
            with pytest.raises(ValueError, match=r'projects in bfloat16 .* use "triton"'):
                hidden(*dtypes)
        with torch.autocast("cpu", brain):
            assert hidden(single, brain, single) == "cuda.hidden"
        assert [attention(x, x) for x in (half, brain)] == ["cuda.attention"] * 2
        for dtypes in ((single, single), (half, brain)):
            with pytest.raises(ValueError, match=r'the same for both models.* use "triton"'):
                attention(*dtypes)
        with pytest.raises(ValueError, match="heads of 64 at most"):
            attention(brain, brain, 65)


def test_tensors_on_a_cpu_are_refused_before_a_package_is_asked_for() -> None:
    with mock.patch.object(choice, "available", return_value=False):
        for backend in ("triton", "cuda"):
            with pytest.raises(ValueError, match="needs tensors on a GPU, not on cpu"):
                attention_score_mse(*[q(1, 2, 3, 4)] * 4, backend=backend)


def test_auto_takes_triton_on_a_gpu_where_it_can() -> None:
    pytest.importorskip("triton")
    with FakeTensorMode():
        narrow, wide, fine = (
            torch.empty(1, 1, 1, width, dtype=dtype, device="cuda")
            for width, dtype in ((64, torch.bfloat16), (129, torch.bfloat16), (64, torch.float64))
        )
        picked = [
            choice.outputs("auto", kernel, pair, [])
            for kernel in ("relation", "logits", "cross_entropy")
            for pair in ((narrow, narrow), (narrow, wide), (narrow, fine))
        ]
    other = "chunked_outputs"
    assert picked == [
        *("triton.relation", other, other),
        *("triton.logits", "triton.logits", other),
        *("triton.cross_entropy", "triton.cross_entropy", other),
    ]


def _lm(positions: list[int], labels: list[int] | None = None, backend: str = "auto") -> Tensor:
    places, classes = torch.tensor(positions), torch.tensor(labels or [0] * len(positions))
    return masked_lm_loss(q(2, 4), places, classes, nn.Identity(), q(9, 4), backend=backend)


def q(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ([q(2, 3, 4), q(2, 3, 4), q(2, 3, 4), q(2, 3, 4)], {}, ["student_q", "[2, 3, 4]", "heads"]),
        ([q(1, 2, 3, 4), q(1, 2, 5, 4), q(1, 2, 3, 4), q(1, 2, 3, 4)], {}, ["student_k", "[1, 2, 5, 4]"]),
        ([q(1, 2, 3, 4)] * 2 + [q(1, 3, 3, 4)] * 2, {}, ["2 heads", "teacher 3", "match_heads"]),
        ([q(1, 2, 3, 4)] * 2 + [q(1, 2, 5, 4)] * 2, {}, ["[1, 2, 3, 4]", "[1, 2, 5, 4]", "same tokens"]),
        ([q(1, 2, 3, 4, dtype=torch.int64)] * 4, {}, ["student_q", "int64"]),
        ([*[q(1, 2, 3, 4)] * 4, torch.ones(1, 3)], {}, ["float32", ".bool()"]),
        ([*[q(1, 2, 3, 4)] * 4, torch.ones(1, 1, 1, 3).bool()], {}, ["[1, 1, 1, 3]", "[1, 3]"]),
        ([*[q(1, 2, 3, 4)] * 4, torch.ones(1, 3, device="meta").bool()], {}, ["meta", "cpu"]),
        ([q(1, 2, 3, 4)] * 4, {"mode": "valid"}, ["'valid'", "tinybert, valid_pairs"]),
        ([q(1, 2, 3, 4)] * 4, {"backend": "fast"}, ["'fast'", "reference, chunked"]),
        ([q(1, 2, 3, 4)] * 4, {"backend": "cuda"}, ["cuda", "use"]),
        ([q(1, 2, 3, 4)] * 4, {"algorithm": "quick"}, ["'quick'", "direct, linear"]),
        ([q(1, 2, 3, 4)] * 4, {"backend": "reference", "algorithm": "linear"}, ["one algorithm"]),
        (
            [*[q(1, 2, 3, 4)] * 4, torch.ones(1, 3).int()],
            {"algorithm": "linear"},
            ["several segments", "bool"],
        ),
        ([q(3, 2, 4)] * 4, {"cu_seqlens": torch.tensor([0, 3])}, ["'tinybert'", "valid_pairs"]),
        ([q(3, 2, 4)] * 4, {"cu_seqlens": torch.tensor([3])}, ["cu_seqlens", "[1]"]),
        ([[q(1, 2, 3, 4)] * 2] * 3 + [[q(1, 2, 3, 4)]], {}, ["'teacher_k': 1"]),
        ([[q(1, 2, 3, 4), q(1, 2, 5, 4)]] * 4, {}, ["one layer", "[1, 2, 5, 4]"]),
    ],
)
def test_attention_refuses_what_does_not_fit(
    arguments: list[Tensor], options: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        attention_score_mse(*arguments, **options)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: hidden_state_mse(q(2, 3, 4), q(2, 5, 4)), ["[2, 3, 4]", "[2, 5, 4]"]),
        (lambda: hidden_state_mse(q(2, 3, 4), q(2, 3, 6)), ["width 4", "width 6", "[6, 4]"]),
        (lambda: hidden_state_mse(q(2, 3, 4), q(2, 3, 4), None, q(4)), ["a bias", "no weight"]),
        (lambda: hidden_state_mse(q(2, 3, 4), q(2, 3, 6), q(4, 6)), ["[4, 6]", "[6, 4]"]),
        (lambda: hidden_state_mse(q(2, 3, 4), q(2, 3, 6), q(6, 4), q(4)), ["bias", "[6]"]),
        (lambda: hidden_state_mse(q(2, 3, 4), q(2, 3, 4), mask=q(2, 3)), ["mask", "float32"]),
        (lambda: hidden_state_mse(q(2, 4), q(2, 4), mode="pairs"), ["tinybert, valid"]),
        (lambda: hidden_state_mse(q(2, 4), q(2, 4), backend="chunked"), ["needs a weight"]),
        (lambda: hidden_state_mse(q(2, 4), q(2, 4), backend="fast"), ["'fast'"]),
        (lambda: hidden_state_mse(q(2, 4), q(2, 4), q(4, 4), backend="cuda"), ["cuda", "use"]),
        (lambda: hidden_state_mse(q(2, 4), q(2, 4), q(4, 4), backend="cpu"), ["no code", "chunked"]),
        (lambda: masked_lm_loss(q(4), q(0).long(), q(0).long(), nn.Identity(), q(9, 4)), ["hidden", "[4]"]),
        (lambda: masked_lm_loss(q(2, 4), q(1), q(1).long(), nn.Identity(), q(9, 4)), ["positions", "int64"]),
        (
            lambda: masked_lm_loss(q(2, 4), q(1).long(), q(2).long(), nn.Identity(), q(9, 4)),
            ["labels", "[1]"],
        ),
        (lambda: masked_lm_loss(q(2, 4), q(1).long(), q(1).long(), nn.Identity(), q(9)), ["decoder_weight"]),
        (
            lambda: masked_lm_loss(q(2, 4), q(1).long(), q(1).long(), nn.Identity(), q(9, 4), q(4)),
            ["decoder_bias", "[9]"],
        ),
        (
            lambda: masked_lm_loss(q(2, 4), q(1).long(), q(1).long(), nn.Identity(), q(9, 3)),
            ["decoder_weight is [9, 3]", "[1, 4]"],
        ),
        (lambda: _lm([2, 1]), ["positions go from 1 to 2", "0 to 1"]),
        (lambda: _lm([-1, 1]), ["positions go from -1 to 1", "ignore_index"]),
        (lambda: _lm([0, 1], [3, -100]), ["labels go from -100 to 3", "0 to 8", "only masked positions"]),
        (lambda: _lm([0, 1], [3, 9], backend="reference"), ["labels go from 3 to 9"]),
        (lambda: attention_score_mse(*[(q(1),)] * 4), ["student_q has shape [1]"]),
        (lambda: attention_score_mse(*[3.0] * 4), ["a float is given"]),
        (lambda: attention_score_mse(*[["x"]] * 4), ["student_q is a str"]),
        (lambda: attention_score_mse(*[q(1, 2, 3, 0)] * 4), ["head width of 1"]),
        (lambda: attention_score_mse(*[q(1, 2, 3, 4)] * 4, [[1, 1, 1]]), ["mask", "is a list"]),
        (lambda: attention_score_mse(*[q(1, 2, 3, 4)] * 4, q(1, 3)), ["mask (segment_ids) is torch.float32"]),
        (lambda: hidden_state_mse(q(2, 4), q(2, 4), mask=[1, 1]), ["mask is a list"]),
        (lambda: AttentionScoreMSE()(*[q(4)] * 4), ["student's queries are [4]"]),
        (lambda: AttentionScoreMSE()(*[[None]] * 4), ["student_q is a NoneType"]),
        (lambda: AttentionScoreMSE()(*[q(1, 2, 3, 0)] * 2, *[q(1, 4, 3, 2)] * 2), ["head width of 1"]),
    ],
)
def test_other_losses_refuse_what_does_not_fit(call: Callable[[], Tensor], words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call()
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("backend", ["auto", "reference", "chunked", "cpu"])
@pytest.mark.parametrize("algorithm", ["auto", "direct", "linear"])
@pytest.mark.parametrize("ends", [[0, 3, 20], [0, 5, 3, 8], [0, -3, 8], [1, 5, 8], [0, 3, 5], [0]])
def test_ends_of_sequences_that_cannot_be_are_refused(backend: str, algorithm: str, ends: list[int]) -> None:
    if backend == "reference" and algorithm == "linear":
        pytest.skip("the reference has one algorithm")
    options: dict[str, Any] = {"mode": "valid_pairs", "backend": backend, "algorithm": algorithm}
    for dtype in (torch.int32, torch.int64):
        cu_seqlens = torch.tensor(ends, dtype=dtype)
        with pytest.raises(ValueError, match="cu_seqlens is ") as caught:
            attention_score_mse(*[torch.ones(8, 2, 4)] * 4, cu_seqlens=cu_seqlens, **options)
        assert str(ends) in str(caught.value) or "[1]" in str(caught.value)


@pytest.mark.parametrize("backend", ["auto", "reference", "chunked", "cpu"])
def test_a_longest_length_that_is_too_short_is_refused(backend: str) -> None:
    options: dict[str, Any] = {"cu_seqlens": torch.tensor([0, 70, 80]), "backend": backend}
    inputs = [x[0].transpose(0, 1) for x in queries_and_keys(1, 2, 80, 4, 4, dtype=torch.float32)]
    with pytest.raises(ValueError, match="max_length is 8, the longest sequence of cu_seqlens has 70"):
        attention_score_mse(*inputs, mode="valid_pairs", max_length=8, **options)
    one, other = (
        attention_score_mse(*inputs, mode="valid_pairs", max_length=most, **options) for most in (70, None)
    )
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("backend", ["auto", "reference", "chunked", "cpu"])
def test_no_tokens_are_no_loss(backend: str) -> None:
    for ends in ([0], [0, 0]):
        inputs = [torch.ones(0, 2, 4, requires_grad=i < 2) for i in range(4)]
        options: dict[str, Any] = {"cu_seqlens": torch.tensor(ends), "mode": "valid_pairs"}
        value = attention_score_mse(*inputs, **options, backend=backend)
        value.backward()
        assert value == 0
    sq, tq = torch.ones(0, 4, 7, 8, requires_grad=True), torch.ones(0, 6, 7, 16)
    for loss in (AttentionScoreMSE(backend=backend)(sq, sq, tq, tq), RelationKL(8)({"q": (sq, tq)})):
        assert torch.autograd.grad(loss, sq)[0].shape == sq.shape
        assert loss == 0


@pytest.mark.parametrize("backend", ["reference", "chunked", "cpu"])
@pytest.mark.parametrize("mode", ["tinybert", "valid_pairs"])
def test_segment_ids_beyond_32_bits_stay_apart(backend: str, mode: str) -> None:
    inputs = queries_and_keys(2, 2, 6, 3, 4, dtype=torch.float32)
    small = torch.tensor([[1, 1, 2, 0, 2, -1], [3, 2, 1, 1, 2, 3]])
    far = torch.tensor([-(2**40), 0, 2**40, 2**40 + 2**32, 7])
    results = [
        value_and_gradients(
            lambda *x, ids=ids: attention_score_mse(*x, ids, mode=mode, backend=backend),
            inputs[2:],
            inputs[:2],
        )
        for ids in (small.int(), far[small + 1])
    ]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def scores(x: Tensor, y: Tensor, scale: float) -> Tensor:
    return scale * (x @ y.mT)


def test_equal_heads_are_left_alone() -> None:
    inputs = queries_and_keys(1, 4, 5, 3, 6)
    for how in ("auto", "equal", "regroup"):
        matched = match_heads(*inputs, how)
        assert matched.student_q is inputs[0]
        assert matched.teacher_k is inputs[3]
        assert matched.applied == "equal: 4 heads"
        assert matched.student_scale == 3**-0.5


def test_mean_is_the_mean_of_the_heads_scores() -> None:
    sq, sk, _, _ = queries_and_keys(2, 4, 5, 3, 6)
    _, _, tq, tk = queries_and_keys(2, 6, 5, 3, 7, seed=1)
    matched = match_heads(sq, sk, tq, tk, "mean")
    student = scores(matched.student_q, matched.student_k, matched.student_scale)
    torch.testing.assert_close(student[:, 0], scores(sq, sk, 3**-0.5).mean(1))
    teacher = scores(matched.teacher_q, matched.teacher_k, matched.teacher_scale)
    torch.testing.assert_close(teacher[:, 0], scores(tq, tk, 7**-0.5).mean(1))
    assert matched.applied == "mean over 4 student and 6 teacher heads"


@pytest.mark.parametrize("how", ["auto", "regroup"])
def test_regrouped_heads_are_relation_heads(how: str) -> None:
    sq, sk, _, _ = queries_and_keys(2, 4, 5, 3, 6)
    _, _, tq, tk = queries_and_keys(2, 6, 5, 3, 7, seed=1)
    matched = match_heads(sq, sk, tq, tk, how)
    assert matched.applied == "regrouped: 4 student and 6 teacher heads to 2"
    # Two relation heads of two student and three teacher heads each.
    first = torch.cat([sq[:, 0], sq[:, 1]], dim=-1) @ torch.cat([sk[:, 0], sk[:, 1]], dim=-1).mT
    student = scores(matched.student_q, matched.student_k, matched.student_scale)
    torch.testing.assert_close(student[:, 0], first / math.sqrt(6))
    last = sum(tq[:, head] @ tk[:, head].mT for head in (3, 4, 5))
    teacher = scores(matched.teacher_q, matched.teacher_k, matched.teacher_scale)
    torch.testing.assert_close(teacher[:, 1], last / math.sqrt(21))


def test_a_head_list_pairs_the_heads_it_names() -> None:
    sq, sk, _, _ = queries_and_keys(2, 3, 5, 3, 6)
    _, _, tq, tk = queries_and_keys(2, 6, 5, 3, 7, seed=1)
    module = AttentionScoreMSE(head_match=[5, 0, 5], backend="reference")
    expected = F.mse_loss(sq @ sk.mT * 3**-0.5, (tq @ tk.mT * 7**-0.5)[:, [5, 0, 5]])
    torch.testing.assert_close(module(sq, sk, tq, tk), expected)
    assert module.applied == "mapped: teacher heads [5, 0, 5], 4 of 6 left out"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("equal", ["4 attention heads", "teacher 6", "regroup", "mean", "list"]),
        ("nearest", ["'nearest'", "auto, equal, mean, regroup"]),
        ([0, 1], ["2 entries", "4 student heads"]),
        ([0, 1, 2, 6], ["6", "0 to 5"]),
        ([0, 1, 2, -1], ["-1"]),
    ],
)
def test_heads_that_do_not_match_are_refused(how: str | list[int], words: list[str]) -> None:
    sq, sk, _, _ = queries_and_keys(1, 4, 5, 3, 3)
    _, _, tq, tk = queries_and_keys(1, 6, 5, 3, 3)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        AttentionScoreMSE(head_match=how)(sq, sk, tq, tk)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("how", ["auto", "mean", [1, 0]])
def test_gradients_reach_every_student_head_through_the_match(how: str | list[int]) -> None:
    heads = 2 if isinstance(how, list) else 4
    sq, sk, _, _ = queries_and_keys(1, heads, 5, 3, 3)
    _, _, tq, tk = queries_and_keys(1, 6, 5, 3, 3, seed=1)
    results = [
        value_and_gradients(AttentionScoreMSE(head_match=how, backend=backend), [tq, tk], [sq, sk])
        for backend in ("reference", "chunked")
    ]
    torch.testing.assert_close(*results)
    assert results[0][1].abs().amax(dim=(0, 2, 3)).min() > 0
