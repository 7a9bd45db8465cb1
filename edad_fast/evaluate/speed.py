"""`evaluate speed`: size and speed against the teacher."""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..report import record_evaluation
from ..report.tables import format_table, number
from .common import Subparsers, finish, prepare_device

logger = logging.getLogger(__name__)


def add_parser(tasks: Subparsers, common: argparse.ArgumentParser) -> None:
    """Add the flags of `speed` to those that all tasks share."""
    parser = tasks.add_parser("speed", parents=[common], help="size and speed against the teacher")
    parser.add_argument("--teacher", type=Path, help="directory of the model to compare with")
    parser.add_argument("--batch_size", type=int, default=32, help="sentences a batch for the throughput")
    parser.add_argument("--seq_len", type=int, default=128)
    parser.add_argument(
        "--grid",
        action="store_true",
        help="also on 1 and 2 CPU threads in fp32, bf16, int8 and onnxruntime's int8, and on CUDA",
    )
    parser.add_argument("--repeats", type=int, default=7, help="timings of each model, at least 5")


def run(args: argparse.Namespace) -> None:
    """Measure the model, and the teacher beside it."""
    from ..models import load_masked_lm
    from ..tasks.device import device_name
    from ..tasks.speed import encoder_of, measure_speed, weight_bytes

    device, precision = prepare_device(args)
    if args.repeats < 5 or args.batch_size < 1 or args.seq_len < 1:
        raise InputError("--repeats must be at least 5, --batch_size and --seq_len at least 1")
    directories = {"student": args.model} | ({"teacher": args.teacher} if args.teacher else {})
    models = {name: load_masked_lm(directory) for name, directory in directories.items()}
    scores = measure_speed(
        models,
        device=device,
        precision=precision,
        batch_size=args.batch_size,
        length=args.seq_len,
        repeats=args.repeats,
    )
    for name, directory in directories.items():
        scores[name] |= {"directory": str(directory), "weight_bytes": weight_bytes(directory)}
    result: dict[str, Any] = {
        "task": "speed",
        "batch_size": args.batch_size,
        "seq_len": args.seq_len,
        "repeats": args.repeats,
        "precision": precision,
        "device_name": device_name(device),
        **scores,
    }
    lines = {
        "parameters": ("parameters", False),
        "weight_bytes": ("weight file, bytes", False),
        "sentences_per_second": (f"sentences/s, batch {args.batch_size} x {args.seq_len} tokens", True),
        "latency_ms": (f"latency of one sentence of {args.seq_len} tokens, ms", False),
    }
    rows = [[title, *(number(scores[name][key]) for name in scores)] for key, (title, _) in lines.items()]
    headers = [args.model.name or str(args.model)]
    if args.teacher:
        headers += [args.teacher.name or str(args.teacher), "gain"]
        result["gain"] = {
            key: scores["student"][key] / scores["teacher"][key]
            if higher_is_better
            else scores["teacher"][key] / scores["student"][key]
            for key, (_, higher_is_better) in lines.items()
        }
        for row, gain in zip(rows, result["gain"].values(), strict=True):
            row.append(f"{gain:.2f}x")
    note = f"Medians of {args.repeats} interleaved timings; {precision}; {result['device_name']}."
    if not args.grid:
        finish(args, "speed", result, ["encoder", *headers], rows, note)
    else:
        encoders = {name: encoder_of(model) for name, model in models.items()}
        result["grid"] = _measure_grid(encoders, args)
        first = f"{format_table(['encoder', *headers], rows, style='markdown')}\n{note}"
        headers, rows, note = _grid_table(result["grid"], args)
        finish(args, "speed", result, headers, rows, f"{note}\n\n{first}")
    figures = {key: scores["student"][key] for key in lines}
    gains = {f"{key} against the teacher": f"{gain:.2f}x" for key, gain in result.get("gain", {}).items()}
    record_evaluation(args.model, f"speed {result['device_name']}", {**figures, **gains})


def _measure_grid(encoders: dict[str, Any], args: argparse.Namespace) -> list[dict[str, Any]]:
    from ..tasks.speed_grid import measure_grid

    with tempfile.TemporaryDirectory(prefix="edad_fast-") as folder:
        return measure_grid(
            encoders,
            batch_size=args.batch_size,
            length=args.seq_len,
            repeats=args.repeats,
            engines=_onnx_engine(Path(folder)),
        )


def _onnx_engine(folder: Path) -> dict[str, Any]:
    """onnxruntime's int8 as an engine of `measure_grid`, where the extra `onnx` is installed."""
    import torch

    from ..export.onnx_model import (
        OneOutput,
        export_onnx,
        open_session,
        quantise_int8,
        require_onnx,
        run_session,
    )

    try:
        require_onnx()
    except InputError as error:
        logger.warning("onnxruntime is left out: %s", error)
        return {}

    def engine(name: str, encoder: Any, threads: int) -> tuple[Any, int]:
        file = folder / f"{name}_int8.onnx"
        if not file.exists():
            model = OneOutput(encoder, "last_hidden_state")
            export_onnx(model, folder / "fp32.onnx", vocab_size=encoder.config.vocab_size)
            quantise_int8(folder / "fp32.onnx", file)
        session = open_session(file, threads)

        def runner(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(run_session(session, (ids, mask, torch.zeros_like(ids))))

        return runner, file.stat().st_size

    return {"int8, onnxruntime": engine}


def _grid_table(
    grid: list[dict[str, Any]], args: argparse.Namespace
) -> tuple[list[str], list[list[str]], str]:
    """Headers, rows and note; with a teacher each figure stands beside the teacher's in the same format."""
    found = {(row["model"], row["device"], row["threads"], row["format"]): row for row in grid}
    headers = ["device", "format"]
    figures = {
        "sentences_per_second": ("sentences/s", True, 1.0),
        "latency_ms": ("latency ms", False, 1.0),
        "weight_bytes": ("MB", False, 1e-6),
    }
    for title, better_high, _ in figures.values():
        headers.append(title)
        if args.teacher:
            headers += [f"teacher {title}", "higher" if better_high else "smaller"]
    headers.append("cosine to fp32")
    table = []
    for (model, device, threads, name), row in found.items():
        if model != "student":
            continue
        cells = [f"{device}, {threads} thread{'s' * (threads > 1)}" if threads else device, name]
        other = found.get(("teacher", device, threads, name))
        for key, (_, better_high, unit) in figures.items():
            cells.append(number(float(row[key] * unit)))
            if other:
                ratio = row[key] / other[key]
                cells += [number(float(other[key] * unit)), f"{ratio if better_high else 1 / ratio:.2f}x"]
        table.append([*cells, f"{row['cosine_to_fp32']:.5f}"])
    note = (
        f"Encoders without heads; batch {args.batch_size} x {args.seq_len} tokens, latency of one sentence; "
        f"medians of {args.repeats} interleaved timings. int8: linear layers, dynamic quantisation; "
        "onnxruntime's also the embeddings. Cosine: mean over tokens, of random ids."
    )
    return headers, table, note
