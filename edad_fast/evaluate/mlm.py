"""`evaluate mlm`: the masked-language-model loss on held-out text."""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..report import record_evaluation
from ..report.tables import number
from .common import Subparsers, fingerprint, finish, model_files, prepare_device

logger = logging.getLogger(__name__)


def add_parser(tasks: Subparsers, common: argparse.ArgumentParser) -> None:
    """Add the flags of `mlm` to those that all tasks share."""
    parser = tasks.add_parser("mlm", parents=[common], help="masked-language-model loss on held-out text")
    parser.add_argument("--data", nargs="+", required=True, help="text files or globs, as for training")
    parser.add_argument("--overwrite", action="store_true", help="replace a result of other --data")
    parser.add_argument("--seq_len", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=32, help="sequences")
    parser.add_argument("--max_tokens", type=int, help="stop after about this many tokens; default: all")
    parser.add_argument("--seed", type=int, default=0, help="decides the masks")
    parser.add_argument("--text_field", default="text")
    parser.add_argument("--encoding_errors", choices=("strict", "replace"), default="strict")


def run(args: argparse.Namespace) -> None:
    """Score the MLM head on held-out text."""
    from ..batches import BatchStream, build_shards
    from ..corpus import expand_globs
    from ..models import load_masked_lm, require_weights
    from ..tasks.device import device_name
    from ..tasks.masked_lm import masked_lm_loss_on
    from ..tasks.ner_runs import earlier_result
    from ..vocabulary import load_tokenizer, vocabulary_of

    device, precision = prepare_device(args)
    require_weights(args.model, "cls.predictions.", "MLM head")
    earlier = (args.output_dir or args.model / "evaluation") / "mlm.json"
    inputs = {
        "data": args.data,
        "model_fingerprint": fingerprint(model_files(args.model)),
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
    finish(args, "mlm", result, ["held-out text", "value"], rows, note)
    data = " ".join(Path(name).name for name in args.data)
    record_evaluation(args.model, f"mlm {data}", {key: scores[key] for key in ("loss", "masked_tokens")})
