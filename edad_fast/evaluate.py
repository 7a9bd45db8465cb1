"""Judge a model: `python -m edad_fast.evaluate ner|mlm|speed --model DIR ...`.

Each task prints a table and writes TASK.json and TASK.md into --output_dir (default: evaluation/ in the
model's directory).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from .errors import InputError
from .files import atomic_write, write_json
from .report import record_evaluation
from .report.tables import format_table, mean_std, number

logger = logging.getLogger(__name__)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m edad_fast.evaluate", description=__doc__)
    tasks = parser.add_subparsers(dest="task", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--model", type=Path, required=True, help="directory of the model and tokenizer")
    common.add_argument("--output_dir", type=Path, help="default: evaluation/ in the model's directory")
    common.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    common.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="auto: fastest")
    common.add_argument("--num_threads", type=int, help="CPU threads; default: torch's choice")

    ner = tasks.add_parser("ner", parents=[common], help="fine-tune on named entities and score (seqeval)")
    ner.add_argument("--data", type=Path, required=True, help="folder with train, devel and test .tsv")
    ner.add_argument("--seeds", type=int, default=3, help="number of runs, with seeds 0, 1, ... (default 3)")
    ner.add_argument(
        "--protocol",
        choices=("standard", "exbert"),
        default="standard",
        help="standard: all layers, rates 5e-5 1e-4 2e-4, batch 32, 20 epochs; "
        "exbert: top 3 layers, rate 1e-5, batch 20, 3 epochs",
    )
    ner.add_argument("--epochs", type=int)
    ner.add_argument(
        "--learning_rate",
        type=float,
        nargs="+",
        help="one, or several of which the first seed takes the best on devel for all seeds",
    )
    ner.add_argument("--batch_size", type=int, help="sentences")
    ner.add_argument("--max_length", type=int, default=128, help="WordPieces; longer sentences are split")
    ner.add_argument("--untrained", action="store_true", help="the same architecture with random weights")
    ner.add_argument(
        "--ignore_unknown_labels", action="store_true", help="labels not in train count as missed"
    )
    ner.add_argument("--overwrite", action="store_true", help="discard the results in --output_dir")

    mlm = tasks.add_parser("mlm", parents=[common], help="masked-language-model loss on held-out text")
    mlm.add_argument("--data", nargs="+", required=True, help="text files or globs, as for training")
    mlm.add_argument("--overwrite", action="store_true", help="replace a result of other --data")
    mlm.add_argument("--seq_len", type=int, default=128)
    mlm.add_argument("--batch_size", type=int, default=32, help="sequences")
    mlm.add_argument("--max_tokens", type=int, help="stop after about this many tokens; default: all")
    mlm.add_argument("--seed", type=int, default=0, help="decides the masks")
    mlm.add_argument("--text_field", default="text")
    mlm.add_argument("--encoding_errors", choices=("strict", "replace"), default="strict")

    speed = tasks.add_parser("speed", parents=[common], help="size and speed against the teacher")
    speed.add_argument("--teacher", type=Path, help="directory of the model to compare with")
    speed.add_argument("--batch_size", type=int, default=32, help="sentences a batch for the throughput")
    speed.add_argument("--seq_len", type=int, default=128)
    speed.add_argument("--repeats", type=int, default=7, help="timings of each model, at least 5")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one task; return the exit status (2 for bad input)."""
    args = _parser().parse_args(argv)
    from .cli import main_guard

    return main_guard(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    try:
        {"ner": _ner, "mlm": _mlm, "speed": _speed}[args.task](args)
    except PermissionError as error:
        raise InputError(f"{error.filename}: no permission; name a folder with --output_dir") from error


def _device(args: argparse.Namespace) -> tuple[Any, str]:
    import torch
    import transformers

    from .tasks.device import resolve_device, resolve_precision

    if args.num_threads is not None:
        if args.num_threads < 1:
            raise InputError("--num_threads must be at least 1")
        torch.set_num_threads(args.num_threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for directory in (args.model, getattr(args, "teacher", None)):
        if directory is not None and not (directory / "config.json").is_file():
            raise InputError(f"{directory}: no config.json; give the directory of a saved model")
        if directory is not None and not list(directory.glob("*.safetensors")):
            raise InputError(f"{directory}: no weights (*.safetensors); give the directory of a saved model")
    device = resolve_device(args.device)
    return device, resolve_precision(args.precision, device)


def _fingerprint(paths: Sequence[Path]) -> str:
    total = hashlib.blake2b(digest_size=16)
    for path in paths:
        total.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def _model_files(model: Path) -> list[Path]:
    names = ("config.json", "tokenizer.json", "vocab.txt")
    return [
        *(model / name for name in names if (model / name).is_file()),
        *sorted(model.glob("*.safetensors")),
    ]


def _ner(args: argparse.Namespace) -> None:
    from .models import load_token_classifier
    from .tasks.device import device_name
    from .tasks.ner import NerSettings, NerTask
    from .tasks.ner_data import load_ner
    from .tasks.ner_runs import finished_runs, run_seeds, summarise
    from .vocabulary import load_tokenizer

    if args.seeds < 1:
        raise InputError("--seeds must be at least 1")
    device, precision = _device(args)
    settings = NerSettings.of_protocol(
        args.protocol,
        epochs=args.epochs,
        learning_rates=tuple(args.learning_rate) if args.learning_rate else None,
        batch_size=args.batch_size,
        max_length=args.max_length,
        precision=precision,
        untrained=args.untrained,
    )
    data = load_ner(args.data, ignore_unknown_labels=args.ignore_unknown_labels)
    name = f"ner-{args.data.resolve().name}" + ("-untrained" if args.untrained else "")
    output = args.output_dir or args.model / "evaluation" / name
    inputs = {
        "settings": json.loads(json.dumps(asdict(settings))),
        "model_fingerprint": _fingerprint(_model_files(args.model)),
        "data_fingerprint": _fingerprint(list(data.files.values())),
    }
    runs = [] if args.overwrite else finished_runs(output / "ner.json", inputs)

    def task() -> NerTask:
        model = load_token_classifier(args.model, data.labels)
        return NerTask(model, load_tokenizer(args.model), data, settings, device)

    def save() -> dict[str, Any]:
        result = {
            "task": "ner",
            "model": str(args.model),
            "data": str(args.data),
            "device_name": device_name(device),
            **inputs,
            "labels": data.labels,
            "sentences": {split: len(sentences) for split, sentences in data.splits.items()},
            "seeds": [run["seed"] for run in runs],
            "learning_rate": runs[0]["learning_rate"],
            **summarise(runs),
            "seconds": sum(run["seconds"] for run in runs),
            "runs": runs,
        }
        write_json(output / "ner.json", result)
        _write_text(output / "ner.md", f"# Named entities: {args.model}\n\n{_ner_table(result, 'markdown')}")
        return result

    # Opened before the work, so that a folder that cannot be written costs no hour.
    output.mkdir(parents=True, exist_ok=True)
    for run in run_seeds(task, args.seeds, settings.learning_rates, runs):
        runs = sorted([*runs, run], key=lambda item: item["seed"])
        save()
    result = save()
    print(f"{_ner_table(result, 'plain')}\nwritten to {output}/ner.json")
    scores = {key: mean_std(result[key]) for key in ("entity_f1", "token_macro_f1")}
    record_evaluation(args.model, name.replace("-", " ", 1), {**scores, "seeds": args.seeds})


def _ner_table(result: dict[str, Any], style: Literal["plain", "markdown"]) -> str:
    titles = {
        "entity_f1": "entity F1 (seqeval, micro)",
        "precision": "precision",
        "recall": "recall",
        "token_macro_f1": "token macro F1 (with O)",
    }
    rows = [
        [title, mean_std(result[key]), *(f"{run['test'][key]:.4f}" for run in result["runs"])]
        for key, title in titles.items()
    ]
    for name, scores in result["per_type"].items():
        per_seed = [run["test"]["per_type"].get(name, {}).get("f1", 0.0) for run in result["runs"]]
        rows.append([f"F1 of {name}", mean_std(scores["f1"]), *(f"{value:.4f}" for value in per_seed)])
    settings = result["settings"]
    note = (
        f"test scores; protocol {settings['protocol']}, {settings['epochs']} epochs, learning rate "
        f"{result['learning_rate']:g}, epoch chosen on devel, {settings['precision']}"
        + (", UNTRAINED weights" if settings["untrained"] else "")
        + f"; {result['device_name']}, {result['seconds']:.0f} s\n"
    )
    headers = ["test", "mean ± std", *(f"seed {seed}" for seed in result["seeds"])]
    return f"{format_table(headers, rows, style=style)}\n{note}"


def _mlm(args: argparse.Namespace) -> None:
    from .batches import BatchStream, build_shards
    from .corpus import expand_globs
    from .models import load_masked_lm
    from .tasks.device import device_name
    from .tasks.masked_lm import masked_lm_loss_on
    from .tasks.ner_runs import earlier_result
    from .vocabulary import load_tokenizer, vocabulary_of

    device, precision = _device(args)
    _require_mlm_head(args.model)
    earlier = (args.output_dir or args.model / "evaluation") / "mlm.json"
    inputs = {
        "data": args.data,
        "model_fingerprint": _fingerprint(_model_files(args.model)),
        **{name: getattr(args, name) for name in ("seq_len", "max_tokens", "seed")},
    }
    if not args.overwrite:
        earlier_result(earlier, inputs)
    # --data may be a folder here, as for the other tasks: all the files in it.
    sources = expand_globs([f"{name}/*" if Path(name).is_dir() else name for name in args.data])
    tokenizer = load_tokenizer(args.model)
    pieces = vocabulary_of(tokenizer)
    model: Any = load_masked_lm(args.model)
    if len(pieces) > model.config.vocab_size:
        raise InputError(
            f"{args.model}: the tokenizer has {len(pieces):,} pieces, the model {model.config.vocab_size:,} "
            "embeddings; use the tokenizer that was saved with the model"
        )
    if not 5 <= args.seq_len <= model.config.max_position_embeddings:
        raise InputError(
            f"--seq_len {args.seq_len}: must lie between 5 and {model.config.max_position_embeddings}, "
            "the model's position table"
        )
    if args.batch_size < 1:
        raise InputError("--batch_size must be at least 1")
    if args.seq_len > tokenizer.model_max_length:
        logger.warning(
            "%s was trained on at most %d tokens a sequence, --seq_len is %d",
            args.model,
            tokenizer.model_max_length,
            args.seq_len,
        )
    with tempfile.TemporaryDirectory(prefix="edad_fast-") as folder:
        shards = build_shards(
            tokenizer,
            sources,
            Path(folder) / "shards",
            text_field=args.text_field,
            encoding_errors=args.encoding_errors,
        )
        stream = BatchStream.for_tokenizer(
            tokenizer, shards, seq_len=args.seq_len, rows_per_step=args.batch_size, seed=args.seed
        )
        steps = None if args.max_tokens is None else -(-args.max_tokens // (args.seq_len * args.batch_size))
        if steps is not None and steps < 1:
            raise InputError("--max_tokens must be at least 1")
        scores = masked_lm_loss_on(
            model, stream, max_batches=steps, device=device, precision=precision, progress=True
        )
    result = {
        "task": "mlm",
        "model": str(args.model),
        **inputs,
        "vocabulary_size": len(pieces),
        "precision": precision,
        "device_name": device_name(device),
        **scores,
    }
    rows = [
        ["MLM loss per masked token", number(scores["loss"])],
        ["perplexity", number(scores["perplexity"])],
        ["masked tokens", number(scores["masked_tokens"])],
        ["tokens", number(scores["tokens"])],
        ["vocabulary", number(len(pieces))],
    ]
    note = "Losses are per WordPiece: comparable only between models of one vocabulary."
    _finish(args, "mlm", result, ["held-out text", "value"], rows, note)
    data = " ".join(Path(name).name for name in args.data)
    record_evaluation(args.model, f"mlm {data}", {key: scores[key] for key in ("loss", "masked_tokens")})


def _require_mlm_head(model: Path) -> None:
    from safetensors import safe_open

    keys: set[str] = set()
    for file in sorted(model.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as tensors:
                keys |= set(tensors.keys())
        except Exception as error:
            raise InputError(f"{file}: cannot be read ({error}); the file may be truncated") from error
    if not any(key.startswith("cls.predictions.") for key in keys):
        raise InputError(f"{model}: the weights hold no MLM head (cls.predictions); give one saved with it")


def _speed(args: argparse.Namespace) -> None:
    from .models import load_masked_lm
    from .tasks.device import device_name
    from .tasks.speed import measure_speed, weight_bytes

    device, precision = _device(args)
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
    _finish(args, "speed", result, ["encoder", *headers], rows, note)
    figures = {key: scores["student"][key] for key in lines}
    gains = {f"{key} against the teacher": f"{gain:.2f}x" for key, gain in result.get("gain", {}).items()}
    record_evaluation(args.model, f"speed {result['device_name']}", {**figures, **gains})


def _finish(
    args: argparse.Namespace,
    task: str,
    result: dict[str, Any],
    headers: list[str],
    rows: list[list[str]],
    note: str,
) -> None:
    output = args.output_dir or args.model / "evaluation"
    write_json(output / f"{task}.json", result)
    _write_text(output / f"{task}.md", format_table(headers, rows, style="markdown") + f"\n{note}\n")
    print(f"{format_table(headers, rows)}\n{note}\nwritten to {output}/{task}.json")


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
