"""A call in the manner of transformers: options, and from encoded texts to rows of model inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .checks import MOST_ROWS, check_int
from .encoded_batch import Details, EncodedBatch
from .rows import Ints, Layout, Side, Truncation, cut_rows
from .text_input import as_texts, is_arrow

if TYPE_CHECKING:
    from .fast_tokenizer import FastWordPieceTokenizer

_NO_LIMIT = 10**20  # a model_max_length above means that there is none
_NONE = np.zeros(1, np.int64)
Encode = Callable[[Any, bool], tuple[NDArray[Any], ...]]  # (texts, details) -> ids, offsets[, spans, words]


@dataclass(frozen=True)
class Call:
    """The options of a call; see `FastWordPieceTokenizer.__call__`."""

    add_special_tokens: bool
    padding: bool | str
    truncation: bool | str | None
    max_length: int | None
    stride: int
    is_split_into_words: bool
    pad_to_multiple_of: int | None
    padding_side: Side
    return_tensors: str | None
    return_token_type_ids: bool
    return_attention_mask: bool
    return_overflowing_tokens: bool
    return_special_tokens_mask: bool
    return_offsets_mapping: bool
    return_length: bool

    def resolved(self, model_max_length: int) -> tuple[str, Truncation | None, int | None]:
        """Kind of padding, kind of truncation and length, after the rules of transformers.

        Raises:
            InputError: an unknown value, a number out of range, or a length that is no multiple.
        """
        truncation: Any = self.truncation
        if truncation is None and self.max_length is not None and self.padding is False:
            truncation = True
        truncation = {True: "longest_first", False: None, "do_not_truncate": None}.get(truncation, truncation)
        padding: Any = self.padding
        padding = {True: "longest", False: "do_not_pad"}.get(padding, padding)
        for name, value, known in (
            ("padding", padding, ("longest", "max_length", "do_not_pad")),
            ("truncation", truncation, (None, "longest_first", "only_first", "only_second")),
            ("return_tensors", self.return_tensors, (None, "np", "pt")),
            ("padding_side", self.padding_side, ("left", "right")),
        ):
            if value not in known:
                raise InputError(f"{name} is {value!r}, not one of {', '.join(map(str, known))}")
        length = self.max_length
        if length is None and model_max_length > _NO_LIMIT:
            truncation = None
            padding = "do_not_pad" if padding == "max_length" else padding
        elif length is None and (truncation or padding == "max_length"):
            length = model_max_length
        check_int("stride", self.stride, 0)
        if length is not None:
            length = check_int("max_length", length, 0)
        if (multiple := self.pad_to_multiple_of) is not None:
            multiple = check_int("pad_to_multiple_of", multiple, 1, MOST_ROWS)
        if truncation and padding != "do_not_pad" and multiple and length is not None and length % multiple:
            raise InputError(
                f"max_length {length} is no multiple of pad_to_multiple_of {multiple}; rows are cut to the "
                "one and padded to the other"
            )
        return padding, truncation, length


@dataclass(frozen=True)
class _Texts:
    """Texts to encode; with `words` the texts are words, and sample i is words[i] to words[i + 1]."""

    texts: Any
    words: Ints | None

    def encode(self, encode: Encode, details: bool) -> tuple[NDArray[Any], ...]:
        ids, offsets, *rest = encode(self.texts, details)
        if self.words is None:
            return ids, offsets, *rest
        if rest:
            number = np.arange(len(offsets) - 1) - np.repeat(self.words[:-1], np.diff(self.words))
            rest[1] = np.repeat(number, np.diff(offsets))
        return ids, offsets[self.words], *rest


def _texts(value: Any, split: bool, name: str) -> _Texts:
    if not split:
        return _Texts(value if is_arrow(value) else as_texts(value, name), None)
    samples = [as_texts(words, f"{name}[{number}]") for number, words in enumerate(value)]
    lengths = np.fromiter(map(len, samples), np.int64, len(samples))
    return _Texts([w for words in samples for w in words], np.concatenate([_NONE, np.cumsum(lengths)]))


def _inputs(text: Any, pair: Any, split: bool) -> tuple[_Texts, _Texts | None, bool]:
    """First texts, second texts or None, and whether there is one text alone."""
    listed = isinstance(text, (list, tuple, np.ndarray))
    if split:
        batched = listed and len(text) > 0 and isinstance(text[0], (list, tuple, np.ndarray))
    else:
        batched = listed or is_arrow(text)
    if not batched:
        second = _texts([pair], split, "text_pair") if pair is not None and len(pair) else None
        return _texts([text], split, "text"), second, True
    if pair is None and not split and listed and len(text) and isinstance(text[0], (tuple, list)):
        for number, both in enumerate(text):
            if not isinstance(both, (tuple, list)) or len(both) != 2:
                raise InputError(f"text[{number}] is no pair of texts as text[0] is; give pairs throughout")
        first, second_texts = zip(*text, strict=True)
        return _texts(list(first), False, "text"), _texts(list(second_texts), False, "text_pair"), False
    if pair is not None and (isinstance(pair, str) or len(pair) != len(text)):
        size = "one str" if isinstance(pair, str) else f"{len(pair)} texts"
        raise InputError(f"text_pair is {size}, text has {len(text)} texts; give as many of both")
    return _texts(text, split, "text"), None if pair is None else _texts(pair, split, "text_pair"), False


def encode_call(
    tokenizer: FastWordPieceTokenizer, text: Any, text_pair: Any, call: Call, encode: Encode
) -> EncodedBatch:
    """Encode texts and lay them out; see `FastWordPieceTokenizer.__call__`."""
    padding, truncation, length = call.resolved(tokenizer.model_max_length)
    first_texts, second_texts, single = _inputs(text, text_pair, call.is_split_into_words)
    pair = second_texts is not None
    filler = tokenizer.row_tokens() if call.add_special_tokens else {"cls": 0, "sep": 0, "pad": 0}
    extra = tokenizer.num_special_tokens_to_add(pair) if call.add_special_tokens else 0
    if truncation and cast(int, length) < extra:
        raise InputError(
            f"max_length {length} leaves no room for {extra} special tokens; give {extra} or more, "
            "or add_special_tokens=False"
        )

    def encoded(details: bool) -> tuple[tuple[NDArray[Any], ...], tuple[NDArray[Any], ...] | None]:
        one = first_texts.encode(encode, details)
        return one, None if second_texts is None else second_texts.encode(encode, details)

    first, second = encoded(call.return_offsets_mapping)
    lengths = np.diff(first[1])
    rows = cut_rows(
        lengths,
        np.zeros_like(lengths) if second is None else np.diff(second[1]),
        room=cast(int, length) - extra if truncation else None,
        strategy=truncation or "longest_first",
        stride=call.stride,
        side=tokenizer.truncation_side,
        overflow=call.return_overflowing_tokens,
    )
    row_lengths = rows.first_length + rows.second_length + extra
    layout = Layout(
        rows,
        first[1],
        first[1] if second is None else second[1],
        special=call.add_special_tokens,
        pair=pair,
        target=_target(padding, length, call.pad_to_multiple_of, row_lengths, rows.sample),
        side=call.padding_side,
    )
    if layout.has_padding:
        if tokenizer.pad_token_id is None:
            raise InputError("the vocabulary has no [PAD]; add it, or encode without padding")
        filler["pad"] = tokenizer.pad_token_id

    def place(column: int, cls: int, sep: int, pad: int) -> NDArray[Any]:
        other = None if second is None else second[column]
        return layout.tokens(first[column], other, cls=cls, sep=sep, pad=pad, dtype=np.int64)

    ids = place(0, **filler)
    flat = {"input_ids": ids}
    if call.return_token_type_ids:
        flat["token_type_ids"] = layout.token_types()
    if call.return_attention_mask:
        flat["attention_mask"] = layout.attention()
    if call.return_special_tokens_mask:
        flat["special_tokens_mask"] = (layout.sequences() < 0).astype(np.int64)
    if call.return_offsets_mapping:
        flat["offset_mapping"] = place(2, 0, 0, 0)

    def details() -> Details:
        nonlocal first, second
        if len(first) == 2:
            first, second = encoded(True)
        return Details(place(3, -1, -1, -1), layout.sequences(), place(2, 0, 0, 0))

    data = _shaped(flat, layout.bounds, call.return_tensors is not None)
    if call.return_length:
        data["length"] = np.diff(layout.bounds)
    if call.return_overflowing_tokens:
        data["overflow_to_sample_mapping"] = rows.sample
    if call.return_tensors is None:
        data = {key: v.tolist() if isinstance(v, np.ndarray) else v for key, v in data.items()}
        if single and not call.return_overflowing_tokens:
            data = {key: value[0] if isinstance(value[0], list) else value for key, value in data.items()}
    elif call.return_tensors == "pt":
        import torch

        data = {key: torch.from_numpy(value) for key, value in data.items()}
    return EncodedBatch(data, tokenizer.pieces, ids, layout.bounds, details, 2 if pair else 1)


def _target(padding: str, length: int | None, multiple: int | None, row_lengths: Ints, sample: Ints) -> int:
    """Length that shorter rows are padded to; 0 for none."""
    if padding == "do_not_pad" or not len(row_lengths):
        return 0
    # Overflowing rows do not count, as in tokenizers: they are longer where a text is cut to nothing.
    kept = row_lengths[np.unique(sample, return_index=True)[1]]
    target = int(kept.max()) if padding == "longest" else cast(int, length)
    return -(-target // multiple) * multiple if multiple else target


def _shaped(flat: dict[str, NDArray[Any]], bounds: Ints, tensors: bool) -> dict[str, Any]:
    """Arrays [R, L], or [R, L, 2] for offsets; without `tensors` a list for each row."""
    widths = np.diff(bounds)
    if tensors:
        if len(widths) and widths.min() != widths.max():
            raise InputError(
                f"the rows have {widths.min()} to {widths.max()} tokens and make no tensor; "
                "give padding=True, and truncation=True where max_length is to be kept"
            )
        width = int(widths[0]) if len(widths) else 0
        return {key: value.reshape(len(widths), width, *value.shape[1:]) for key, value in flat.items()}
    edges = list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
    result: dict[str, Any] = {}
    for key, value in flat.items():
        values: list[Any] = value.tolist()
        if value.ndim == 2:
            values = list(map(tuple, values))
        result[key] = [values[start:stop] for start, stop in edges]
    return result
