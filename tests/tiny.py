"""A general BERT of a few thousand parameters with its tokenizer, and text to adapt it to."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from transformers import BertConfig, BertForPreTraining

from edad_fast.vocabulary import load_tokenizer, save_tokenizer, write_vocab

WORDS = [
    *("the", "a", "of", "in", "and", "with", "to", "cell", "gene", "drug", "liver", "heart"),
    *("acts", "binds", "lowers", "raises", "because", "often", "never"),
]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def tiny_config(vocab_size: int, *, layers: int = 4, width: int = 24, heads: int = 4) -> BertConfig:
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=2 * width,
        max_position_embeddings=64,
    )


def tiny_teacher(folder: Path, *, layers: int = 4) -> Path:
    """Write a general BERT whose vocabulary is letters and `WORDS`; returns `folder`."""
    folder.mkdir(parents=True)
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        ".",
        *LETTERS,
        *(f"##{c}" for c in LETTERS),
        *WORDS,
    ]
    write_vocab(folder / "vocab.txt", list(dict.fromkeys(pieces)))
    tokenizer = load_tokenizer(folder / "vocab.txt")
    save_tokenizer(tokenizer, folder)
    torch.manual_seed(7)
    BertForPreTraining(tiny_config(len(tokenizer), layers=layers)).save_pretrained(folder)
    return folder


def tiny_corpus(file: Path, *, documents: int = 60, seed: int = 0) -> Path:
    """Write documents of a few sentences with words that `tiny_teacher` has to spell."""
    rng = random.Random(seed)
    domain = [a + b for a in ("kin", "phos", "ab", "lig") for b in ("ase", "olol", "mab", "atin", "ogen")]
    lines = []
    for _ in range(documents):
        for _ in range(rng.randint(2, 6)):
            words = [rng.choice(WORDS + domain) for _ in range(rng.randint(4, 14))]
            lines.append(" ".join(words) + " .")
        lines.append("")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def tiny_student(file: Path, *, layers: int = 2, width: int = 12, heads: int = 4) -> Path:
    """Write the configuration of a student."""
    config = tiny_config(1, layers=layers, width=width, heads=heads)
    file.write_text(config.to_json_string(use_diff=False), encoding="utf-8")
    return file
