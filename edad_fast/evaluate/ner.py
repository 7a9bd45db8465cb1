"""`evaluate ner`: fine-tune on named entities, one run a seed, and score with seqeval."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import InputError
from ..files import write_json
from ..report import record_evaluation
from ..report.tables import format_table, mean_std
from ..tasks.ner_schemes import SCHEMES
from .common import Subparsers, check_seeds, fingerprint, model_files, prepare_device, write_text

if TYPE_CHECKING:
    from ..tasks.ner_data import NerData

_SAVED = "edad_fast_ner.json"  # beside a saved model: from which run it is


def add_parser(tasks: Subparsers, common: argparse.ArgumentParser) -> None:
    """Add the flags of `ner` to those that all tasks share."""
    parser = tasks.add_parser("ner", parents=[common], help="fine-tune on named entities and score (seqeval)")
    parser.add_argument(
        "--data",
        required=True,
        help="folder of train, devel, test (.tsv .txt .conll), or hf:NAME[:CONFIG]",
    )
    parser.add_argument(
        "--scheme",
        choices=("auto", *SCHEMES),
        default="auto",
        help="of the tags; auto finds it. All are scored as IOB2",
    )
    parser.add_argument("--token_column", default="tokens", help="of a dataset (hf:NAME)")
    parser.add_argument("--tag_column", default="ner_tags", help="of a dataset (hf:NAME)")
    parser.add_argument(
        "--save_model", type=Path, help="keep the fine-tuned model that is best on devel in this directory"
    )
    parser.add_argument(
        "--seeds", type=int, default=3, help="number of runs, with seeds N, N + 1, ... (default 3)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the first seed (default 0)")
    parser.add_argument(
        "--protocol",
        choices=("standard", "exbert"),
        default="standard",
        help="standard: all layers, rates 5e-5 1e-4 2e-4, batch 32, 20 epochs; "
        "exbert: top 3 layers, rate 1e-5, batch 20, 3 epochs",
    )
    parser.add_argument("--epochs", type=int)
    parser.add_argument(
        "--learning_rate",
        type=float,
        nargs="+",
        help="one, or several of which the first seed takes the best on devel for all seeds",
    )
    parser.add_argument("--batch_size", type=int, help="sentences")
    parser.add_argument("--max_length", type=int, default=128, help="WordPieces; longer sentences are split")
    parser.add_argument("--untrained", action="store_true", help="the same architecture with random weights")
    parser.add_argument(
        "--ignore_unknown_labels", action="store_true", help="labels not in train count as missed"
    )
    parser.add_argument("--overwrite", action="store_true", help="discard the results in --output_dir")


def run(args: argparse.Namespace) -> None:
    """Fine-tune and score over the seeds that --output_dir lacks."""
    from ..models import load_token_classifier, save_token_classifier
    from ..tasks.device import device_name
    from ..tasks.ner import NerSettings, NerTask
    from ..tasks.ner_data import load_ner
    from ..tasks.ner_runs import finished_runs, run_seeds, summarise
    from ..vocabulary import load_tokenizer

    check_seeds(args)
    device, precision = prepare_device(args)
    settings = NerSettings.of_protocol(
        args.protocol,
        epochs=args.epochs,
        learning_rates=tuple(args.learning_rate) if args.learning_rate else None,
        batch_size=args.batch_size,
        max_length=args.max_length,
        precision=precision,
        untrained=args.untrained,
    )
    data = load_ner(
        args.data,
        ignore_unknown_labels=args.ignore_unknown_labels,
        scheme=args.scheme,
        token_column=args.token_column,
        tag_column=args.tag_column,
    )
    files = [path for path in data.sources.values() if isinstance(path, Path)]
    title = Path(args.data).resolve().name if files else re.sub(r"[^\w.-]+", "_", args.data)
    name = f"ner-{title}" + ("-untrained" if args.untrained else "")
    output = args.output_dir or args.model / "evaluation" / name
    inputs = {
        "seed": args.seed,
        "settings": json.loads(json.dumps(asdict(settings))),
        "model_fingerprint": fingerprint(model_files(args.model)),
        "data_fingerprint": fingerprint(files) if files else _fingerprint_of_rows(data),
    }
    if args.scheme != "auto":
        inputs["scheme"] = data.scheme
    runs = [] if args.overwrite else finished_runs(output / "ner.json", inputs)
    if args.save_model:
        _check_save_model(args, [run["seed"] for run in runs])
    ready: list[NerTask] = []

    def task() -> NerTask:
        model = load_token_classifier(args.model, data.labels)
        ready.append(NerTask(model, load_tokenizer(args.model), data, settings, device))
        return ready[0]

    def save() -> dict[str, Any]:
        result = {
            "task": "ner",
            "model": str(args.model),
            "data": args.data,
            "scheme": data.scheme,
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
        write_text(output / "ner.md", f"# Named entities: {args.model}\n\n{_table(result, 'markdown')}")
        return result

    # Opened before the work, so that a folder that cannot be written costs no hour.
    output.mkdir(parents=True, exist_ok=True)
    for run in run_seeds(task, args.seeds, settings.learning_rates, runs, first=args.seed):
        if args.save_model and _devel_f1(run) > max(map(_devel_f1, runs), default=-1.0):
            # Before the result, so that a kill in between costs a run again and not the model.
            with save_token_classifier(
                args.model, args.save_model, data.labels, ready[0].whole_state()
            ) as folder:
                write_json(folder / _SAVED, {"seed": run["seed"], "devel_entity_f1": _devel_f1(run)})
        runs = sorted([*runs, run], key=lambda item: item["seed"])
        save()
    result = save()
    print(f"{_table(result, 'plain')}\nwritten to {output}/ner.json")
    if args.save_model:
        print(f"the model that is best on devel: {args.save_model}")
    scores = {key: mean_std(result[key]) for key in ("entity_f1", "token_macro_f1")}
    record_evaluation(args.model, name.replace("-", " ", 1), {**scores, "seeds": args.seeds})


def _devel_f1(run: dict[str, Any]) -> float:
    return max(epoch["entity_f1"] for epoch in run["devel"])


def _check_save_model(args: argparse.Namespace, finished: list[int]) -> None:
    """Refuse a directory that holds something else, and results whose models were not kept."""
    folder: Path = args.save_model
    if args.untrained:
        raise InputError("--save_model and --untrained: an untrained model is a point of reference, not kept")
    saved = folder / _SAVED
    if folder.exists() and any(folder.iterdir()) and not saved.is_file():
        raise InputError(f"{folder}: holds other files; name an empty or new directory with --save_model")
    if finished and not saved.is_file():
        raise InputError(
            f"{folder}: the runs of seeds {', '.join(map(str, finished))} are done and their models were not "
            "kept; give --overwrite to run them again, or another --output_dir"
        )
    if saved.is_file() and not finished and not args.overwrite:
        raise InputError(f"{folder}: holds a model of other runs; name another, or give --overwrite")
    if json.loads((args.model / "config.json").read_text(encoding="utf-8"))["model_type"] != "bert":
        raise InputError(f"{args.model}: --save_model needs a plain BERT, as transformers loads no exBERT")


def _fingerprint_of_rows(data: NerData) -> str:
    rows = json.dumps([[s.words, s.tags] for part in data.splits.values() for s in part])
    return hashlib.blake2b(rows.encode(), digest_size=16).hexdigest()


def _table(result: dict[str, Any], style: Literal["plain", "markdown"]) -> str:
    titles = {
        "entity_f1": "entity F1 (seqeval, micro)",
        "entity_f1_strict": "strict entity F1 (seqeval)",
        "precision": "precision",
        "recall": "recall",
        "token_macro_f1": "token macro F1 (with O)",
    }
    rows = [
        [title, mean_std(result[key]), *(f"{run['test'][key]:.4f}" for run in result["runs"])]
        for key, title in titles.items()
        if key in result
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
