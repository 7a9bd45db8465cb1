"""Labelled or unlabelled texts -> batches of one text a row, as a pure function of (seed, step)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .batch import Batch, Shares
from .hashing import Purpose, row_keys

# Rows are padded to a multiple of this, so that a compiled encoder meets few shapes.
_WIDTH_STEP = 32


@dataclass(frozen=True)
class TextBatch(Batch):
    """A micro-batch of B texts, one a row, nothing masked.

    labels   int64 [B], or None where they are not known
    numbers  int64 [B], which text of the `EncodedTexts` a row is
    epoch    that of the step's first row
    """

    labels: Tensor | None = None
    numbers: Tensor | None = None
    epoch: int = 0


@dataclass(frozen=True)
class EncodedTexts:
    """Texts as token ids, in memory.

    Args:
        ids: of each text with [CLS] and [SEP], int64.
        pad_id: of the tokenizer.
        labels: int64 [n], or None.
    """

    ids: Sequence[np.ndarray]
    pad_id: int
    labels: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not len(self.ids):
            raise InputError("no text to train on; check the split shares or give more text")

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return max(map(len, self.ids))

    def batch(
        self, numbers: np.ndarray, *, step: int = 0, epoch: int = 0, shares: Shares | None = None
    ) -> TextBatch:
        """The texts `numbers`, padded to a multiple of 32 tokens (or to the longest of all texts)."""
        lengths = np.array([len(self.ids[n]) for n in numbers])
        width = min(-(-int(lengths.max()) // _WIDTH_STEP) * _WIDTH_STEP, self.longest)
        input_ids = np.full((len(numbers), width), self.pad_id, dtype=np.int64)
        for row, number in enumerate(numbers):
            input_ids[row, : lengths[row]] = self.ids[number]
        tokens = np.arange(width) < lengths[:, None]
        nothing = torch.empty(0, dtype=torch.int64)
        return TextBatch(
            input_ids=torch.from_numpy(input_ids),
            segment_ids=torch.from_numpy(tokens.astype(np.int32)),
            position_ids=torch.arange(width).repeat(len(numbers), 1),
            token_type_ids=torch.zeros((len(numbers), width), dtype=torch.int64),
            masked_positions=nothing,
            masked_labels=nothing,
            next_sentence_labels=None,
            shares=shares or Shares(),
            tokens=int(lengths.sum()),
            step=step,
            rows=tuple(int(n) for n in numbers),
            full_rows=bool(tokens.all()),
            labels=None if self.labels is None else torch.from_numpy(self.labels[numbers]),
            numbers=torch.from_numpy(np.asarray(numbers, dtype=np.int64)),
            epoch=epoch,
        )

    def in_order(self, rows: int) -> Iterator[TextBatch]:
        """Every text once, in batches of `rows` texts of similar length."""
        order = np.argsort([len(ids) for ids in self.ids], kind="stable")
        for begin in range(0, len(order), rows):
            yield self.batch(order[begin : begin + rows])


class TextStream:
    """An endless stream of batches: each epoch shows every text once, in a new order.

    The order is random, not by length: a loss that looks at the mean prediction of a step (L_IM) must see a
    fair sample. A step takes the next `rows_per_step` texts and runs on into the next epoch where one ends.

    Args:
        texts: what to show.
        rows_per_step: texts of an optimiser step over all processes and micro-batches.
        seed: decides the order. accumulation_steps: micro-batches a step is cut into.
        rank, world_size: this process and how many there are.

    Raises:
        InputError: too few rows for the micro-batches of all processes.
    """

    def __init__(
        self,
        texts: EncodedTexts,
        rows_per_step: int,
        *,
        seed: int = 0,
        accumulation_steps: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if rows_per_step < accumulation_steps * world_size:
            raise InputError(
                f"{rows_per_step} texts a step cannot be cut into {accumulation_steps} micro-batches for "
                f"each of {world_size} processes; raise --batch_tokens or lower --accumulation_steps"
            )
        self.texts, self.rows_per_step, self.seed = texts, rows_per_step, seed
        self.accumulation_steps, self.rank, self.world_size = accumulation_steps, rank, world_size
        self._orders: dict[int, np.ndarray] = {}

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every text has been shown."""
        return -(-len(self.texts) // self.rows_per_step)

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            keys = row_keys(self.seed, Purpose.ORDER, np.array([epoch]), np.arange(len(self.texts)))
            newest = dict(list(self._orders.items())[-1:])
            self._orders = newest | {epoch: np.argsort(keys, kind="stable")}
        return self._orders[epoch]

    def step(self, step: int) -> list[TextBatch]:
        """This process's micro-batches of optimiser step `step`, counted from 0."""
        n = self.rows_per_step
        epochs, places = np.divmod(np.arange(step * n, (step + 1) * n), len(self.texts))
        numbers = np.array([self._order(int(e))[p] for e, p in zip(epochs, places, strict=True)])
        tokens = np.array([len(self.texts.ids[number]) for number in numbers])
        counts = (tokens, tokens**2, np.ones(n))
        batches = []
        mine = np.array_split(np.arange(n), self.world_size)[self.rank]
        for part in np.array_split(mine, self.accumulation_steps):
            parts = [float(count[part].sum()) * self.world_size / float(count.sum()) for count in counts]
            shares = Shares(masked=0.0, tokens=parts[0], pairs=parts[1], rows=parts[2])
            batches.append(self.texts.batch(numbers[part], step=step, epoch=int(epochs[0]), shares=shares))
        return batches

    def iterate(self, start: int, stop: int) -> Iterator[list[TextBatch]]:
        """Micro-batches of the steps start ... stop - 1."""
        return map(self.step, range(start, stop))


@dataclass(frozen=True)
class DomainBatch:
    """A micro-batch of source texts and one of target texts."""

    source: TextBatch
    target: TextBatch

    @property
    def tokens(self) -> int:
        """Tokens of both."""
        return self.source.tokens + self.target.tokens

    @property
    def rows(self) -> tuple[int, ...]:
        """Numbers of the target texts."""
        return self.target.rows

    def to(self, device: torch.device | str, non_blocking: bool = False) -> DomainBatch:
        """The same on `device`."""
        return DomainBatch(self.source.to(device, non_blocking), self.target.to(device, non_blocking))


@dataclass(frozen=True)
class DomainStream:
    """Steps of a source and a target stream side by side; both of as many rows a step."""

    source: TextStream
    target: TextStream

    @property
    def steps_per_epoch(self) -> int:
        """Steps that show every text of the smaller domain."""
        return min(self.source.steps_per_epoch, self.target.steps_per_epoch)

    def iterate(self, start: int, stop: int) -> Iterator[list[DomainBatch]]:
        """Micro-batches of the steps start ... stop - 1."""
        for step in range(start, stop):
            pairs = zip(self.source.step(step), self.target.step(step), strict=True)
            yield [DomainBatch(source, target) for source, target in pairs]
