"""`evaluate sentiment`: a text classifier as it is on a domain, or any model fine-tuned on it."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import write_json
from ..report import record_evaluation
from ..report.tables import format_table, mean_std
from .common import Subparsers, check_seeds, fingerprint, finish, model_files, prepare_device, write_text

_TITLES = {"accuracy": "accuracy", "macro_f1": "macro F1"}


def add_parser(tasks: Subparsers, common: argparse.ArgumentParser) -> None:
    """Add the flags of `sentiment` to those that all tasks share."""
    parser = tasks.add_parser(
        "sentiment", parents=[common], help="text classification: as it is, or with --fine_tune"
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="folder or file of labelled texts",
    )
    parser.add_argument("--text_field", default="", help="column or key of the text")
    parser.add_argument("--label_field", default="", help="column or key of the class")
    parser.add_argument("--encoding_errors", choices=("strict", "replace"), default="strict")
    parser.add_argument("--fine_tune", action="store_true", help="train on train, choose on devel")
    parser.add_argument("--split", choices=("devel", "test"), default="test", help="to score as it is")
    parser.add_argument("--seeds", type=int, default=3, help="runs with --fine_tune (default 3)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="first seed of --fine_tune (default 0)"
    )
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument(
        "--learning_rate",
        type=float,
        nargs="+",
        default=[5e-5, 1e-4, 2e-4],
        help="one, or several of which the first seed takes the best on devel for all seeds",
    )
    parser.add_argument("--batch_size", type=int, default=32, help="texts")
    parser.add_argument("--max_length", type=int, default=128, help="WordPieces read of a text")
    parser.add_argument("--untrained", action="store_true", help="the same architecture with random weights")
    parser.add_argument("--overwrite", action="store_true", help="discard the results in --output_dir")


def run(args: argparse.Namespace) -> None:
    """Score the classifier in --model, or fine-tune over the seeds that --output_dir lacks."""
    from ..models import classifier_labels
    from ..tasks.labelled_text import load_texts
    from ..tasks.sentiment import SentimentSettings

    check_seeds(args)
    device, precision = prepare_device(args)
    settings = SentimentSettings(
        epochs=args.epochs,
        learning_rates=tuple(args.learning_rate),
        batch_size=args.batch_size,
        max_length=args.max_length,
        precision=precision,
        untrained=args.untrained,
    )
    data = load_texts(
        args.data,
        text_field=args.text_field,
        label_field=args.label_field,
        encoding_errors=args.encoding_errors,
    )
    inputs = {
        "settings": json.loads(json.dumps(asdict(settings))),
        "model_fingerprint": fingerprint(model_files(args.model)),
        "data_fingerprint": data.fingerprint,
    }
    if args.fine_tune:
        _fine_tune(args, settings, data, {"seed": args.seed, **inputs}, device)
        return
    labels = classifier_labels(args.model)
    if not labels or args.untrained:
        raise InputError(f"{args.model}: no text classifier; give --fine_tune to train a head on --data")
    _as_it_is(args, settings, data, labels, inputs, device)


def _as_it_is(
    args: argparse.Namespace, settings: Any, data: Any, labels: list[str], inputs: dict[str, Any], device: Any
) -> None:
    from ..models import load_text_classifier
    from ..tasks.device import device_name
    from ..tasks.sentiment import SentimentTask
    from ..vocabulary import load_tokenizer

    model = load_text_classifier(args.model, labels)
    task = SentimentTask(model, load_tokenizer(args.model), data, labels, settings, device)
    scores = task.score(args.split)
    name = f"sentiment-{args.data.resolve().stem}"
    args.output_dir = args.output_dir or args.model / "evaluation" / name
    result = {
        "task": "sentiment",
        "model": str(args.model),
        "data": str(args.data),
        "device_name": device_name(device),
        **inputs,
        "labels": labels,
        "split": args.split,
        "texts": {split: len(part) for split, part in data.splits.items()},
        **scores,
    }
    rows = [[title, f"{scores[key]:.4f}"] for key, title in _TITLES.items()]
    note = f"{len(data.splits[args.split])} {args.split} texts; no training; {device_name(device)}"
    finish(args, "sentiment", result, [args.split, "score"], rows, note)
    record_evaluation(args.model, f"{name.replace('-', ' ', 1)} {args.split}", scores)


def _fine_tune(
    args: argparse.Namespace, settings: Any, data: Any, inputs: dict[str, Any], device: Any
) -> None:
    from ..models import fresh_parts, load_text_classifier
    from ..tasks.device import device_name
    from ..tasks.ner_runs import finished_runs, over, run_seeds
    from ..tasks.sentiment import SentimentTask
    from ..vocabulary import load_tokenizer

    name = f"sentiment-{args.data.resolve().stem}-fine-tuned" + ("-untrained" if args.untrained else "")
    output = args.output_dir or args.model / "evaluation" / name
    file = output / "sentiment.json"
    runs = [] if args.overwrite else finished_runs(file, inputs)

    def task() -> SentimentTask:
        model = load_text_classifier(args.model, data.labels)
        return SentimentTask(
            model, load_tokenizer(args.model), data, data.labels, settings, device, fresh_parts(args.model)
        )

    def save() -> dict[str, Any]:
        result = {
            "task": "sentiment",
            "model": str(args.model),
            "data": str(args.data),
            "device_name": device_name(device),
            **inputs,
            "labels": data.labels,
            "texts": {split: len(part) for split, part in data.splits.items()},
            "seeds": [run["seed"] for run in runs],
            "learning_rate": runs[0]["learning_rate"],
            **{key: over([run["test"][key] for run in runs]) for key in _TITLES},
            "seconds": sum(run["seconds"] for run in runs),
            "runs": runs,
        }
        write_json(file, result)
        title = f"# Text classification: {args.model}"
        write_text(output / "sentiment.md", f"{title}\n\n{_table(result, 'markdown')}")
        return result

    output.mkdir(
        parents=True, exist_ok=True
    )  # before the work: a folder that cannot be written costs no hour
    for run in run_seeds(task, args.seeds, settings.learning_rates, runs, first=args.seed):
        runs = sorted([*runs, run], key=lambda item: item["seed"])
        save()
    result = save()
    print(f"{_table(result, 'plain')}\nwritten to {file}")
    scores = {key: mean_std(result[key]) for key in _TITLES}
    record_evaluation(args.model, name.replace("-", " ", 1), {**scores, "seeds": args.seeds})


def _table(result: dict[str, Any], style: Any) -> str:
    rows = [
        [title, mean_std(result[key]), *(f"{run['test'][key]:.4f}" for run in result["runs"])]
        for key, title in _TITLES.items()
    ]
    settings = result["settings"]
    note = (
        f"{result['texts']['test']} test texts; {settings['epochs']} epochs, learning rate "
        f"{result['learning_rate']:g}, epoch chosen on devel, {settings['precision']}"
        + (", UNTRAINED weights" if settings["untrained"] else "")
        + f"; {result['device_name']}, {result['seconds']:.0f} s\n"
    )
    headers = ["test", "mean ± std", *(f"seed {seed}" for seed in result["seeds"])]
    return f"{format_table(headers, rows, style=style)}\n{note}"
