"""Classification of texts: scores of a classifier as it is, and fine-tuning with devel selection."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError
from .device import autocast
from .fine_tuning import (
    Outcome,
    Progress,
    best_rate,
    initialise,
    keep_used_embeddings,
    train_epochs,
    use_quick_dropout,
)
from .labelled_text import SPLITS, TextData, class_ids, encode_texts
from .ner_data import sorted_batches


@dataclass(frozen=True)
class SentimentSettings:
    """Everything that decides a score, apart from the model, the data and the seed.

    `max_length` counts WordPieces with [CLS] and [SEP]; of longer texts the beginning is read. `untrained`
    replaces the model's weights by BERT's random initialisation, drawn from the seed.
    """

    epochs: int = 5
    learning_rates: tuple[float, ...] = (5e-5, 1e-4, 2e-4)
    batch_size: int = 32
    max_length: int = 128
    precision: str = "fp32"
    untrained: bool = False
    weight_decay: float = 0.01
    warmup_fraction: float = 0.1
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise InputError("--epochs and --batch_size must be at least 1")
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise InputError("--learning_rate must be above 0")
        if self.max_length < 3:
            raise InputError("--max_length must be at least 3")


def score_classes(gold: np.ndarray, predicted: np.ndarray, classes: int) -> dict[str, float]:
    """`accuracy` and `macro_f1`, the mean F1 over classes that occur in either; both in [0, 1].

    Args:
        gold, predicted: int64 [n], n > 0.
    """
    f1 = []
    for label in range(classes):
        there, given = gold == label, predicted == label
        if there.any() or given.any():
            f1.append(2.0 * float((there & given).sum()) / float(there.sum() + given.sum()))
    return {"accuracy": float((gold == predicted).mean()), "macro_f1": float(np.mean(f1))}


class SentimentTask:
    """A data set encoded for one model, to be scored as it is or fine-tuned with several seeds.

    Args:
        model: its `forward(input_ids, attention_mask)` gives `.logits` [B, classes] and its last layer is
            `model.classifier`; it is copied and stays as it is.
        tokenizer: the model's fast tokenizer.
        labels: classes in the order of the model's ids.
        fresh: names of the parts that are drawn anew for each seed, such as "classifier".

    Raises:
        InputError: a class that `labels` lack, or a split that is needed is empty.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        data: TextData,
        labels: Sequence[str],
        settings: SentimentSettings,
        device: torch.device,
        fresh: Sequence[str] = ("classifier",),
    ) -> None:
        positions = int(getattr(model.config, "max_position_embeddings", settings.max_length))
        self.settings = replace(settings, max_length=min(settings.max_length, positions))
        self.labels, self.device, self.fresh = list(labels), device, tuple(fresh)
        self.gold = {split: class_ids(data.splits[split], labels) for split in SPLITS}
        self.ids = {
            split: encode_texts(tokenizer, data.splits[split], self.settings.max_length) for split in SPLITS
        }
        self.model = copy.deepcopy(model).float()
        self.pad_id = int(tokenizer.pad_token_id)
        rows = keep_used_embeddings(self.model, [i for part in self.ids.values() for i in part], self.pad_id)
        if rows is not None:
            self.pad_id = int(rows[self.pad_id])
            self.ids = {split: [rows[ids] for ids in part] for split, part in self.ids.items()}

    def score(self, split: str, model: nn.Module | None = None) -> dict[str, float]:
        """Scores of `model` (None: as it was given) on a split; see `score_classes`.

        Raises:
            InputError: the split is empty.
        """
        if not self.ids[split]:
            raise InputError(f"no text in the {split} split; give more data")
        scored = self.model.to(self.device) if model is None else model
        return score_classes(self.gold[split], self.predict(scored, split), len(self.labels))

    def fine_tune(
        self, seed: int, learning_rates: Sequence[float], *, progress: Progress | None = None
    ) -> dict[str, Any]:
        """Fine-tune once per learning rate and score test once, with the weights that are best on devel.

        The learning rate and the epoch with the highest accuracy on devel are taken (the earlier at a tie).

        Returns:
            seed, learning_rate, best_epoch, devel (curve of the chosen rate), learning_rate_devel_accuracy
            (best of each rate), test (see `score_classes`), seconds.

        Raises:
            InputError: the loss stopped being finite, or a split is empty.
        """
        for split in SPLITS:
            if not self.ids[split]:
                raise InputError(f"no text in the {split} split; give more data")
        begin = time.perf_counter()
        best, tried = best_rate(
            learning_rates, lambda rate, report: self._train(seed, rate, report), progress
        )
        return {
            "seed": seed,
            "learning_rate": best.learning_rate,
            "learning_rate_devel_accuracy": tried,
            "best_epoch": best.epoch,
            "devel": best.curve,
            "test": self.score("test", best.model),
            "seconds": time.perf_counter() - begin,
        }

    def _train(self, seed: int, rate: float, progress: Progress) -> Outcome:
        torch.manual_seed(seed)
        model = copy.deepcopy(self.model)
        for part in [model] if self.settings.untrained else map(model.get_submodule, self.fresh):
            initialise(part, model.config.initializer_range)
        model.to(self.device)
        if self.device.type == "cpu":
            use_quick_dropout(model)
        ids, gold = self.ids["train"], torch.from_numpy(self.gold["train"])
        return train_epochs(
            model,
            self.settings,
            seed=seed,
            outcome=Outcome(rate, ("accuracy", "accuracy")),
            device=self.device,
            lengths=[len(row) for row in ids],
            batch=lambda rows: {**self._collate([ids[row] for row in rows]), "labels": gold[rows]},
            devel=lambda model: self.score("devel", model)["accuracy"],
            progress=progress,
        )

    @torch.inference_mode()
    def predict(self, model: nn.Module, split: str) -> np.ndarray:
        """Class ids of a split, int64 [n], in its order."""
        model.eval()
        ids = self.ids[split]
        found = np.empty(len(ids), dtype=np.int64)
        for rows in sorted_batches([len(row) for row in ids], 2 * self.settings.batch_size):
            batch = self._collate([ids[row] for row in rows])
            with autocast(self.device, self.settings.precision):
                logits = model(**{key: value.to(self.device) for key, value in batch.items()}).logits
            found[rows] = logits.argmax(-1).cpu().numpy()
        return found

    def _collate(self, rows: Sequence[np.ndarray]) -> dict[str, Tensor]:
        longest = max(map(len, rows))
        ids = np.full((len(rows), longest), self.pad_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
