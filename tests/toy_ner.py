"""A tokenizer and tiny models for the tests of named entity recognition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForTokenClassification

from edad_fast.vocabulary import load_tokenizer

WORDS = ["the", "of", "cured", "gout", "flu", "polio", "aspirin"]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s", "##x", *"abcdefghijklmnopqrstuvwxyz"]
PIECES += [f"##{c}" for c in "abcdefghijklmnopqrtuvwyz"]


def ner_tokenizer(folder: Path) -> Any:
    file = folder / "vocab.txt"
    file.write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    return load_tokenizer(file)


def tiny_model(labels: int, layers: int = 2, dropout: float = 0.1) -> BertForTokenClassification:
    torch.manual_seed(11)
    config = BertConfig(
        vocab_size=len(PIECES),
        hidden_size=24,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        num_labels=labels,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return BertForTokenClassification(config)
