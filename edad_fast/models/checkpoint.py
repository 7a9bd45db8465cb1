"""Models from and to Hugging Face directories: fp32 weights, safetensors, no remote code."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    PreTrainedModel,
)

from ..errors import InputError
from .capture import use_capturing_attention
from .exbert import MODEL_TYPE, attach_extension, exbert_config, read_exbert_config

logger = logging.getLogger(__name__)

ModelT = TypeVar("ModelT", bound=PreTrainedModel)
ENCODER = ("bert.embeddings", "bert.encoder")


def read_model_type(source: str | Path) -> str:
    """The model_type of a directory's or hub id's configuration; raises InputError if there is none."""
    file = Path(source) / "config.json"
    if Path(source).is_dir():
        if not file.is_file():
            raise InputError(f"{source}: no config.json; give the directory of a Hugging Face BERT model")
        try:
            return str(json.loads(file.read_text(encoding="utf-8")).get("model_type"))
        except json.JSONDecodeError as error:
            raise InputError(f"{file}: not valid JSON: {error}") from error
    try:
        return str(AutoConfig.from_pretrained(source, trust_remote_code=False).model_type)
    except Exception as error:
        raise InputError(
            f"{source}: no such directory, and no model of that name can be fetched from the hub ({error})"
        ) from error


def read_model_config(source: str | Path) -> BertConfig:
    """Read the configuration of a BERT or exBERT, and see that a directory has whole weight files.

    Raises:
        InputError: no BERT, no weights, or a truncated file.
    """
    kind = read_model_type(source)
    if kind not in ("bert", MODEL_TYPE):
        raise InputError(
            f"{source}: model_type is {kind!r}, not a BERT; give a BERT checkpoint such as bert-base-uncased"
        )
    directory = Path(source)
    if not directory.is_dir():
        return BertConfig.from_pretrained(source)
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise InputError(
            f"{source}: no weights (*.safetensors). Pickled weights (.bin) are not read; convert them once "
            "with `AutoModel.from_pretrained(...).save_pretrained(..., safe_serialization=True)`"
        )
    config = read_exbert_config(directory) if kind == MODEL_TYPE else BertConfig.from_pretrained(directory)
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                words = [key for key in tensors.keys() if key.endswith("embeddings.word_embeddings.weight")]  # noqa: SIM118
                shapes = [tuple(tensors.get_slice(key).get_shape()) for key in words]
        except Exception as error:
            raise InputError(f"{file}: cannot be read ({error}); the file may be truncated") from error
        expected = (config.vocab_size, config.hidden_size)
        if shapes and shapes[0] != expected:
            raise InputError(
                f"{file}: its word embeddings are {shapes[0][0]} x {shapes[0][1]}, "
                f"{directory / 'config.json'} says {expected[0]} x {expected[1]}; take both from one model"
            )
    return config


def lacks_mlm_head(source: str | Path) -> bool:
    """Whether `source` is a directory whose weights have no MLM head; one that is loaded from it is fresh."""
    for file in Path(source).glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            if any(key.startswith("cls.predictions.transform") for key in tensors.keys()):  # noqa: SIM118
                return False
    return Path(source).is_dir()


def load_pretraining_model(source: str | Path) -> BertForPreTraining:
    """Load a BERT or exBERT as `BertForPreTraining` in fp32; heads that the checkpoint lacks are fresh.

    Raises:
        InputError: no BERT, no weights, a truncated or damaged file, or encoder weights missing.
    """
    kind = read_model_config(source).model_type
    if kind == MODEL_TYPE:
        model = BertForPreTraining(read_exbert_config(Path(source)))
        attach_extension(model)
        load_weights(model, Path(source), required=ENCODER)
        return model
    return cast(BertForPreTraining, load_plain(BertForPreTraining, source))


def load_plain(model_class: Any, source: str | Path, **options: Any) -> PreTrainedModel:
    """Load a checkpoint that transformers knows, in fp32, from safetensors only; heads may be fresh."""
    try:
        model, info = model_class.from_pretrained(
            source,
            dtype=torch.float32,  # an fp16 checkpoint would come up as fp16
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    except Exception as error:
        raise InputError(
            f"{source}: the weights cannot be read ({error}); the file may be truncated: fetch it again"
        ) from error
    if model_class is BertForPreTraining and any(
        key.startswith("cls.predictions.transform") for key in info["missing_keys"]
    ):
        logger.info("%s has no MLM head; a fresh one is trained", source)
    missing = sorted(key for key in info["missing_keys"] if key.startswith(ENCODER))
    if missing:
        raise InputError(
            f"{source}: the checkpoint lacks {len(missing)} encoder weights, such as {missing[0]}"
        )
    return cast(PreTrainedModel, model)


def load_weights(
    model: PreTrainedModel, directory: Path, required: tuple[str, ...], without: str | None = None
) -> None:
    """Load all *.safetensors of `directory`, but keys that begin with `without`.

    Raises:
        InputError: a file cannot be read, or weights that begin with one of `required` are missing.
    """
    state: dict[str, torch.Tensor] = {}
    for file in sorted(directory.glob("*.safetensors")):
        try:
            state |= {key: value.float() for key, value in load_file(file).items()}
        except Exception as error:
            raise InputError(f"{file}: cannot be read ({error}); the file may be truncated") from error
    if without:
        state = {key: value for key, value in state.items() if not key.startswith(without)}
    missing, _ = model.load_state_dict(state, strict=False)
    tied = tuple(model._tied_weights_keys or ())  # patterns
    absent = sorted(
        key for key in missing if key.startswith(required) and not any(re.search(t, key) for t in tied)
    )
    if absent:
        raise InputError(f"{directory}: the checkpoint lacks {len(absent)} weights, such as {absent[0]}")
    model.tie_weights()


def build_pretraining_model(config: BertConfig) -> BertForPreTraining:
    """A freshly drawn `BertForPreTraining`; with an `ExBertConfig` its layers carry extensions."""
    model = BertForPreTraining(config)
    if config.model_type == MODEL_TYPE:
        attach_extension(model)
    return model


def add_extension(
    model: BertForPreTraining, extension: tuple[int, int], gate_bias: float
) -> BertForPreTraining:
    """Return `model` with a fresh exBERT extension of widths (hidden, intermediate) beside every layer."""
    if model.config.model_type == MODEL_TYPE:
        return model
    extended = BertForPreTraining(exbert_config(model.config, extension, gate_bias))
    extended.load_state_dict(model.state_dict())
    attach_extension(extended)
    return extended


def prepare_for_training(model: ModelT) -> ModelT:
    """Switch the capturing attention on and put `model` in training mode."""
    use_capturing_attention(model)
    return model.train()


_SENTENCE_HEAD = ("bert.pooler", "cls.seq_relationship")


def count_saved_parameters(model: PreTrainedModel, *, keep_sentence_head: bool) -> int:
    """Parameters that `save_model` writes, tied ones once."""
    everything = keep_sentence_head or model.config.model_type != "bert"
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if everything or not name.startswith(_SENTENCE_HEAD)
    )


def save_model(model: BertForPreTraining, directory: Path, *, keep_sentence_head: bool) -> None:
    """Write config.json and model.safetensors (fp32) into `directory`.

    Without `keep_sentence_head` the pooler and NSP head are left out, so that `AutoModelForMaskedLM` uses
    every weight.
    """
    saved: PreTrainedModel = model
    if not keep_sentence_head and model.config.model_type == "bert":
        saved = BertForMaskedLM(model.config)
        state = {k: v for k, v in model.state_dict().items() if not k.startswith(_SENTENCE_HEAD)}
        saved.load_state_dict(state)
        saved.tie_weights()
    save_plain(saved, directory)


def save_plain(model: PreTrainedModel, directory: Path) -> None:
    """Save without a trace of the capturing attention."""
    attention = model.config._attn_implementation
    model.config._attn_implementation = "sdpa"
    try:
        model.save_pretrained(directory, safe_serialization=True)
    finally:
        model.config._attn_implementation = attention


def load_masked_lm(directory: Path) -> nn.Module:
    """Load a saved model with its MLM head for evaluation.

    `model(input_ids, attention_mask).logits` is [B, L, V].

    Raises:
        InputError: no weights, a truncated or damaged file, or encoder weights missing.
    """
    if read_model_type(directory) != MODEL_TYPE:
        return load_plain(AutoModelForMaskedLM, directory)
    model = BertForMaskedLM(read_exbert_config(Path(directory)))
    attach_extension(model)
    load_weights(model, Path(directory), required=(*ENCODER, "cls.predictions"))
    return model


def weight_names(directory: Path) -> set[str]:
    """The names of all saved tensors; raises InputError if a file cannot be read."""
    keys: set[str] = set()
    for file in sorted(directory.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as tensors:
                keys |= set(tensors.keys())
        except Exception as error:
            raise InputError(f"{file}: cannot be read ({error}); the file may be truncated") from error
    return keys


def require_weights(directory: Path, prefix: str, what: str) -> None:
    """See that the checkpoint has weights whose names begin with `prefix`.

    Raises:
        InputError: it has none (`what` says what is missing), no weights at all, or a damaged file.
    """
    keys = weight_names(directory)
    if not any(key.startswith(prefix) for key in keys):
        lacking = f"{what} ({prefix.rstrip('.')})" if keys else "weights (*.safetensors)"
        raise InputError(f"{directory}: the weights hold no {lacking}; give a model saved with it")


def load_encoder(directory: Path) -> nn.Module:
    """Load a saved model without its heads.

    `model(input_ids, attention_mask).last_hidden_state` is [B, L, d].

    Raises:
        InputError: no weights, a truncated or damaged file, or encoder weights missing.
    """
    model: PreTrainedModel
    if read_model_type(directory) != MODEL_TYPE:
        model = load_plain(AutoModelForMaskedLM, directory)
    else:
        model = BertForMaskedLM(read_exbert_config(Path(directory)))
        attach_extension(model)
        load_weights(model, Path(directory), required=ENCODER)
    return cast(nn.Module, getattr(model, model.base_model_prefix))
