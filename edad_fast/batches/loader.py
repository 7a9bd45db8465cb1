"""Shards -> batches, as a pure function of (seed, step)."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerFast

from ..errors import InputError
from .batch import Batch, Shares
from .hashing import Purpose, row_keys
from .packing import Ints, PackedRows, cut_documents
from .pairs import PairRows
from .rows import RowFiller
from .shards import TokenShards

# Sequences of a batch are filled up to a multiple of this.
_SEQUENCES = 256
# Steps that each thread prepares ahead.
_AHEAD = 4
# Threads that need an epoch's order wait for the first of them.
_ORDERING = threading.Lock()


class BatchStream:
    """An endless stream of masked batches over one split of the shards.

    Rows are drawn without replacement, in a new order and with new masks each epoch; a step takes the next
    `rows_per_step` rows and runs on into the next epoch where one ends. Rows and masks depend on the seed and
    the row's number alone: not on where one starts, workers, `accumulation_steps` or `world_size`.

    Args:
        shards: tokens.
        seq_len: tokens of a row, L.
        rows_per_step: rows of an optimiser step over all processes and micro-batches.
        cls_id, sep_id, pad_id, mask_id, vocab_size: of the tokenizer.
        continuation: bool [vocab_size], pieces that go on with a word ("##...").
        special: bool [vocab_size], tokens never masked and never put in as random tokens.
        seed: decides order, masks and pairs.
        accumulation_steps: micro-batches a step is cut into.
        mlm_probability: share of the tokens to predict; 0: no masks.
        whole_word: mask whole words.
        nsp: rows are pairs for next-sentence prediction.
        rank, world_size: this process and how many there are.
        split: documents to train on, or those held out.

    Raises:
        InputError: the split is empty or the sizes do not fit together.
    """

    def __init__(
        self,
        shards: TokenShards,
        *,
        seq_len: int,
        rows_per_step: int,
        cls_id: int,
        sep_id: int,
        pad_id: int,
        mask_id: int,
        vocab_size: int,
        continuation: npt.NDArray[np.bool_],
        special: npt.NDArray[np.bool_],
        seed: int = 0,
        accumulation_steps: int = 1,
        mlm_probability: float = 0.15,
        whole_word: bool = False,
        nsp: bool = False,
        rank: int = 0,
        world_size: int = 1,
        split: Literal["train", "held_out"] = "train",
    ) -> None:
        extra = 3 if nsp else 2
        if seq_len < extra + 2:
            raise InputError(f"seq_len is {seq_len}; rows need at least {extra + 2} tokens")
        if rows_per_step < accumulation_steps * world_size:
            raise InputError(
                f"{rows_per_step} rows a step cannot be cut into {accumulation_steps} micro-batches for each "
                f"of {world_size} processes; raise batch_tokens or lower accumulation_steps"
            )
        if not 0.0 <= mlm_probability <= 1.0:
            raise InputError(f"mlm_probability is {mlm_probability}; it must lie between 0 and 1")
        documents = shards.train if split == "train" else shards.held_out
        if not len(documents):
            way_out = {
                "train": "lower it or add text",
                "held_out": "raise it, add documents, or give --validation",
            }
            raise InputError(
                f"{shards.directory}: none of the {shards.n_documents} document(s) is in the {split} split "
                f"at held_out_fraction {shards.held_out_fraction:g}; {way_out[split]}"
            )
        self.seq_len, self.rows_per_step, self.accumulation_steps = seq_len, rows_per_step, accumulation_steps
        self.rank, self.world_size, self.seed = rank, world_size, seed
        self.mlm_probability = mlm_probability
        special = special.copy()
        special[[cls_id, sep_id, pad_id, mask_id]] = True
        self._filler = RowFiller(
            shards,
            seq_len,
            cls_id,
            sep_id,
            pad_id,
            mask_id,
            special=special,
            continuation=continuation if whole_word else None,
            probability=mlm_probability,
            seed=seed,
        )
        pieces = cut_documents(shards.offsets, documents, seq_len - extra)
        self._layout: PairRows | PackedRows
        if nsp:
            self._layout = PairRows(pieces, self._filler.read, continuation, seed)
        else:
            self._layout = PackedRows(pieces, seq_len)
        self._orders: dict[int, Ints] = {}

    @classmethod
    def for_tokenizer(
        cls, tokenizer: PreTrainedTokenizerFast, shards: TokenShards, **options: Any
    ) -> BatchStream:
        """Make a stream with ids, continuation pieces ("##...") and special tokens taken from `tokenizer`."""
        pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        special = np.zeros(len(pieces), np.bool_)
        special[tokenizer.all_special_ids] = True
        return cls(
            shards,
            cls_id=tokenizer.cls_token_id,
            sep_id=tokenizer.sep_token_id,
            pad_id=tokenizer.pad_token_id,
            mask_id=tokenizer.mask_token_id,
            vocab_size=len(pieces),
            continuation=np.array([piece.startswith("##") for piece in pieces]),
            special=special,
            **options,
        )

    @property
    def rows_per_epoch(self) -> int:
        """Rows that show every document once."""
        return self._layout.n_rows

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every row has been shown; the last of them may run on into the next epoch."""
        return -(-self._layout.n_rows // self.rows_per_step)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_orders": {}}

    def _order(self, epoch: int) -> Ints:
        """Order of the rows in one epoch; those of the last two epochs asked for are kept."""
        with _ORDERING:
            if epoch not in self._orders:
                rows = np.arange(self._layout.n_rows)
                keys = row_keys(self.seed, Purpose.ORDER, np.array([epoch]), rows)
                newest = dict(list(self._orders.items())[-1:])
                self._orders = newest | {epoch: np.argsort(keys, kind="stable")}
            return self._orders[epoch]

    def step(self, step: int) -> list[Batch]:
        """This process's micro-batches of optimiser step `step`, counted from 0."""
        n = self.rows_per_step
        numbers = np.arange(step * n, (step + 1) * n)
        epochs, places = np.divmod(numbers, self._layout.n_rows)
        shown = range(int(epochs[0]), int(epochs[-1]) + 1)
        rows = np.concatenate([self._order(epoch)[places[epochs == epoch]] for epoch in shown])

        # Every process fills the whole step: its share of the totals needs the other rows' counts.
        spans = self._layout.spans(rows, epochs)
        filled = self._filler.fill(spans, epochs, rows)
        counts = (filled.masked, filled.tokens, filled.pairs, np.ones(n))
        totals = [(count, max(1.0, float(count.sum()))) for count in counts]
        masked, begun = (np.concatenate([[0], np.cumsum(count)]) for count in (filled.masked, filled.begun))

        batches = []
        mine = np.array_split(np.arange(n), self.world_size)[self.rank]
        for part in np.array_split(mine, self.accumulation_steps):
            start, stop = int(part[0]), int(part[-1]) + 1
            here, chosen = slice(start, stop), slice(masked[start], masked[stop])
            first = start * self.seq_len
            begins = filled.begins[begun[start] : begun[stop]] - first
            batches.append(
                Batch(
                    input_ids=torch.from_numpy(filled.input_ids[here]),
                    segment_ids=torch.from_numpy(filled.segment_ids[here]),
                    position_ids=torch.from_numpy(filled.position_ids[here]),
                    token_type_ids=torch.from_numpy(filled.token_type_ids[here]),
                    masked_positions=torch.from_numpy(filled.masked_positions[chosen] - first),
                    masked_labels=torch.from_numpy(filled.masked_labels[chosen]),
                    next_sentence_labels=None if spans.labels is None else torch.tensor(spans.labels[here]),
                    shares=Shares(*(float(v[here].sum()) * self.world_size / total for v, total in totals)),
                    tokens=int(filled.tokens[here].sum()),
                    step=step,
                    rows=tuple(numbers[here].tolist()),
                    full_rows=bool(filled.full[here].all()),
                    cu_seqlens=torch.from_numpy(_sequences(begins, len(part) * self.seq_len)),
                )
            )
        return batches

    def iterate(
        self, start: int, stop: int, *, workers: int = 0, pin_memory: bool = False
    ) -> Iterator[list[Batch]]:
        """Yield `step(start)` to `step(stop - 1)`, in order, prepared ahead by `workers` threads.

        Threads, not processes: arrays are worked on outside Python's lock, and handing a batch from one
        process to another takes longer than making it.
        """

        def prepare(step: int) -> list[Batch]:
            batches = self.step(step)
            return [batch.pin_memory() for batch in batches] if pin_memory else batches

        if not workers:
            yield from map(prepare, range(start, stop))
            return
        steps = iter(range(start, stop))
        pool = ThreadPoolExecutor(workers, thread_name_prefix="loader")
        try:
            ahead = deque(pool.submit(prepare, step) for step in itertools.islice(steps, _AHEAD * workers))
            while ahead:
                batches = ahead.popleft().result()
                ahead.extend(pool.submit(prepare, step) for step in itertools.islice(steps, 1))
                yield batches
        finally:
            pool.shutdown(cancel_futures=True)


def _sequences(begins: Ints, size: int) -> npt.NDArray[np.int32]:
    """`Batch.cu_seqlens` of the places where segments and stretches of padding begin among `size` tokens."""
    filled = np.full(-(-len(begins) // _SEQUENCES) * _SEQUENCES + 1, size, np.int32)
    filled[: len(begins)] = begins
    return filled
