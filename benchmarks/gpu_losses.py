"""The losses on a GPU against ordinary PyTorch, forward and backward; one JSON file in benchmarks/results.

python benchmarks/gpu_losses.py              # on a CUDA GPU, some minutes
python benchmarks/gpu_losses.py --dry_run    # toy sizes on the CPU, Triton interpreted: figures mean nothing

Each case: median, 20th and 80th percentile of the milliseconds of every contender, taken in turn round by
round; peak memory beyond the inputs; bytes and operations per second of ours, as parts of what plain copying
and a large bf16 product reach in the same run. A contender that fails or is not installed is listed with the
reason.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if "--dry_run" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported

import loss_peers
import torch
from loss_peers import Loss, attention_inputs
from provenance import provenance
from torch import Tensor, nn

from edad_fast.kernels import attention_score_mse, hidden_state_mse, logit_kl, masked_lm_loss, relation_kl

RESULTS = Path(__file__).resolve().parent / "results"
Call = Callable[[], object]


class Bench:
    """Times contenders in turn on one device."""

    def __init__(self, device: str, rounds: int, dry_run: bool) -> None:
        self.device, self.rounds, self.dry_run = torch.device(device), rounds, dry_run
        self.gpu = self.device.type == "cuda"
        # Written between rounds, larger than any cache, so that inputs come from memory.
        self.flush = torch.empty(256 << 20, dtype=torch.int8, device=device) if self.gpu else None

    def milliseconds(self, call: Call) -> float:
        if self.flush is None:
            start = time.perf_counter()
            call()
            return (time.perf_counter() - start) * 1e3
        self.flush.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)

    def peak(self, call: Call) -> int | None:
        """Bytes beyond what is allocated before; None without a GPU."""
        if not self.gpu:
            return None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def run(self, name: str, contenders: dict[str, Call], **facts: Any) -> dict[str, Any]:
        """Figures of a case; a contender that raises is kept with its error."""
        found: dict[str, Any] = {}
        ready = {}
        for who, call in contenders.items():
            try:
                for _ in range(1 if self.dry_run else 5):
                    call()
                found[who] = {"peak_bytes": self.peak(call)}
                ready[who] = call
            except Exception as error:  # another contender's failure is a figure too
                lines = str(error).splitlines()
                found[who] = {"error": f"{type(error).__name__}: {lines[0] if lines else ''}"}
        times: dict[str, list[float]] = {who: [] for who in ready}
        for _ in range(self.rounds):
            for who, call in ready.items():
                times[who].append(self.milliseconds(call))
        for who, values in times.items():
            found[who] |= {"median_ms": statistics.median(values), **_percentiles(values), "all_ms": values}
        print(
            name,
            {who: round(x["median_ms"], 4) if "median_ms" in x else x["error"] for who, x in found.items()},
        )
        return {"case": name, **facts, "contenders": found}


def _percentiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {f"p{p}_ms": ordered[min(len(ordered) - 1, p * len(ordered) // 100)] for p in (20, 80)}


def _step(loss: Loss, leaves: list[Tensor]) -> Call:
    def run() -> object:
        for leaf in leaves:
            leaf.grad = None
        return loss().backward()

    return run


def ceilings(bench: Bench) -> dict[str, float]:
    """Bytes per second of copying, operations per second of a bf16 product, in this run."""
    size, edge = ((1 << 30), 8192) if bench.gpu else ((1 << 20), 64)
    source = torch.zeros(size, dtype=torch.int8, device=bench.device)
    target = torch.empty_like(source)
    left = torch.randn(edge, edge, device=bench.device, dtype=torch.bfloat16)
    copying = statistics.median(bench.milliseconds(lambda: target.copy_(source)) for _ in range(9))
    product = statistics.median(bench.milliseconds(lambda: left @ left) for _ in range(9))
    return {"bytes_per_s": 2 * size / copying * 1e3, "flop_per_s": 2 * edge**3 / product * 1e3}


def _reached(case: dict[str, Any], ours: list[str], limits: dict[str, float]) -> None:
    """Adds bytes and operations per second, and ratios to ours, to a case."""
    best = [case["contenders"][x]["median_ms"] for x in ours if "median_ms" in case["contenders"].get(x, {})]
    for who, figures in case["contenders"].items():
        if "median_ms" not in figures:
            continue
        if who in ours:
            for unit, amount in (("bytes_per_s", case["least_bytes"]), ("flop_per_s", case["flop"])):
                figures[unit] = amount / figures["median_ms"] * 1e3
                figures[f"part_of_{unit}"] = figures[unit] / limits[unit]
        elif best:
            figures["times_our_best"] = figures["median_ms"] / min(best)


def attention(bench: Bench, limits: dict[str, float], quick: bool) -> list[dict[str, Any]]:
    """K1: one layer at several lengths, and four layers of the training step."""
    shapes = [
        (256, 12, 128, 64, 26, 4),
        (256, 12, 128, 64, 26, 1),
        (64, 12, 512, 64, 26, 1),
        (16, 12, 2048, 64, 64, 1),
    ]
    shapes += [(512, 12, 64, 64, 26, 1), (128, 12, 256, 64, 26, 1), (8, 12, 4096, 64, 64, 1)]
    if bench.dry_run:
        shapes = [(2, 2, 24, 16, 10, 4), (2, 2, 24, 16, 10, 1)]
    elif quick:
        shapes = shapes[:2]
    cases = []
    for *shape, layers in shapes:
        batch, heads, length, teacher, student = shape
        made = [
            attention_inputs(tuple(shape), torch.bfloat16, str(bench.device), seed) for seed in range(layers)
        ]
        mask = made[0][1]
        lists = [[tensors[i] for tensors, _ in made] for i in range(4)]
        leaves = lists[0] + lists[1]

        def each(loss: Loss, lists: list[list[Tensor]] = lists, mask: Tensor = mask) -> Tensor:
            return sum(loss(*x, mask) for x in zip(*lists, strict=True))

        ways = [(b, a) for b in ("triton", "cuda", "chunked") for a in ("direct", "linear")]
        ours = {
            f"{b} {a}": _step(
                lambda b=b, a=a, lists=lists, mask=mask: attention_score_mse(
                    *lists, mask, backend=b, algorithm=a
                ),
                leaves,
            )
            for b, a in ways
            if (b, a) != ("cuda", "linear")
        }
        ours["auto"] = _step(lambda lists=lists, mask=mask: attention_score_mse(*lists, mask), leaves)
        torch._dynamo.reset()
        compiled = torch.compile(loss_peers.materialised)
        peers = {
            "eager": loss_peers.materialised,
            "bmm linear": loss_peers.bmm_linear,
            "row blocks, recomputed": loss_peers.relation_rows,
        }
        if not bench.dry_run:
            peers["torch.compile"] = compiled
        theirs = {who: _step(lambda loss=loss, each=each: each(loss), leaves) for who, loss in peers.items()}
        elements = layers * batch * heads * length
        case = bench.run(
            f"attention {layers} x {tuple(shape)}",
            {**ours, **theirs},
            # Inputs read once, gradients written once.
            least_bytes=2 * elements * (2 * (student + teacher) + 2 * student),
            flop=2 * elements * length * (student + teacher + 2 * student),
        )
        _reached(case, list(ours), limits)
        cases.append(case)
    return cases


def hidden(bench: Bench, limits: dict[str, float], quick: bool) -> list[dict[str, Any]]:
    """K2: all matched hidden states of the training step, one projection."""
    rows, student, teacher, layers = (40, 12, 24, 2) if bench.dry_run else (32_768, 312, 768, 5)
    make = lambda *shape: torch.randn(*shape, device=bench.device).to(torch.bfloat16)  # noqa: E731
    states = [make(rows, student).requires_grad_() for _ in range(layers)]
    targets = [make(rows, teacher) for _ in range(layers)]
    weight = (make(teacher, student) * 0.02).requires_grad_()
    bias = make(teacher).requires_grad_()
    leaves = [*states, weight, bias]
    ours = {
        backend: _step(lambda b=backend: hidden_state_mse(states, targets, weight, bias, backend=b), leaves)
        for backend in ("triton", "cuda", "chunked", "auto")
    }

    def plain(loss: Loss) -> Tensor:
        return sum(loss(h, t, weight, bias) for h, t in zip(states, targets, strict=True))

    theirs = {"cuBLAS + MSE": _step(lambda: plain(loss_peers.projected_mse), leaves)}
    if not bench.dry_run:
        torch._dynamo.reset()
        compiled = torch.compile(loss_peers.projected_mse)
        theirs["torch.compile"] = _step(lambda: plain(compiled), leaves)
    case = bench.run(
        f"hidden {layers} x ({rows}, {student} -> {teacher})",
        {**ours, **theirs},
        least_bytes=2 * layers * rows * (2 * student + teacher),
        flop=6 * layers * rows * student * teacher,
    )
    _reached(case, list(ours), limits)
    return [case]


def _liger(hidden: Tensor, weight: Tensor, bias: Tensor, positions: Tensor, labels: Tensor) -> Tensor:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss: Tensor = LigerFusedLinearCrossEntropyLoss()(weight, hidden[positions], labels, bias)
    return loss


def head(bench: Bench, limits: dict[str, float], quick: bool) -> list[dict[str, Any]]:
    """K3: the decoder and cross-entropy on the masked positions, teacher's and student's width."""
    cases = []
    for width in (16,) if bench.dry_run else (768, 312):
        rows, masked, classes = (64, 10, 50) if bench.dry_run else (32_768, 4915, 48_180)
        states = torch.randn(rows, width, device=bench.device).to(torch.bfloat16).requires_grad_()
        weight = (torch.randn(classes, width, device=bench.device) * 0.02).to(torch.bfloat16).requires_grad_()
        bias = torch.zeros(classes, device=bench.device, dtype=torch.bfloat16, requires_grad=True)
        positions = torch.randperm(rows, device=bench.device)[:masked]
        labels = torch.randint(classes, (masked,), device=bench.device)
        dense = torch.full((rows,), -100, device=bench.device).scatter(0, positions, labels)
        leaves = [states, weight, bias]
        ours = {
            backend: _step(
                lambda b=backend, h=states, w=weight, x=bias, p=positions, y=labels: masked_lm_loss(
                    h, p, y, nn.Identity(), w, x, backend=b
                ),
                leaves,
            )
            for backend in ("triton", "chunked", "auto")
        }
        gathered = (states, weight, bias, positions, labels)
        peers: dict[str, Loss] = {
            "plain gather": loss_peers.gathered_head,
            "torch chunked": loss_peers.torch_chunked,
            "Liger": _liger,
        }
        theirs = {who: _step(lambda f=f, x=gathered: f(*x), leaves) for who, f in peers.items()}
        theirs["dense head"] = _step(
            lambda x=(states, weight, bias, dense): loss_peers.dense_head(*x), leaves
        )
        case = bench.run(
            f"head {masked} of {rows}, {width}, V={classes}",
            {**ours, **theirs},
            least_bytes=2 * (2 * masked * width + 2 * classes * width),
            flop=6 * masked * width * classes,
        )
        _reached(case, list(ours), limits)
        cases.append(case)
    return cases


def _plain(bench: Bench, loss: Loss, leaves: list[Tensor], *inputs: Any) -> dict[str, Call]:
    """Ordinary PyTorch, and the same compiled."""
    calls = {"eager": _step(lambda: loss(*inputs), leaves)}
    if not bench.dry_run:
        torch._dynamo.reset()
        compiled = torch.compile(loss)
        calls["torch.compile"] = _step(lambda: compiled(*inputs), leaves)
    return calls


def relation(bench: Bench, limits: dict[str, float], quick: bool) -> list[dict[str, Any]]:
    """One kind of relations: the training step's heads, and MiniLMv2's 48 of widths 768 and 384."""
    shapes = [(256, 12, 128, 64, 26), (256, 48, 128, 16, 8), (64, 12, 512, 64, 26), (64, 48, 512, 16, 8)]
    if bench.dry_run:
        shapes = [(2, 2, 24, 16, 10)]
    elif quick:
        shapes = shapes[:2]
    cases = []
    for shape in shapes:
        batch, heads, length, teacher, student = shape
        (own, _, target, _), mask = attention_inputs(shape, torch.bfloat16, str(bench.device))
        ours = {
            b: _step(lambda b=b, x=own, t=target, m=mask: relation_kl(x, t, m, backend=b), [own])
            for b in ("triton", "chunked", "auto")
        }
        pairs = batch * heads * length * length
        case = bench.run(
            f"relation {shape}",
            {**ours, **_plain(bench, loss_peers.relation_maps, [own], own, target, mask)},
            least_bytes=2 * batch * heads * length * (2 * student + teacher),
            flop=2 * pairs * (2 * student + teacher),
        )
        _reached(case, list(ours), limits)
        cases.append(case)
    return cases


def logits(bench: Bench, limits: dict[str, float], quick: bool) -> list[dict[str, Any]]:
    """Predictions of a classifier, of a tagger, and over the vocabulary."""
    shapes = [(32, 2), (32_768, 9), (4096, 48_180)] if not bench.dry_run else [(5, 2), (3, 70)]
    cases = []
    for rows, classes in shapes:
        make = lambda: torch.randn(rows, classes, device=bench.device).to(torch.bfloat16)  # noqa: E731, B023
        own, target = make().requires_grad_(), make()
        ours = {
            b: _step(lambda b=b, x=own, t=target: logit_kl(x, t, temperature=2.0, backend=b), [own])
            for b in ("triton", "chunked", "auto")
        }
        case = bench.run(
            f"logits {rows} x {classes}",
            {**ours, **_plain(bench, loss_peers.softened_kl, [own], own, target, 2.0)},
            least_bytes=2 * 3 * rows * classes,
            flop=10 * rows * classes,
        )
        _reached(case, list(ours), limits)
        cases.append(case)
    return cases


CASES = {
    "attention": attention,
    "hidden": hidden,
    "head": head,
    "relation": relation,
    "logits": logits,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry_run", action="store_true", help="toy sizes on the CPU")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--only", choices=list(CASES), help="one kind of loss")
    parser.add_argument("--quick", action="store_true", help="the training step's shapes only")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/losses-DEVICE.json")
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        parser.error("no CUDA GPU: use --dry_run to see that the script works")
    device = "cpu" if options.dry_run else "cuda"
    torch.manual_seed(0)
    bench = Bench(device, 1 if options.dry_run else options.rounds, options.dry_run)
    limits = ceilings(bench)
    cases = []
    for kind, function in CASES.items():
        if options.only in (None, kind):
            cases += function(bench, limits, options.quick)
    content = {
        "kind": "losses",
        "dry_run": options.dry_run,
        **provenance(bench.device),
        "rounds": bench.rounds,
        "ceilings": limits,
        "cases": cases,
    }
    name = "dry-run" if options.dry_run else content["device"].replace(" ", "-")
    default = RESULTS / f"losses-{name}.json"
    path = options.output or default
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"saved: {path}")


if __name__ == "__main__":
    main()
