"""Classifiers of texts and tokens: their head on captured states, from and to Hugging Face directories."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertForSequenceClassification,
    BertForTokenClassification,
    PreTrainedModel,
)

from ..errors import InputError
from ..files import atomic_dir
from ..vocabulary import load_tokenizer, save_tokenizer
from .capture import EncoderOutput
from .checkpoint import ENCODER, load_plain, load_weights, read_model_type, save_plain, weight_names
from .exbert import MODEL_TYPE, attach_extension, read_exbert_config


def classify(model: BertForSequenceClassification, output: EncoderOutput) -> tuple[Tensor, Tensor]:
    """Features f = g(x), the pooler's output [B, d], and logits h(f) [B, classes], as BERT's own forward."""
    features = cast(nn.Module, model.bert.pooler)(output.last_hidden)
    return features, model.classifier(model.dropout(features))


def save_classifier(model: BertForSequenceClassification, directory: Path) -> None:
    """Write config.json and model.safetensors (fp32) for `AutoModelForSequenceClassification`."""
    save_plain(model, directory)


def load_token_classifier(directory: Path, labels: Sequence[str]) -> nn.Module:
    """Load a saved model under a fresh token-classification head for `labels` (entity tags, in id order).

    Raises:
        InputError: no weights, a truncated or damaged file, or encoder weights missing.
    """
    return _load_classifier(
        directory, labels, AutoModelForTokenClassification, BertForTokenClassification, other_head=True
    )


def load_text_classifier(source: str | Path, labels: Sequence[str]) -> BertForSequenceClassification:
    """Load a BERT (plain or exBERT) under a head for `labels` (in id order), over the pooler's output.

    A head (and pooler) that the checkpoint has is kept, fresh ones are drawn from torch's generator.

    Raises:
        InputError: no weights, a truncated or damaged file, encoder weights missing, or a head of another
            number of labels.
    """
    found = classifier_labels(source)
    if found and len(found) != len(labels):
        raise InputError(
            f"{source}: its head knows {len(found)} classes ({', '.join(found)}), the data have "
            f"{len(labels)} ({', '.join(labels)})"
        )
    model = _load_classifier(
        source, labels, AutoModelForSequenceClassification, BertForSequenceClassification
    )
    return cast(BertForSequenceClassification, model)


def classifier_labels(source: str | Path) -> list[str]:
    """The classes of a saved text classifier, in id order; [] if `source` is none.

    Raises:
        InputError: config.json is missing or damaged.
    """
    if not Path(source).is_dir():
        return []
    read_model_type(source)
    values = json.loads((Path(source) / "config.json").read_text(encoding="utf-8"))
    if "BertForSequenceClassification" not in (values.get("architectures") or []):
        return []
    names = values.get("id2label") or {str(i): str(i) for i in range(int(values.get("num_labels", 2)))}
    return [str(names[key]) for key in sorted(names, key=int)]


def fresh_parts(directory: Path) -> list[str]:
    """Names of the modules that a fine-tuning on texts draws anew: the head, and a pooler that is not saved.

    Raises:
        InputError: a truncated or damaged file.
    """
    keys = weight_names(directory)
    pooled = any(key.endswith("pooler.dense.weight") for key in keys)
    return ["classifier"] if pooled else ["classifier", "bert.pooler"]


def _load_classifier(
    source: str | Path, labels: Sequence[str], auto_class: Any, bert_class: Any, other_head: bool = False
) -> PreTrainedModel:
    """`other_head`: the checkpoint may have a head of another size, which is left."""
    names: dict[str, Any] = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    if read_model_type(source) != MODEL_TYPE:
        if other_head:
            names["ignore_mismatched_sizes"] = True
        return load_plain(auto_class, source, num_labels=len(labels), **names)
    config = read_exbert_config(Path(source))
    config.num_labels = len(labels)
    config.id2label, config.label2id = names["id2label"], names["label2id"]
    model = bert_class(config)
    attach_extension(model)
    load_weights(model, Path(source), required=ENCODER, without="classifier." if other_head else None)
    return cast(PreTrainedModel, model)


def load_classifier(directory: Path, kind: Literal["token", "sequence"]) -> nn.Module:
    """Load a fine-tuned plain BERT with its own head over tokens or sequences.

    Raises:
        InputError: an exBERT, no weights, a truncated or damaged file, or encoder weights missing.
    """
    if read_model_type(directory) == MODEL_TYPE:
        raise InputError(
            f"{directory}: an exBERT has no saved classifier; fine-tune a plain BERT student "
            "(--student_arch bert)"
        )
    return load_plain(
        AutoModelForTokenClassification if kind == "token" else AutoModelForSequenceClassification, directory
    )


@contextmanager
def save_token_classifier(
    base: Path, directory: Path, labels: Sequence[str], state: dict[str, torch.Tensor]
) -> Iterator[Path]:
    """Write the fine-tuned weights `state` of `load_token_classifier(base, labels)`, with tokenizer.

    Yields the temporary folder, for files of one's own; it then takes the place of `directory`, which loads
    as a plain BERT: `pipeline("token-classification", directory)`.
    """
    model = cast(PreTrainedModel, load_token_classifier(base, labels))
    model.load_state_dict(state)
    with atomic_dir(directory) as folder:
        model.save_pretrained(folder, safe_serialization=True)
        save_tokenizer(load_tokenizer(base), folder)
        yield folder
