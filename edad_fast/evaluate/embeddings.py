"""`evaluate embeddings`: one vector for each line or row of text, to .npy or .parquet."""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import InputError
from .common import Subparsers, prepare_device

_POOL = 4096  # texts sorted by length and held in memory together


def add_parser(tasks: Subparsers, common: argparse.ArgumentParser) -> None:
    """Add the flags of `embeddings` to those that all tasks share."""
    parser = tasks.add_parser("embeddings", parents=[common], help="vectors of texts, to .npy or .parquet")
    parser.add_argument("--data", nargs="+", required=True, help="text files or globs, as for training")
    parser.add_argument("--output", type=Path, help=".npy or .parquet; default: OUTPUT_DIR/embeddings.npy")
    parser.add_argument("--pooling", choices=("mean", "cls"), default="mean", help="of the last layer")
    parser.add_argument("--normalise", action="store_true", help="to Euclidean norm 1")
    parser.add_argument("--max_length", type=int, help="WordPieces; default: what the model was trained on")
    parser.add_argument("--batch_size", type=int, default=64, help="texts")
    parser.add_argument("--text_field", default="text")
    parser.add_argument("--encoding_errors", choices=("strict", "replace"), default="strict")
    parser.add_argument("--overwrite", action="store_true", help="replace --output")


def run(args: argparse.Namespace) -> None:
    """Count the texts, then embed them in pools of similar length."""
    from tqdm import tqdm

    from ..corpus import expand_globs
    from ..models import load_encoder
    from ..tasks.embeddings import check_output, embed, iter_texts, open_output
    from ..vocabulary import load_tokenizer

    device, precision = prepare_device(args)
    output = args.output or (args.output_dir or args.model / "evaluation") / "embeddings.npy"
    check_output(output)
    if output.exists() and not args.overwrite:
        raise InputError(f"{output}: is there already; name another --output, or give --overwrite")
    tokenizer = load_tokenizer(args.model)
    encoder: Any = load_encoder(args.model).to(device).eval()
    positions = encoder.config.max_position_embeddings
    trained = min(tokenizer.model_max_length, positions)
    max_length = trained if args.max_length is None else args.max_length
    if not 3 <= max_length <= positions:
        raise InputError(
            f"--max_length {max_length}: must lie between 3 and {positions}, the model's position table"
        )
    if args.batch_size < 1:
        raise InputError("--batch_size must be at least 1")
    sources = expand_globs([f"{name}/*" if Path(name).is_dir() else name for name in args.data])
    options = {"text_field": args.text_field, "encoding_errors": args.encoding_errors}
    count = sum(1 for _ in iter_texts(sources, **options))
    texts = iter_texts(sources, **options)
    with (
        open_output(output, count, encoder.config.hidden_size) as file,
        tqdm(total=count, desc="texts", unit="", disable=None) as progress,
    ):
        done = 0
        while part := list(islice(texts, _POOL)):
            done += len(part)
            if done > count:
                break
            vectors = embed(
                encoder,
                tokenizer,
                [text.text for text in part],
                device=device,
                precision=precision,
                pooling=args.pooling,
                normalise=args.normalise,
                max_length=max_length,
                batch_size=args.batch_size,
            )
            file.write(part, vectors)
            progress.update(len(part))
        if done != count:
            raise InputError(f"{', '.join(args.data)}: the texts changed while they were read; run again")
    print(f"{count:,} texts, {encoder.config.hidden_size} numbers each: {output}")
