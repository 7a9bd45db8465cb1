"""Teacher and student: loading, expansion, exBERT extensions, and capture for the losses."""

from .capture import (
    EncoderOutput,
    can_stop_early,
    count_parameters,
    encode,
    feed_forward,
    set_dropout,
)
from .checkpoint import (
    add_extension,
    build_pretraining_model,
    count_saved_parameters,
    lacks_mlm_head,
    load_classifier,
    load_encoder,
    load_masked_lm,
    load_pretraining_model,
    load_token_classifier,
    prepare_for_training,
    read_model_config,
    require_weights,
    save_model,
    save_token_classifier,
)
from .exbert import ExBertConfig, exbert_config
from .expand import expand_embeddings, fill_rows, replace_vocabulary
from .student import LAYER_SIZES, copy_layers, has_weights, spread_layers, student_config

__all__ = [
    "LAYER_SIZES",
    "EncoderOutput",
    "ExBertConfig",
    "add_extension",
    "build_pretraining_model",
    "can_stop_early",
    "copy_layers",
    "count_parameters",
    "count_saved_parameters",
    "encode",
    "exbert_config",
    "expand_embeddings",
    "feed_forward",
    "fill_rows",
    "has_weights",
    "lacks_mlm_head",
    "load_classifier",
    "load_encoder",
    "load_masked_lm",
    "load_pretraining_model",
    "load_token_classifier",
    "prepare_for_training",
    "read_model_config",
    "replace_vocabulary",
    "require_weights",
    "save_model",
    "save_token_classifier",
    "set_dropout",
    "spread_layers",
    "student_config",
]
