"""Dynamic masking for the masked language model (Devlin et al. 2019, arXiv 1810.04805, appendix A.1)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .hashing import Purpose, below, draw, row_keys, unit
from .packing import Ints

Bools = npt.NDArray[np.bool_]


def _word_starts(input_ids: Ints, ordinary: Bools, continuation: Bools) -> Ints:
    """Column at which each token's word starts; int64 [R, L]. A word cut by a row's start begins there."""
    columns = np.arange(input_ids.shape[1])
    starts = ~(continuation[input_ids] & ordinary)
    starts[:, 0] = True
    starts[:, 1:] |= ~ordinary[:, :-1]
    result: Ints = np.maximum.accumulate(np.where(starts, columns, 0), axis=1)
    return result


def choose_positions(
    input_ids: Ints,
    special: Bools,
    continuation: Bools | None,
    probability: float,
    seed: int,
    epochs: Ints,
    rows: Ints,
) -> Ints:
    """Choose the positions to predict, as a pure function of (seed, epoch, row).

    Of a row with n ordinary tokens exactly max(1, round(probability * n)) are chosen (none if n or the
    probability is 0). With `continuation` whole words are chosen in random order as long as that brings the
    count nearer to this number, and at least one word.

    Args:
        input_ids: int64 [R, L].
        special: bool [V], tokens never chosen, with padding.
        continuation: bool [V], tokens that go on with the word before them; None: single tokens are chosen.
        probability: share of the tokens.
        seed: key of the choice.
        epochs: int64 [R], key of the choice.
        rows: int64 [R], key of the choice.

    Returns:
        int64 [M], ascending, flat into R * L.
    """
    n_rows, seq_len = input_ids.shape
    if probability == 0.0:
        return np.zeros(0, np.int64)
    columns = np.arange(seq_len)
    ordinary = ~special[input_ids]
    n = ordinary.sum(axis=1)
    budget = np.where(n > 0, np.maximum(1, np.rint(probability * n)), 0).astype(np.int64)

    # One sortable number a token: random bits of its word, then the word's column, then its own. Sorting puts
    # the words in random order with their tokens side by side; what is never chosen comes last.
    bits = np.uint64(max(1, (seq_len - 1).bit_length()))
    low = (np.uint64(1) << bits) - np.uint64(1)
    keys = draw(row_keys(seed, Purpose.MASK, epochs, rows)[:, None], columns)
    starts = columns[None] if continuation is None else _word_starts(input_ids, ordinary, continuation)
    if continuation is not None:
        keys = np.take_along_axis(keys, starts, axis=1)
    keys &= ~((low << bits) | low)
    keys |= (starts.astype(np.uint64) << bits) | columns.astype(np.uint64)
    keys[~ordinary] = np.iinfo(np.uint64).max
    keys.sort(axis=1)

    if continuation is None:
        chosen = columns < budget[:, None]
    else:
        words = ((keys >> bits) & low).astype(np.int64) + np.arange(n_rows)[:, None] * seq_len
        new = np.ones((n_rows, seq_len), np.bool_)
        new[:, 1:] = words[:, 1:] != words[:, :-1]
        before = np.maximum.accumulate(np.where(new, columns, 0), axis=1)
        among = columns < n[:, None]
        size = np.bincount(words[among], minlength=n_rows * seq_len)
        sizes = size[np.minimum(words, n_rows * seq_len - 1)]
        chosen = ((2 * before + sizes <= 2 * budget[:, None]) | (before == 0)) & among
    flat = (keys & low).astype(np.int64) + np.arange(n_rows)[:, None] * seq_len
    positions: Ints = np.sort(flat[chosen])
    return positions


def replace_tokens(
    input_ids: Ints, positions: Ints, mask_id: int, replacements: Ints, seed: int, epochs: Ints, rows: Ints
) -> Ints:
    """Corrupt `input_ids` in place at `positions`: 80% mask, 10% a random token, 10% left as they are.

    Args:
        input_ids: int64 [R, L], C-contiguous.
        positions: int64 [M], flat into R * L.
        mask_id: id of [MASK].
        replacements: int64, the ids that random tokens are drawn from.
        seed: key of the choice.
        epochs: int64 [R], key of the choice.
        rows: int64 [R], key of the choice.

    Returns:
        int64 [M], the tokens that stood there.
    """
    flat = input_ids.reshape(-1)
    labels = flat[positions]
    row, column = np.divmod(positions, input_ids.shape[1])

    def numbers(purpose: Purpose) -> npt.NDArray[np.uint64]:
        return draw(row_keys(seed, purpose, epochs, rows)[row], column)

    action = unit(numbers(Purpose.ACTION))
    random_ids = replacements[below(numbers(Purpose.REPLACEMENT), np.array(len(replacements)))]
    flat[positions] = np.where(action < 0.8, mask_id, np.where(action < 0.9, random_ids, labels))
    return labels
