"""What a user of Hugging Face and PyTorch writes around any two-stage distillation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast, get_linear_schedule_with_warmup

from edad_fast.batches import TokenShards

Batch = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How to train; the same for both baselines, and the values that ours is given.

    Args:
        seq_len, rows: tokens of a row with [CLS] and [SEP], rows of an optimiser step.
        pairs: layer map, (student layer, teacher layer) from 1.
        steps: length of the learning-rate schedule.
        precision: "bf16" (autocast over fp32 weights) or "fp32".
        workers: processes of the DataLoader.
        compile: torch.compile where a system uses it.
    """

    device: torch.device
    seq_len: int
    rows: int
    pairs: Sequence[tuple[int, int]]
    steps: int
    precision: str = "bf16"
    workers: int = 1
    compile: bool = False
    mlm_probability: float = 0.15
    teacher_learning_rate: float = 1e-4
    student_learning_rate: float = 5e-4
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0

    @property
    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


@dataclass
class Part:
    """One stage of a system, ready to be timed.

    Args:
        name: "adapt", "distil" or "edad".
        batches: one pass over the text, on the host.
        step: one optimiser step; nothing waits for the device.
        size: batch -> (tokens without padding, cells with padding).
        shape: batch -> what decides the shapes of its tensors, hashable.
        check: waits for the device; raises ValueError if a loss was not finite.
        note: what was chosen at the start.
    """

    name: str
    batches: Callable[[], Iterable[Any]]
    step: Callable[[Any], None]
    size: Callable[[Any], tuple[int, int]]
    shape: Callable[[Any], object]
    check: Callable[[], None]
    note: str = ""


class Chunks(Dataset[list[int]]):
    """Documents cut every `seq_len` - 2 tokens: `[CLS] piece [SEP]` each; nothing runs over documents."""

    def __init__(self, shards: TokenShards, tokenizer: PreTrainedTokenizerFast, seq_len: int) -> None:
        room = seq_len - 2
        self._ends = [tokenizer.cls_token_id], [tokenizer.sep_token_id]
        documents = (shards.document(int(number)) for number in shards.train)
        self._pieces: list[npt.NDArray[np.int32]] = [
            document[start : start + room]
            for document in documents
            for start in range(0, len(document), room)
        ]

    def __len__(self) -> int:
        return len(self._pieces)

    def __getitem__(self, index: int) -> list[int]:
        first, last = self._ends
        return first + self._pieces[index].tolist() + last

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row, [CLS] and [SEP] included."""
        return [len(piece) + 2 for piece in self._pieces]


def split(order: Sequence[int], rows: int) -> list[list[int]]:
    """Cut `order` into even batches of about `rows`: a short last one would pay an update for few rows."""
    return [part.tolist() for part in np.array_split(order, max(1, round(len(order) / rows)))]


def loader(
    chunks: Chunks,
    batches: Iterable[list[int]],
    collate: Callable[[Sequence[list[int]]], Batch],
    settings: Settings,
) -> Iterator[Batch]:
    """Batches of the rows `batches`, made by worker processes and, for a GPU, in page-locked memory."""
    return iter(
        DataLoader(
            chunks,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=settings.workers,
            pin_memory=settings.device.type == "cuda",
        )
    )


class Optimisation:
    """Fused AdamW without decay on vectors, clipping, and a linear schedule with warm-up."""

    def __init__(self, modules: Sequence[nn.Module], learning_rate: float, settings: Settings) -> None:
        named = [p for module in modules for p in module.parameters() if p.requires_grad]
        self.parameters = list(dict.fromkeys(named))
        groups = [
            {"params": [p for p in self.parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
            {"params": [p for p in self.parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self._adamw = torch.optim.AdamW(groups, lr=learning_rate, fused=True)
        self._schedule = get_linear_schedule_with_warmup(
            self._adamw, num_warmup_steps=settings.steps // 10, num_training_steps=settings.steps
        )
        self._norm = settings.max_grad_norm
        self._loss: Tensor | None = None

    def step(self, loss: Tensor) -> None:
        """Backward, clip, update; the loss is not read back."""
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self._norm)
        self._adamw.step()
        self._schedule.step()
        self._adamw.zero_grad(set_to_none=True)
        self._loss = loss.detach()

    def check(self) -> None:
        """Raises ValueError if the last loss was not finite; a loss that was so spoils all that follow."""
        if self._loss is not None and not self._loss.isfinite().item():
            raise ValueError("the loss is not finite")


def fit_dense(student: PreTrainedModel, teacher: PreTrainedModel, device: torch.device) -> nn.Linear:
    """TinyBERT's projection of student states to the teacher's width, one for all layers."""
    linear = nn.Linear(student.config.hidden_size, teacher.config.hidden_size)
    nn.init.normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return linear.to(device)


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The tensors of `batch` on `device`."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


def size(batch: Batch) -> tuple[int, int]:
    """Tokens without padding, and cells."""
    return batch["tokens"], batch["input_ids"].numel()


def shape(batch: Batch) -> object:
    """Shapes of all tensors, and what is None."""
    return tuple((name, tuple(x.shape) if isinstance(x, Tensor) else x is None) for name, x in batch.items())


def needs_attention_interface() -> None:
    """Raises RuntimeError under a transformers whose BERT does not obey `AttentionInterface`."""
    if int(transformers.__version__.split(".")[0]) < 5:
        raise RuntimeError(
            f"transformers {transformers.__version__}: the baselines patch BERT's attention through its "
            "AttentionInterface; install transformers 5"
        )
