"""The student: a named shape, a configuration file, or a directory with weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import BertConfig

from ..errors import InputError

# TinyBERT4 (Jiao et al. 2020) and MiniLM-L6-H384 (Wang et al. 2020).
SHAPES = {
    "tinybert4": {
        "num_hidden_layers": 4,
        "hidden_size": 312,
        "intermediate_size": 1200,
        "num_attention_heads": 12,
    },
    "minilm6": {
        "num_hidden_layers": 6,
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_attention_heads": 12,
    },
}


def student_config(student: str, *, vocab_size: int, max_positions: int) -> BertConfig:
    """The student's configuration for `vocab_size` pieces and at least `max_positions` positions.

    Raises:
        InputError: the name is unknown and no such file or directory exists, or it describes no BERT.
    """
    if student in SHAPES:
        values: dict[str, Any] = {**SHAPES[student], "max_position_embeddings": max(512, max_positions)}
    else:
        path = Path(student)
        file = path / "config.json" if path.is_dir() else path
        if not file.is_file():
            raise InputError(
                f"--student {student}: neither a known shape ({', '.join(SHAPES)}) nor a config.json nor a "
                "directory that holds one"
            )
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise InputError(f"{file}: not valid JSON: {error}") from error
        if values.get("model_type", "bert") != "bert":
            raise InputError(f"{file}: model_type is {values['model_type']!r}; the student must be a BERT")
        for key in ("model_type", "architectures", "dtype", "torch_dtype", "transformers_version"):
            values.pop(key, None)
    config = BertConfig(**{**values, "vocab_size": vocab_size})
    if config.hidden_size % config.num_attention_heads:
        raise InputError(
            f"--student {student}: hidden_size {config.hidden_size} is not a multiple of "
            f"num_attention_heads {config.num_attention_heads}"
        )
    return config


def has_weights(student: str) -> bool:
    """Whether `student` is a directory with weights to start from."""
    return student not in SHAPES and Path(student).is_dir() and any(Path(student).glob("*.safetensors"))
