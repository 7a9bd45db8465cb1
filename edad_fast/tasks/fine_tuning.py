"""What the fine-tuning of any task shares: initialisation, frozen layers, and two exact savings of time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ..errors import InputError
from .device import autocast
from .ner_data import bucketed_batches

Progress = Callable[[str, float], None]


class Hyperparameters(Protocol):
    """What any fine-tuning is told; `epochs` and `batch_size` are at least 1."""

    @property
    def epochs(self) -> int: ...  # noqa: D102
    @property
    def batch_size(self) -> int: ...  # noqa: D102
    @property
    def precision(self) -> str: ...  # noqa: D102
    @property
    def weight_decay(self) -> float: ...  # noqa: D102
    @property
    def warmup_fraction(self) -> float: ...  # noqa: D102
    @property
    def max_grad_norm(self) -> float: ...  # noqa: D102


class Outcome:
    """One run's devel curve and a copy of the weights at its best epoch.

    Args:
        metric: key and name of the devel score, in which higher is better.
    """

    def __init__(self, learning_rate: float, metric: tuple[str, str]) -> None:
        self.learning_rate, self.metric = learning_rate, metric
        self.curve: list[dict[str, float]] = []
        self.devel = -1.0
        self.epoch = 0
        self.model: Any = None

    def add(self, epoch: int, loss: float, score: float, model: nn.Module) -> None:
        """Note an epoch; the weights are copied if it is the best so far."""
        self.curve.append({"epoch": epoch, "loss": loss, self.metric[0]: score})
        if score > self.devel:
            self.devel, self.epoch = score, epoch
            self.model = copy.deepcopy(model)


def best_rate(
    learning_rates: Sequence[float],
    train: Callable[[float, Progress], Outcome],
    progress: Progress | None = None,
) -> tuple[Outcome, dict[str, float]]:
    """Train once per learning rate: the outcome that is best on devel (the earlier at a tie), and all scores.

    `progress(message, done)` gets the finished fraction of the whole.
    """
    best: Outcome | None = None
    scores: dict[str, float] = {}
    for number, rate in enumerate(learning_rates):

        def report(message: str, done: float, number: int = number) -> None:
            if progress is not None:
                progress(message, (number + done) / len(learning_rates))

        outcome = train(rate, report)
        scores[f"{rate:g}"] = outcome.devel
        if best is None or outcome.devel > best.devel:
            best = outcome
    assert best is not None, "learning_rates is empty"
    return best, scores


def train_epochs(
    model: nn.Module,
    settings: Hyperparameters,
    *,
    seed: int,
    outcome: Outcome,
    device: torch.device,
    lengths: Sequence[int],
    batch: Callable[[list[int]], dict[str, Tensor]],
    devel: Callable[[nn.Module], float],
    progress: Progress,
) -> Outcome:
    """Fine-tune `model` in place by AdamW with warmup and linear decay; fill in and return `outcome`.

    Args:
        lengths: tokens of each row of the training data; rows of similar length share a batch.
        batch: rows -> keyword arguments of the model, and `labels` (-100 does not count).
        devel: the score of a model on devel.

    Raises:
        InputError: the loss stopped being finite.
    """
    rate = outcome.learning_rate
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups = [
        {"params": [p for p in trained.values() if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained.values() if p.ndim < 2], "weight_decay": 0.0},  # biases, LayerNorm
    ]
    optimizer = torch.optim.AdamW(groups, lr=rate, fused=True)
    epochs = [bucketed_batches(lengths, settings.batch_size, seed, n) for n in range(settings.epochs)]
    total = sum(len(batches) for batches in epochs)
    warmup = max(1, round(settings.warmup_fraction * total))
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (total - step) / max(1, total - warmup))
    )
    for epoch, batches in enumerate(epochs, start=1):
        model.train()
        losses = torch.zeros((), device=device)
        for rows in tqdm(batches, desc=f"epoch {epoch}", disable=None, leave=False):
            inputs = {key: value.to(device) for key, value in batch(rows).items()}
            labels = inputs.pop("labels")
            with autocast(device, settings.precision):
                logits = model(**inputs).logits
            loss = F.cross_entropy(logits.float().flatten(0, -2), labels.flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(trained.values(), settings.max_grad_norm)
            optimizer.step()
            scheduler.step()
            losses += loss.detach()
        mean_loss = float(losses) / len(batches)
        if not np.isfinite(mean_loss):
            raise InputError(
                f"seed {seed}, epoch {epoch}: the loss is {mean_loss}; lower --learning_rate "
                f"(now {rate:g}) or give --precision fp32"
            )
        score = devel(model)
        outcome.add(epoch, mean_loss, score, model)
        progress(
            f"seed {seed}, learning rate {rate:g}, epoch {epoch}/{settings.epochs}: "
            f"loss {mean_loss:.4f}, devel {outcome.metric[1]} {score:.4f}",
            epoch / settings.epochs,
        )
    return outcome


class QuickDropout(nn.Dropout):
    """Dropout for CPUs: one 64-bit random number decides four elements.

    torch draws a number of its own for each element, one after the other: 5 to 10% of the time of a
    small model's fine-tuning step. The probability is rounded to a multiple of 2^-16 and the kept elements
    are scaled by the rounded value, so the expectation is exact.
    """

    def __init__(self, p: float) -> None:
        super().__init__(p)
        self.dropped = round(p * 65536)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` with elements dropped in training mode, else `x` itself."""
        if not self.training or not self.dropped:
            return x
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        keep = draws.view(torch.int16)[: x.numel()].view(x.shape) >= self.dropped - 32768
        return x * (keep.to(x.dtype) * (65536 / (65536 - self.dropped)))


