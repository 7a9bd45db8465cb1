"""The student: a named shape, a configuration file, or a directory with weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from transformers import BertConfig, PreTrainedModel

from ..errors import InputError
from .exbert import original_layer

# TinyBERT4 (Jiao et al. 2020), MiniLM-L6-H384 (Wang et al. 2020) and every other layer of it, DistilBERT
# (Sanh et al. 2019).
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
    "minilm3": {
        "num_hidden_layers": 3,
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_attention_heads": 12,
    },
    "distilbert6": {
        "num_hidden_layers": 6,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
    },
}

# What two layers have in common if one can start from the other.
LAYER_SIZES = ("hidden_size", "intermediate_size", "num_attention_heads")


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


def spread_layers(student_layers: int, teacher_layers: int) -> list[int]:
    """Teacher layers (from 1) that a shallower student starts from: evenly spread, first and last among them.

    6 of 12 are 1 3 5 8 10 12, those of DistilBERT's published script (Sanh et al. 2019).

    Raises:
        InputError: a student deeper than the teacher.
    """
    if student_layers > teacher_layers:
        raise InputError(
            f"--student_init teacher_layers: the student has {student_layers} layers, the teacher "
            f"{teacher_layers}; give a student with {teacher_layers} at most, or --student_init fresh"
        )
    gaps = max(1, student_layers - 1)
    return [(2 * i * (teacher_layers - 1) + gaps) // (2 * gaps) + 1 for i in range(student_layers)]


def differing_sizes(student: Any, teacher: Any) -> list[str]:
    """What keeps a student's layers from starting as the teacher's: names in their configurations."""
    return [name for name in LAYER_SIZES if getattr(student, name) != getattr(teacher, name)]


@torch.no_grad()
def copy_layers(
    student: PreTrainedModel, teacher: PreTrainedModel, layers: Sequence[int] | None = None
) -> None:
    """Start a plain BERT student from its teacher: embeddings, heads and some of its layers.

    Of an exBERT teacher the original layers are taken. Positions that one of the two lacks stay as they are.

    Args:
        student, teacher: with equal heads and vocabulary.
        layers: a teacher layer, from 1, for each of the student's; default: `spread_layers`.

    Raises:
        InputError: layers of other sizes, or a student deeper than the teacher.
    """
    for name in differing_sizes(student.config, teacher.config):
        raise InputError(
            f"--student_init teacher_layers: the student's {name} is {getattr(student.config, name)}, the "
            f"teacher's {getattr(teacher.config, name)}; give a student of the teacher's sizes, or "
            "--student_init fresh"
        )
    chosen = layers or spread_layers(student.config.num_hidden_layers, teacher.config.num_hidden_layers)
    originals = [original_layer(layer) for layer in cast(Any, teacher).bert.encoder.layer]
    for mine, number in zip(cast(Any, student).bert.encoder.layer, chosen, strict=True):
        mine.load_state_dict(originals[number - 1].state_dict())
    theirs = dict(teacher.named_parameters())
    for name, parameter in student.named_parameters():
        if "bert.encoder.layer." in name:
            continue
        rows = min(len(parameter), len(theirs[name]))
        parameter[:rows] = theirs[name][:rows]
