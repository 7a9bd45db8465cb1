"""Device hours of adapt-then-distil, as others write it and as we do, and of EDAD, over the same text.

python benchmarks/device_hours.py --shape paper --device cuda --json hours.json
python benchmarks/device_hours.py --shape tiny --device cpu      # generated text, seconds

Shapes: `paper` = BERT-base (random weights), 48,180 pieces, TinyBERT4, 256 x 128 tokens a step; `minilm` =
the shared data's MiniLM teacher, 48,180 pieces, TinyBERT4, 32 x 128; `tiny` = toy models, generated text.

Every system passes once over the same documents in each of its stages; the stages' times are added. A stage
is warmed up on every shape of its batches (torch.compile included); then the systems take turns, pass by
pass. The clock starts when a pass's first batch is there; nothing is read back before the pass ends.
Peak memory is taken of each stage alone, in a process of its own: what the CUDA allocator held, or on a CPU
what the process grew by (models, optimiser and one step); a system's is that of its larger stage.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import transformers
from baselines.common import Part, Settings
from data import SHARED
from flops import count
from provenance import provenance
from workload import SHAPES, Workload

from edad_fast.errors import InputError
from edad_fast.report import format_table
from edad_fast.tasks.device import device_name, resolve_device, resolve_precision
from edad_fast.training.profiling import matrix_peak

STATUS = Path("/proc/self/status")


@dataclass
class Run:
    """What was measured of one stage: seconds of each pass; size and operations of one pass."""

    part: Part
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    tokens: int = 0
    cells: int = 0
    steps: int = 0
    flops: int = 0


class Bench:
    """Warms stages up and times passes over the text on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def warm_up(self, part: Part, times: int) -> Run:
        """Run a step of every shape `times` times; count tokens, cells and operations of a pass."""
        run = Run(part)
        first: dict[object, Any] = {}
        shapes = []
        for batch in part.batches():
            tokens, cells = part.size(batch)
            run.tokens, run.cells, run.steps = run.tokens + tokens, run.cells + cells, run.steps + 1
            shapes.append(part.shape(batch))
            first.setdefault(shapes[-1], batch)
        for batch in first.values():
            for _ in range(times):
                part.step(batch)
        flops = {shape: count(lambda batch=batch: part.step(batch)) for shape, batch in first.items()}
        run.flops = sum(flops[shape] for shape in shapes)
        part.check()
        self._wait()
        return run

    def time(self, run: Run) -> None:
        """One pass over the text."""
        batches = iter(run.part.batches())
        first = next(batches)
        gc.collect()
        self._wait()
        cpu, wall = time.process_time(), time.perf_counter()
        for batch in chain([first], batches):
            run.part.step(batch)
        self._wait()
        run.wall.append(time.perf_counter() - wall)
        run.cpu.append(time.process_time() - cpu)
        run.part.check()


def peak_memory(build: Callable[[], Part], device: torch.device) -> int:
    """Bytes of one stage at its peak: weights, optimiser and one step on the largest batch of a pass."""
    before = _resident("VmRSS")
    part = build()
    largest = max(part.batches(), key=lambda batch: part.size(batch)[1])
    part.step(largest)  # the optimiser's state is there, what is compiled is compiled
    part.check()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        STATUS.with_name("clear_refs").write_text("5")  # sets the mark of VmHWM back
    part.step(largest)
    part.check()
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident("VmHWM") - before


def _resident(name: str) -> int:
    line = next(x for x in STATUS.read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) * 1024


def probe_all(names: dict[str, int], arguments: Sequence[str]) -> dict[str, int]:
    """Peak memory of every system: that of its hungriest stage, each in a process of its own."""
    # Freed tensors go back to the system at once, so that the resident size follows what is alive.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    found = {}
    for name, stages in names.items():
        peaks = []
        for index in range(stages):
            command = [sys.executable, __file__, *arguments, "--probe", f"{name}:{index}"]
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
            peaks.append(int(done.stdout.split()[-1]))
        found[name] = max(peaks)
    return found


def figures(runs: Sequence[Run], memory: int | None, peak: float) -> dict[str, Any]:
    """A system's row: medians over the passes of its stages' added times."""
    wall = [sum(times) for times in zip(*(run.wall for run in runs), strict=True)]
    cpu = [sum(times) for times in zip(*(run.cpu for run in runs), strict=True)]
    seconds, tokens, flops = statistics.median(wall), runs[0].tokens, sum(run.flops for run in runs)
    return {
        "device_hours_per_1e9_tokens": seconds / tokens * 1e9 / 3600,
        "tokens_per_second": tokens / seconds,
        "seconds": wall,
        "cpu_seconds": cpu,
        "peak_memory_bytes": memory,
        "tflop_per_second": flops / seconds / 1e12,
        "share_of_matrix_peak": flops / seconds / peak,
        "tflop_per_million_tokens": flops / tokens / 1e6,
        "padding_share": 1 - sum(run.tokens for run in runs) / sum(run.cells for run in runs),
        "stages": {
            run.part.name: {
                "seconds": statistics.median(run.wall),
                "steps": run.steps,
                "tflop_per_million_tokens": run.flops / run.tokens / 1e6,
                "padding_share": 1 - run.tokens / run.cells,
                "note": run.part.note,
            }
            for run in runs
        },
    }


def ratios(systems: dict[str, dict[str, Any]], key: str = "seconds") -> dict[str, float]:
    """Median over the rounds of each other system's time divided by EDAD's in the same round."""
    edad = systems["edad"][key]
    return {
        name: statistics.median(a / b for a, b in zip(found[key], edad, strict=True))
        for name, found in systems.items()
        if name != "edad"
    }


