"""`export onnx`: model.onnx with free batch size and length, and model_int8.onnx, checked in onnxruntime."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from .onnx_model import OneOutput

# Task: output, and what the weights must have for it.
TASKS = {
    "masked_lm": ("logits", "cls.predictions."),
    "feature_extraction": ("last_hidden_state", ""),
    "token_classification": ("logits", "classifier."),
    "sequence_classification": ("logits", "classifier."),
}
_BY_ARCHITECTURE = {
    "ForMaskedLM": "masked_lm",
    "ForPreTraining": "masked_lm",
    "ForTokenClassification": "token_classification",
    "ForSequenceClassification": "sequence_classification",
}


def add_parser(formats: argparse._SubParsersAction[Any], common: argparse.ArgumentParser) -> None:
    """Add the flags of `onnx`."""
    parser = formats.add_parser("onnx", parents=[common], help="for onnxruntime; also in int8")
    parser.add_argument("--output_dir", type=Path, help="default: onnx/ in the model's directory")
    parser.add_argument("--task", choices=list(TASKS), help="default: what the model was saved for")
    parser.add_argument("--int8", action="store_true", help="also model_int8.onnx (dynamic quantisation)")
    parser.add_argument(
        "--tolerance", type=float, default=1e-3, help="largest difference to PyTorch, absolute (default 1e-3)"
    )
    parser.add_argument(
        "--min_cosine", type=float, default=0.95, help="of int8 outputs to PyTorch's, mean (default 0.95)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export in --output_dir")


def task_of(model: Path) -> str:
    """The task that the model in this directory was saved for."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    for name in config.get("architectures") or []:
        for ending, task in _BY_ARCHITECTURE.items():
            if name.endswith(ending):
                return task
    return "feature_extraction"


def load_for(model: Path, task: str) -> tuple[OneOutput, Any]:
    """The model in evaluation mode with the head of `task`, and its configuration.

    Raises:
        InputError: the weights lack the head, or an exBERT was asked for a classifier.
    """
    from ..models import load_classifier, load_encoder, load_masked_lm, require_weights
    from .onnx_model import OneOutput

    output, prefix = TASKS[task]
    require_weights(model, prefix, f"head for --task {task}")
    if task == "masked_lm":
        loaded: Any = load_masked_lm(model)
    elif task == "feature_extraction":
        loaded = load_encoder(model)
    else:
        loaded = load_classifier(model, "token" if task == "token_classification" else "sequence")
    return OneOutput(loaded, output), loaded.config


def run(args: argparse.Namespace) -> None:
    """Export, check against PyTorch, and only then put the files in place."""
    import torch
    import transformers

    from ..files import atomic_dir, write_json
    from ..report.tables import format_table
    from ..vocabulary import load_tokenizer, save_tokenizer
    from .onnx_model import differences, export_onnx, open_session, quantise_int8, require_onnx

    require_onnx()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if not (args.model / "config.json").is_file():
        raise InputError(f"{args.model}: no config.json; give the directory of a saved model")
    output = args.output_dir or args.model / "onnx"
    report = output / "export.json"
    if output.exists() and not (args.overwrite and report.is_file()):
        way_out = "give --overwrite to replace it" if report.is_file() else "name a new --output_dir"
        raise InputError(f"{output}: is there already; {way_out}")
    task = args.task or task_of(args.model)
    model, config = load_for(args.model, task)
    tokenizer = load_tokenizer(args.model)
    positions = config.max_position_embeddings
    shapes = [(1, 1), (1, positions), (3, min(5, positions)), (4, min(33, positions))]
    options = {"vocab_size": config.vocab_size}
    rows, results = [], {}
    with atomic_dir(output) as folder:
        export_onnx(model, folder / "model.onnx", **options)
        files = ["model.onnx"]
        if args.int8:
            quantise_int8(folder / "model.onnx", folder / "model_int8.onnx")
            files.append("model_int8.onnx")
        for name in files:
            found = differences(model, open_session(folder / name), shapes=shapes, **options)
            size = (folder / name).stat().st_size
            results[name] = {**found, "bytes": size}
            rows.append([name, f"{size:,}", f"{found['max_abs_difference']:.2e}", f"{found['cosine']:.5f}"])
        headers = ["file", "bytes", "max abs difference to PyTorch", "cosine"]
        sizes = ", ".join(f"{batch} x {length}" for batch, length in shapes)
        print(f"{format_table(headers, rows)}task {task}; inputs {sizes}, with and without padding")
        # Not <=, so that NaN is refused, too.
        if not results["model.onnx"]["max_abs_difference"] <= args.tolerance:
            raise InputError(
                f"{args.model}: model.onnx differs from PyTorch by more than --tolerance {args.tolerance:g}; "
                f"nothing was written (torch {torch.__version__}, transformers {transformers.__version__})"
            )
        if args.int8 and not results["model_int8.onnx"]["cosine"] >= args.min_cosine:
            raise InputError(
                f"{args.model}: int8 outputs have a cosine below --min_cosine {args.min_cosine:g} to "
                "PyTorch's; nothing was written; leave --int8 out"
            )
        (folder / "config.json").write_bytes((args.model / "config.json").read_bytes())
        save_tokenizer(tokenizer, folder)
        write_json(folder / "export.json", {"task": task, "output": model.output, "files": results})
    print(f"written to {output}")
