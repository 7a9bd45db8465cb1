"""The losses on the CPU against ordinary PyTorch, forward and backward; floors in floors.toml."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import loss_peers
import pytest
import torch
from conftest import Contest, Row, Table, judge, ratio
from torch import Tensor, nn

from edad_fast.losses import attention_score_mse, masked_lm_loss

HERE = Path(__file__).resolve().parent
# (B, H, L, teacher's and student's head width).
SHAPES = [(16, 12, 128, 64, 26), (4, 12, 512, 64, 26), (2, 12, 2048, 64, 64)]
DTYPES = [torch.float32, torch.bfloat16]
POSITIONS, MASKED, WIDTH, CLASSES = 2048, 307, 312, 48_180


@pytest.fixture(autouse=True)
def _one_thread(one_core: None) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _step(loss: Callable[[], Tensor], leaves: list[Tensor]) -> Callable[[], object]:
    def run() -> object:
        for leaf in leaves:
            leaf.grad = None
        return loss().backward()

    return run


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda x: str(x).removeprefix("torch."))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_attention(shape: tuple[int, int, int, int, int], dtype: torch.dtype, contest: Contest) -> None:
    torch._dynamo.reset()
    tensors, mask = loss_peers.attention_inputs(shape, dtype)
    compiled = torch.compile(loss_peers.materialised)
    peers = {"eager": loss_peers.materialised, "torch.compile": compiled, "bmm": loss_peers.bmm_linear}
    rivals = {
        name: _step(lambda call=call: call(*tensors, mask), tensors[:2]) for name, call in peers.items()
    }
    for call in rivals.values():
        call()
    text = f"{shape} {str(dtype).removeprefix('torch.')}"
    timings = contest.run(
        f"attention {text}",
        _step(lambda: attention_score_mse(*tensors, mask), tensors[:2]),
        rivals,
        rounds=7,
        calls={128: 10, 512: 5}.get(shape[2], 1),
    )
    rows = []
    for name, timing in timings.items():
        value, by_cpu = ratio(timing, contest.ours)
        cells = f"{contest.ours.seconds * 1e3:.1f} ms", f"{timing.seconds * 1e3:.1f} ms"
        row = Row(f"attention_{shape[2]}", text, name, value, by_cpu, *cells, judged=name != "bmm")
        rows.append(contest.table.add(row))
    judge(*rows)


def _memory(*words: object) -> tuple[float, float]:
    done = subprocess.run(
        [sys.executable, str(HERE / "loss_memory.py"), *map(str, words)],
        capture_output=True,
        text=True,
        check=True,
    )
    beyond, gradients = map(float, done.stdout.split())
    return beyond, gradients


def test_attention_memory(table: Table) -> None:
    rows = []
    for shape in [*SHAPES, (64, 12, 128, 64, 26), (1, 12, 8192, 64, 64)]:
        for dtype in ("float32", "bfloat16"):
            beyond, gradients = _memory("attention", *shape, dtype)
            value = max(0.0, beyond - gradients)  # they wait for backward, which scales them in place
            ours = f"{beyond:.0f} MB, gradients {gradients:.0f} MB"
            rows.append(table.add(Row("attention_memory", f"{shape} {dtype}", "-", value, ours=ours)))
    judge(*rows)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda x: str(x).removeprefix("torch."))
def test_masked_head(dtype: torch.dtype, contest: Contest) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(POSITIONS, WIDTH, generator=generator).to(dtype).requires_grad_()
    weight = (torch.randn(CLASSES, WIDTH, generator=generator) * 0.02).to(dtype).requires_grad_()
    bias = torch.zeros(CLASSES, dtype=dtype, requires_grad=True)
    positions = torch.randperm(POSITIONS, generator=generator)[:MASKED]
    labels = torch.randint(CLASSES, (MASKED,), generator=generator)
    dense_labels = torch.full((POSITIONS,), -100).scatter(0, positions, labels)
    leaves = [hidden, weight, bias]
    rivals = {
        "dense head": _step(lambda: loss_peers.dense_head(hidden, weight, bias, dense_labels), leaves),
        "gathered, all logits": _step(
            lambda: loss_peers.gathered_head(hidden, weight, bias, positions, labels), leaves
        ),
    }
    if hasattr(torch.nn.functional, "linear_cross_entropy"):
        rivals["torch chunked"] = _step(
            lambda: loss_peers.torch_chunked(hidden, weight, bias, positions, labels), leaves
        )
    text = f"{MASKED} of {POSITIONS}, V={CLASSES:,} {str(dtype).removeprefix('torch.')}"
    timings = contest.run(
        f"head {text}",
        _step(lambda: masked_lm_loss(hidden, positions, labels, nn.Identity(), weight, bias), leaves),
        rivals,
        rounds=3,
    )
    rows = []
    for name, timing in timings.items():
        value, by_cpu = ratio(timing, contest.ours)
        cells = f"{contest.ours.seconds * 1e3:.0f} ms", f"{timing.seconds * 1e3:.0f} ms"
        key = "head_torch_chunked" if name == "torch chunked" else "head_dense"
        row = Row(key, text, name, value, by_cpu, *cells, judged=name != "gathered, all logits")
        rows.append(contest.table.add(row))
    judge(*rows)


def test_masked_head_memory(table: Table) -> None:
    sizes = (POSITIONS, MASKED, WIDTH, CLASSES)
    ours, theirs = (_memory("head", who, *sizes)[0] for who in ("ours", "dense"))
    row = Row("head_memory", f"{MASKED} of {POSITIONS}", "dense head", ours / theirs)
    row.ours, row.theirs = f"{ours:.0f} MB", f"{theirs:.0f} MB"
    judge(table.add(row))
