"""`export sentence_transformers`: the student with the files that sentence-transformers reads."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from ..errors import InputError


def add_parser(formats: argparse._SubParsersAction[Any], common: argparse.ArgumentParser) -> None:
    """Add the flags of `sentence_transformers`."""
    parser = formats.add_parser(
        "sentence_transformers", parents=[common], help="a directory that SentenceTransformer(...) loads"
    )
    parser.add_argument("--output_dir", type=Path, help="default: sentence_transformers/ in the model's")
    parser.add_argument("--pooling", choices=("mean", "cls"), default="mean", help="of the last layer")
    parser.add_argument("--normalise", action="store_true", help="vectors of Euclidean norm 1")
    parser.add_argument("--max_length", type=int, help="WordPieces; default: what the model was trained on")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export in --output_dir")


def run(args: argparse.Namespace) -> None:
    """Copy model and tokenizer, and add modules.json and the configuration of each module."""
    from ..files import atomic_dir, write_json
    from ..models import read_model_config
    from ..vocabulary import load_tokenizer, save_tokenizer

    config = read_model_config(args.model)
    if config.model_type != "bert":
        raise InputError(
            f"{args.model}: sentence-transformers loads no exBERT; `python -m edad_fast.evaluate embeddings` "
            "and `python -m edad_fast.export onnx` take it"
        )
    tokenizer = load_tokenizer(args.model)
    positions = config.max_position_embeddings
    length = min(tokenizer.model_max_length, positions) if args.max_length is None else args.max_length
    if not 3 <= length <= positions:
        raise InputError(f"--max_length {length}: must lie between 3 and {positions}, the position table")
    output: Path = args.output_dir or args.model / "sentence_transformers"
    if output.exists() and not (args.overwrite and (output / "modules.json").is_file()):
        raise InputError(f"{output}: is there already; name a new --output_dir, or give --overwrite")
    names = ["Transformer", "Pooling", *(["Normalize"] if args.normalise else [])]
    with atomic_dir(output) as folder:
        for file in [args.model / "config.json", *sorted(args.model.glob("*.safetensors*"))]:
            shutil.copyfile(file, folder / file.name)
        save_tokenizer(tokenizer, folder)
        paths = ["", *(f"{index}_{name}" for index, name in enumerate(names) if index)]
        modules = [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}
            for index, (name, path) in enumerate(zip(names, paths, strict=True))
        ]
        for path in paths[1:]:
            (folder / path).mkdir()
        write_json(folder / "modules.json", modules)
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False})
        pooling = {
            "word_embedding_dimension": config.hidden_size,
            "pooling_mode_cls_token": args.pooling == "cls",
            "pooling_mode_mean_tokens": args.pooling == "mean",
        }
        write_json(folder / "1_Pooling" / "config.json", pooling)
    print(f"written to {output}; SentenceTransformer({json.dumps(str(output))}) loads it")