def use_quick_dropout(model: nn.Module) -> None:
    """Replace every `nn.Dropout` with 0 < p < 1 in `model`, which lies on the CPU."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout and 0 < child.p < 1:
                setattr(parent, name, QuickDropout(child.p))


def keep_used_embeddings(model: nn.Module, ids: Sequence[np.ndarray], pad_id: int) -> np.ndarray | None:
    """Cut the word embedding table down to the rows that `ids` and `pad_id` use.

    Exact: other rows never receive a gradient and no output depends on them. It spares AdamW the dense update
    of the whole table, which for a small student with a large vocabulary is most of its parameters.

    Returns:
        int64 [V], the new id of each old one (-1 where dropped), or None if the table was not found.

    Raises:
        InputError: an id is outside the table.
    """
    tables = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and name.split(".")[-1] == "word_embeddings"
    ]
    if len(tables) != 1:
        return None
    table = tables[0]
    used = np.unique(np.concatenate([*ids, np.array([pad_id])]))
    if used[-1] >= table.num_embeddings:
        raise InputError(
            f"the tokenizer gives id {used[-1]}, but the model has {table.num_embeddings} embeddings; "
            "use the tokenizer that was saved with the model"
        )
    rows = np.full(table.num_embeddings, -1, dtype=np.int64)
    rows[used] = np.arange(len(used))
    table.weight = nn.Parameter(table.weight.detach()[torch.from_numpy(used)].clone())
    table.num_embeddings = len(used)
    if table.padding_idx is not None:
        table.padding_idx = int(rows[table.padding_idx]) if rows[table.padding_idx] >= 0 else None
    return rows


def initialise(module: nn.Module, std: float) -> None:
    """BERT's initialisation of every weight below `module`, from torch's generator."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.normal_(part.weight, std=std)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
        if isinstance(part, nn.LayerNorm):
            part.reset_parameters()


def freeze_below(model: Any, top_layers: int | None) -> None:
    """Train the last `top_layers` encoder layers and the classifier alone; None trains everything."""
    if top_layers is None:
        return
    encoder = getattr(model, model.base_model_prefix).encoder
    model.requires_grad_(False)
    model.classifier.requires_grad_(True)
    for layer in encoder.layer[-top_layers:]:
        layer.requires_grad_(True)
