"""Fine-tuning on named entities and its scores: entity F1 (seqeval) and token-level macro F1."""

from __future__ import annotations

import copy
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from seqeval.metrics import classification_report, f1_score
from seqeval.scheme import IOB2
from torch import Tensor, nn

from ..errors import InputError
from .device import autocast
from .fine_tuning import (
    Outcome,
    Progress,
    best_rate,
    freeze_below,
    initialise,
    keep_used_embeddings,
    train_epochs,
    use_quick_dropout,
)
from .ner_data import Chunk, NerData, Sentence, collate, encode_sentences, sorted_batches


@dataclass(frozen=True)
class Protocol:
    """How to fine-tune; `top_layers` None trains everything, n the last n layers and the classifier."""

    epochs: int
    learning_rates: tuple[float, ...]
    batch_size: int
    top_layers: int | None


PROTOCOLS = {
    "standard": Protocol(epochs=20, learning_rates=(5e-5, 1e-4, 2e-4), batch_size=32, top_layers=None),
    # The fine-tuning of exBERT (Tai et al., Findings of EMNLP 2020).
    "exbert": Protocol(epochs=3, learning_rates=(1e-5,), batch_size=20, top_layers=3),
}


@dataclass(frozen=True)
class NerSettings:
    """Everything that decides a score, apart from the model, the data and the seed.

    `untrained` replaces the model's weights by BERT's random initialisation, drawn from the seed: the
    reference point that shows what pretraining is worth. `max_length` counts WordPieces with [CLS] and [SEP].
    """

    protocol: str = "standard"
    epochs: int = PROTOCOLS["standard"].epochs
    learning_rates: tuple[float, ...] = PROTOCOLS["standard"].learning_rates
    batch_size: int = PROTOCOLS["standard"].batch_size
    max_length: int = 128
    precision: str = "fp32"
    untrained: bool = False
    weight_decay: float = 0.01
    warmup_fraction: float = 0.1
    max_grad_norm: float = 1.0

    @classmethod
    def of_protocol(cls, name: str, **changes: Any) -> NerSettings:
        """The protocol's settings; values in `changes` that are not None replace them.

        Raises:
            InputError: no such protocol, or a value out of range.
        """
        if name not in PROTOCOLS:
            raise InputError(f"--protocol {name}: use one of {', '.join(PROTOCOLS)}")
        values = {k: v for k, v in asdict(PROTOCOLS[name]).items() if k != "top_layers"}
        settings = cls(protocol=name, **{**values, **{k: v for k, v in changes.items() if v is not None}})
        if settings.epochs < 1 or settings.batch_size < 1:
            raise InputError("--epochs and --batch_size must be at least 1")
        if not settings.learning_rates or min(settings.learning_rates) <= 0:
            raise InputError("--learning_rate must be above 0")
        return settings


