"""Tiny saved students, plain and exBERT, with a tokenizer of a few words."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import BertConfig

from edad_fast.models import build_pretraining_model, exbert_config, save_model
from edad_fast.vocabulary import load_tokenizer, save_tokenizer

WORDS = ["the", "of", "cured", "was", "gout", "flu", "polio", "aspirin", "with", "."]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s"]


def save_tiny(folder: Path, *, layers: int = 2, extension: bool = False) -> Path:
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(PIECES),
        hidden_size=24,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=48,
    )
    model = build_pretraining_model(exbert_config(config, (8, 16), 0.0) if extension else config)
    folder.mkdir(parents=True)
    save_model(model, folder, keep_sentence_head=False)
    vocab = folder.parent / f"{folder.name}.txt"
    vocab.write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    save_tokenizer(load_tokenizer(vocab), folder)
    return folder