def table(systems: dict[str, dict[str, Any]]) -> str:
    speed = ("h / 1e9 tokens", "tokens/s", "TFLOP / 1e6 tokens", "TFLOP/s", "of peak")
    head = ["system", *speed, "peak memory", "padding"]
    rows = []
    for name, found in systems.items():
        memory = found["peak_memory_bytes"]
        rows.append(
            [
                name,
                f"{found['device_hours_per_1e9_tokens']:.3g}",
                f"{found['tokens_per_second']:,.0f}",
                _by_stage(found, "tflop_per_million_tokens", "{:,.3g}"),
                f"{found['tflop_per_second']:.3g}",
                f"{found['share_of_matrix_peak']:.0%}",
                "-" if memory is None else f"{memory / 1e6:,.0f} MB",
                f"{found['padding_share']:.1%}",
            ]
        )
    return format_table(head, rows)


def _by_stage(found: dict[str, Any], key: str, form: str) -> str:
    stages = found["stages"]
    parts = " + ".join(form.format(stage[key]) for stage in stages.values())
    return parts if len(stages) == 1 else f"{form.format(found[key])} = {parts}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--shape", choices=list(SHAPES), default="paper")
    add("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    add("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    add("--json", type=Path, metavar="FILE", help="also write all figures there")
    add("--repeats", type=int, default=5, help="passes timed of each system (default: 5)")
    add("--steps", type=int, help="optimiser steps of a pass of our own systems; default by shape")
    add("--rows", type=int, help="rows of 128 tokens in a step; default by shape")
    add("--seq_len", type=int, default=128, help="a step keeps its tokens (default: 128)")
    add("--workers", type=int, help="loader processes (default: 4 with a GPU, else 1)")
    add("--teacher_arch", choices=("bert", "exbert"), default="bert", help="exbert: extension s3")
    add("--compile", choices=("auto", "yes", "no"), default="auto", help="composed's; auto: not for tiny")
    add("--option", action="append", default=[], metavar="NAME=VALUE", help="of edad_fast.train, for ours")
    add("--skip_memory", action="store_true", help="no peak memory, which takes seven processes")
    add("--shared", type=Path, default=SHARED, metavar="DIR", help="root of the shared data")
    add("--work", type=Path, metavar="DIR", help="keeps text, shards and teacher for the next run")
    add("--probe", help=argparse.SUPPRESS)
    return parser


def _workload(options: argparse.Namespace, device: torch.device, work: Path) -> Workload:
    shape = SHAPES[options.shape]
    tokens = (options.rows or shape.rows) * 128
    if tokens % options.seq_len:
        raise InputError(f"--seq_len {options.seq_len} does not divide the {tokens:,} tokens of a step")
    workers = options.workers
    settings = Settings(
        device=device,
        seq_len=options.seq_len,
        rows=tokens // options.seq_len,
        pairs=(),
        steps=0,
        precision=resolve_precision(options.precision, device),
        workers=(4 if device.type == "cuda" else 1) if workers is None else workers,
        compile=options.shape != "tiny" if options.compile == "auto" else options.compile == "yes",
    )
    ours = dict(pair.split("=", 1) for pair in options.option)
    return Workload(
        options.shape,
        work / options.shape,
        options.shared,
        settings,
        options.steps or shape.steps,
        {"teacher_arch": options.teacher_arch, **ours},
    )


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print, write; returns what the JSON file holds.

    Raises:
        InputError: shared data or device absent, sizes that do not fit.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        device = resolve_device(options.device)
        workload = _workload(options, device, work)
        if options.probe:
            name, index = options.probe.split(":")
            print(peak_memory(workload.systems[name][int(index)], device))
            return {}
        memory: dict[str, int] = {}
        if not options.skip_memory:
            stages = {name: len(parts) for name, parts in workload.systems.items()}
            memory = probe_all(stages, [*arguments, "--work", str(work)])
        report = _measure(options, workload, memory)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(f"saved: {options.json}")
    print(report["table"])
    for name, value in report["ratios"].items():
        print(f"{name} / edad: {value:.3f}")
    return report


def _measure(options: argparse.Namespace, workload: Workload, memory: dict[str, int]) -> dict[str, Any]:
    settings, device = workload.settings, workload.settings.device
    bench = Bench(device)
    times = SHAPES[options.shape].warm_up
    runs = {
        name: [bench.warm_up(build(), times) for build in builds] for name, builds in workload.systems.items()
    }
    tokens = {run.tokens for parts in runs.values() for run in parts}
    if len(tokens) != 1:
        raise ValueError(f"the systems did not read the same text: {sorted(tokens)} tokens")
    for _ in range(options.repeats):
        for parts in runs.values():
            for run in parts:
                bench.time(run)
    peak = matrix_peak(device, torch.bfloat16 if settings.precision == "bf16" else torch.float32)
    systems = {name: figures(parts, memory.get(name), peak) for name, parts in runs.items()}
    return {
        "kind": "device_hours",
        **provenance(device),
        "shape": options.shape,
        "seq_len": settings.seq_len,
        "rows": settings.rows,
        "teacher_arch": options.teacher_arch,
        "vocabulary": len(workload.data.tokenizer),
        "tokens": tokens.pop(),
        "repeats": options.repeats,
        "precision": settings.precision,
        "compile": settings.compile,
        "options": options.option,
        "device_name": device_name(device),
        "matrix_peak_tflop_per_second": peak / 1e12,
        "systems": systems,
        "ratios": ratios(systems),
        "cpu_ratios": ratios(systems, "cpu_seconds"),
        "table": table(systems),
    }


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("edad_fast").setLevel(logging.ERROR)
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