def score_tags(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Scores of predicted tags, all in [0, 1].

    `entity_f1`, `precision`, `recall`: micro averages over entities by seqeval in its default mode, which
    follows conlleval (an I- that continues nothing begins an entity). `per_type`: the same for each type.
    `token_macro_f1`: the mean over classes, O included, of the token-level F1, the measure of the exBERT
    code; it is much higher than entity F1 and the two must not be compared.
    """
    report = {"micro avg": {"precision": 0.0, "recall": 0.0, "f1-score": 0.0}}
    if any(tag != "O" for tags in (*gold, *predicted) for tag in tags):  # seqeval averages over an empty list
        report = classification_report(list(gold), list(predicted), output_dict=True, zero_division=0)
    micro = report["micro avg"]
    per_type = {
        name: {
            "precision": float(row["precision"]),
            "recall": float(row["recall"]),
            "f1": float(row["f1-score"]),
            "entities": int(row["support"]),
        }
        for name, row in report.items()
        if not name.endswith(" avg")
    }
    return {
        "entity_f1": float(micro["f1-score"]),
        "precision": float(micro["precision"]),
        "recall": float(micro["recall"]),
        "token_macro_f1": token_macro_f1(gold, predicted),
        "per_type": per_type,
    }


def strict_entity_f1(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
    """Micro F1 over entities by seqeval in its strict mode: an entity begins with B-, stray I- are none."""
    if not any(tag != "O" for tags in (*gold, *predicted) for tag in tags):
        return 0.0
    return float(f1_score(list(gold), list(predicted), mode="strict", scheme=IOB2, zero_division=0))


def token_macro_f1(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
    """Mean over all tags that occur, O included, of the token-level F1: sklearn's macro F1."""
    golds = Counter(tag for tags in gold for tag in tags)
    guesses = Counter(tag for tags in predicted for tag in tags)
    pairs = (pair for tags in zip(gold, predicted, strict=True) for pair in zip(*tags, strict=True))
    hits = Counter(a for a, b in pairs if a == b)
    classes = golds.keys() | guesses.keys()
    return statistics.fmean(2 * hits[tag] / (golds[tag] + guesses[tag]) for tag in classes)


class _Split:
    """One split as chunks, with the label ids of their words (-100 where train lacks the label)."""

    def __init__(self, sentences: list[Sentence], chunks: list[Chunk], labels: list[str]) -> None:
        index = {label: number for number, label in enumerate(labels)}
        self.sentences = sentences
        self.chunks = chunks
        self.lengths = [len(chunk.ids) for chunk in chunks]
        self.targets = [
            np.array([index.get(sentences[chunk.sentence].tags[word], -100) for word in chunk.words])
            for chunk in chunks
        ]
        self.gold = [sentence.tags for sentence in sentences]

    def batch(self, rows: list[int], pad_id: int) -> dict[str, Tensor]:
        return collate([self.chunks[row] for row in rows], pad_id, [self.targets[row] for row in rows])


class NerTask:
    """A data set encoded for one model, ready to be fine-tuned with several seeds.

    Args:
        model: a token classifier whose `forward(input_ids, attention_mask)` gives `.logits` [B, L, labels]
            and whose last layer is `model.classifier`; it is copied for each seed and stays as it is.
        tokenizer: the model's fast tokenizer.

    Raises:
        InputError: the tokenizer has ids that the model's embedding table lacks.
    """

    def __init__(
        self, model: Any, tokenizer: Any, data: NerData, settings: NerSettings, device: torch.device
    ) -> None:
        positions = int(getattr(model.config, "max_position_embeddings", settings.max_length))
        self.settings = replace(settings, max_length=min(settings.max_length, positions))
        self.labels = data.labels
        self.device = device
        chunks = {
            name: encode_sentences(tokenizer, sentences, self.settings.max_length)
            for name, sentences in data.splits.items()
        }
        self.model = copy.deepcopy(model).float()
        self.trained: nn.Module | None = None  # by the last `fine_tune`
        self._word_table = self.model.get_input_embeddings().weight.detach()
        self.pad_id = int(tokenizer.pad_token_id)
        ids = [chunk.ids for part in chunks.values() for chunk in part]
        rows = self._rows = keep_used_embeddings(self.model, ids, self.pad_id)
        if rows is not None:
            self.pad_id = int(rows[self.pad_id])
            chunks = {name: [replace(c, ids=rows[c.ids]) for c in part] for name, part in chunks.items()}
        self.splits = {name: _Split(data.splits[name], part, data.labels) for name, part in chunks.items()}

    def fine_tune(
        self,
        seed: int,
        learning_rates: Sequence[float],
        *,
        progress: Callable[[str, float], None] | None = None,
    ) -> dict[str, Any]:
        """Fine-tune once per learning rate and score test once, with the weights that are best on devel.

        The learning rate and the epoch with the highest entity F1 on devel are taken (the earlier at a tie).
        `progress(message, done)` is called after each epoch with the finished fraction of this call's work.

        Returns:
            seed, learning_rate, best_epoch, devel (curve of the chosen rate), learning_rate_devel_f1 (best
            devel F1 of each rate), test (see `score_tags`, and entity_f1_strict), seconds.

        Raises:
            InputError: the loss stopped being finite.
        """
        begin = time.perf_counter()
        best, tried = best_rate(
            learning_rates, lambda rate, report: self._train(seed, rate, report), progress
        )
        self.trained = best.model
        gold, predicted = self.splits["test"].gold, self.predict(best.model, "test")
        return {
            "seed": seed,
            "learning_rate": best.learning_rate,
            "learning_rate_devel_f1": tried,
            "best_epoch": best.epoch,
            "devel": best.curve,
            "test": score_tags(gold, predicted) | {"entity_f1_strict": strict_entity_f1(gold, predicted)},
            "seconds": time.perf_counter() - begin,
        }

    def whole_state(self) -> dict[str, Tensor]:
        """The weights of the last `fine_tune`, with the word embeddings of the pieces that the data lacks."""
        assert self.trained is not None, "fine_tune has not run"
        state = {name: value.detach().cpu() for name, value in self.trained.state_dict().items()}
        if self._rows is not None:
            (name,) = (name for name in state if name.endswith("word_embeddings.weight"))
            used = torch.from_numpy(self._rows)
            table = self._word_table.clone()
            table[used >= 0] = state[name][used[used >= 0]]
            state[name] = table
        return state

    def _train(self, seed: int, rate: float, progress: Progress) -> Outcome:
        settings, train = self.settings, self.splits["train"]
        torch.manual_seed(seed)
        model = copy.deepcopy(self.model)
        initialise(model if settings.untrained else model.classifier, model.config.initializer_range)
        model.to(self.device)
        if self.device.type == "cpu":
            use_quick_dropout(model)
        freeze_below(model, PROTOCOLS[settings.protocol].top_layers)
        return train_epochs(
            model,
            settings,
            seed=seed,
            outcome=Outcome(rate, ("entity_f1", "entity F1")),
            device=self.device,
            lengths=train.lengths,
            batch=lambda rows: train.batch(rows, self.pad_id),
            devel=lambda model: score_tags(self.splits["devel"].gold, self.predict(model, "devel"))[
                "entity_f1"
            ],
            progress=progress,
        )

    @torch.inference_mode()
    def predict(self, model: nn.Module, split: str) -> list[list[str]]:
        """Tags for every word of `split`, in the order of the data; words without a piece are "O"."""
        model.eval()
        data = self.splits[split]
        tags = [["O"] * len(sentence.words) for sentence in data.sentences]
        for rows in sorted_batches(data.lengths, 2 * self.settings.batch_size):
            batch = data.batch(rows, self.pad_id)
            del batch["labels"]
            with autocast(self.device, self.settings.precision):
                logits = model(**{k: v.to(self.device) for k, v in batch.items()}).logits
            choices = logits.argmax(-1).cpu().numpy()
            for row, choice in zip(rows, choices, strict=True):
                chunk = data.chunks[row]
                for word, label in zip(chunk.words, choice[chunk.positions], strict=True):
                    tags[chunk.sentence][word] = self.labels[label]
        return tags
