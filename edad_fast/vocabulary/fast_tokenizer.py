"""Texts -> WordPiece ids on the native core, with the interface of a transformers tokenizer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from .._native import Encoder
from ..errors import InputError
from .call import Call, encode_call
from .checks import check_threads
from .encoded_batch import EncodedBatch
from .file_input import FileRows, encode_files
from .lookup import PieceLookup
from .normalization import Compat
from .rows import Layout, Side, whole_rows
from .settings import Settings
from .text_input import arrow_chunks, as_texts, is_arrow

Ids = NDArray[np.int32]
Offsets = NDArray[np.int64]


class FastWordPieceTokenizer(PieceLookup):
    """BERT's tokenizer on the native core: the ids of transformers' BertTokenizer, many times faster.

    It can be pickled and shared by threads, and used after a fork; the GIL is released while it works.

    Args:
        vocabulary: pieces by id, or a dictionary from piece to id; a vocab.txt; or a directory or hub id of a
            tokenizer, whose files then say what is not given here.
        lowercase: uncased (True) or cased; None: what the directory says, for mere pieces uncased unless one
            of them has a capital letter.
        compat: `hf`: the installed `tokenizers`; `slow`: Google's original rules (they differ in rare
            characters). The slow BertTokenizer of transformers 4 is not quite `slow`: it brings text
            into NFC, and lower-cases character by character, so that a capital sigma at the end of a word
            becomes a plain small sigma; Google's code does neither.
        strip_accents: None: as `lowercase`.
        handle_chinese_chars: each Chinese character is a word.
        clean_text: drop control characters.
        model_max_length: tokens a row may have with `truncation=True` and no `max_length`.
        split_special_tokens: a special token written in the text ("[MASK]") is ordinary text.
        padding_side, truncation_side: where tokens are added and cut off.
        n_threads: threads used where a call does not say.

    Raises:
        InputError: no vocabulary; a piece twice or empty; no [UNK]; not a BERT tokenizer.
    """

    model_input_names = ("input_ids", "token_type_ids", "attention_mask")

    def __init__(
        self,
        vocabulary: Sequence[str] | Mapping[str, int] | str | os.PathLike[str],
        lowercase: bool | None = None,
        compat: Compat = "hf",
        *,
        strip_accents: bool | None = None,
        handle_chinese_chars: bool | None = None,
        clean_text: bool | None = None,
        model_max_length: int | None = None,
        split_special_tokens: bool = False,
        padding_side: Side = "right",
        truncation_side: Side = "right",
        n_threads: int = 1,
    ) -> None:
        if isinstance(vocabulary, (str, os.PathLike)):
            settings = Settings.from_path(vocabulary)
        else:
            settings = Settings.from_pieces(vocabulary)
        self._start(
            settings.replaced(
                lowercase=lowercase,
                compat=compat,
                strip_accents=strip_accents,
                handle_chinese_chars=handle_chinese_chars,
                clean_text=clean_text,
                model_max_length=model_max_length,
            ),
            split_special_tokens,
            padding_side,
            truncation_side,
            n_threads,
        )

    def _start(
        self, settings: Settings, split: bool, padding_side: Side, truncation_side: Side, n_threads: int
    ) -> None:
        for name, side in (("padding_side", padding_side), ("truncation_side", truncation_side)):
            if side not in ("left", "right"):
                raise InputError(f"{name} is {side!r}, not left or right")
        self.settings = settings
        self.split_special_tokens, self.n_threads = split, check_threads(n_threads)
        self.padding_side, self.truncation_side = padding_side, truncation_side
        self._encoders: dict[bool, Encoder] = {}
        self._encoder(split)  # a bad vocabulary is found here

    @classmethod
    def from_tokenizer(
        cls,
        tokenizer: PreTrainedTokenizerFast,
        *,
        compat: Compat = "hf",
        split_special_tokens: bool = False,
        n_threads: int = 1,
    ) -> FastWordPieceTokenizer:
        """Make a tokenizer that does what a transformers tokenizer of BERT does.

        Raises:
            InputError: it is no BERT tokenizer, or does more than one (see `Settings.from_tokenizer`).
        """
        sides: Any = tokenizer  # typed as any str there
        settings = Settings.from_tokenizer(tokenizer, needs_literals=not split_special_tokens)
        result = cls.__new__(cls)
        result._start(
            settings.replaced(compat=compat),
            split_special_tokens,
            sides.padding_side,
            sides.truncation_side,
            n_threads,
        )
        return result

    def with_pieces(self, pieces: Sequence[str] | Mapping[str, int]) -> FastWordPieceTokenizer:
        """A tokenizer that differs in its pieces only; the special tokens must be among them.

        Raises:
            InputError: a piece twice or empty, or a special token is absent.
        """
        result = type(self).__new__(type(self))
        result._start(
            self.settings.extended(pieces),
            self.split_special_tokens,
            self.padding_side,
            self.truncation_side,
            self.n_threads,
        )
        return result

    def __getstate__(self) -> dict[str, Any]:
        hidden = ("_encoders", "_ids")
        return {key: value for key, value in self.__dict__.items() if key not in hidden}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _encoders={})

    def _encoder(self, split: bool | None) -> Encoder:
        split = self.split_special_tokens if split is None else split
        if split not in self._encoders:
            self._encoders[split] = self.settings.encoder(literals=not split)
        return self._encoders[split]

    def encode_flat(
        self, texts: Any, add_special_tokens: bool = False, n_threads: int | None = None
    ) -> tuple[Ids, Offsets]:
        """Encode texts into one flat array.

        Args:
            texts: list of str, or an Arrow string array (plain, large, chunked; null is an empty text).
            add_special_tokens: put [CLS] and [SEP] around each text.

        Returns:
            ids: int32 [N]. row_offsets: int64 [B + 1]; text i is ids[row_offsets[i]:row_offsets[i + 1]].

        Raises:
            InputError: `texts` is neither, or a text holds half of a surrogate pair (mode hf; it is named).
        """
        ids, offsets, *_ = self._encode(texts, n_threads, None, details=False)
        if not add_special_tokens:
            return ids, offsets
        layout = Layout(whole_rows(np.diff(offsets)), offsets, offsets, special=True, pair=False)
        return layout.tokens(ids, None, **self.row_tokens(), dtype=np.int32), layout.bounds

    def encode_flat_with_offsets(
        self, texts: Any, n_threads: int | None = None
    ) -> tuple[Ids, Offsets, Ids, Ids]:
        """As `encode_flat`, and for each token its place and its word.

        Returns:
            ids, row_offsets: as `encode_flat`.
            spans: int32 [N, 2], first character in the original text and the one behind the last.
            word_ids: int32 [N], number of the word (BERT's pre-token) in its text.
        """
        ids, offsets, spans, words = self._encode(texts, n_threads, None, details=True)
        return ids, offsets, spans, words

    def encode_files(
        self,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        rows: FileRows = "file",
        encoding_errors: Literal["strict", "replace"] = "strict",
        max_line_mib: int = 64,
        n_threads: int | None = None,
    ) -> tuple[Ids, Offsets]:
        """Encode plain text files (.txt, also .gz .xz .zst; globs), without special tokens.

        Files are read in blocks: memory holds the ids, not the text.

        Args:
            rows: a row for each `file`, or for each `line`.
            encoding_errors: bytes that are not UTF-8 raise (`strict`) or count as U+FFFD (`replace`).
            max_line_mib: longest line accepted.

        Returns:
            ids int32 [N], row_offsets int64 [B + 1], as `encode_flat`.

        Raises:
            InputError: no such file, damaged or not text; the file and the place in it are named.
        """
        return encode_files(
            self._encoder(None),
            [paths] if isinstance(paths, (str, os.PathLike)) else paths,
            rows=rows,
            encoding_errors=encoding_errors,
            max_line_mib=max_line_mib,
            n_threads=self._threads(n_threads),
        )

    def _threads(self, n_threads: int | None) -> int:
        return self.n_threads if n_threads is None else check_threads(n_threads)

    def tokenize(self, text: str) -> list[str]:
        """Return the pieces of a text, without special tokens."""
        return self.convert_ids_to_tokens(self.encode_flat([text])[0])

    def encode(self, text: str, text_pair: str | None = None, **options: Any) -> list[int]:
        """Return the ids of one text or pair, with special tokens; options as of a call."""
        ids: list[int] = self(text, text_pair, **options)["input_ids"]
        return ids

    def _encode(self, texts: Any, n_threads: int | None, split: bool | None, *, details: bool) -> Any:
        """(ids, offsets) and with `details` also spans and words; flat."""
        encoder = self._encoder(split)
        threads = self._threads(n_threads)
        try:
            if not is_arrow(texts):
                method = encoder.encode_with_offsets if details else encoder.encode
                return method(as_texts(texts), threads)
            utf8 = encoder.encode_utf8_with_offsets if details else encoder.encode_utf8
            parts: list[Any] = [utf8(data, offsets, threads) for data, offsets in arrow_chunks(texts)]
        except InputError:
            raise
        except (TypeError, ValueError) as error:
            raise InputError(f"the texts cannot be encoded: {error}") from error
        if not parts:
            return self._encode([], threads, split, details=details)
        ends = np.cumsum([0, *(len(part[0]) for part in parts)])
        offsets = [part[1][1:] + end for part, end in zip(parts, ends, strict=False)]
        joined = [np.concatenate(column) for column in zip(*parts, strict=True)]
        joined[1] = np.concatenate([np.zeros(1, np.int64), *offsets])
        return tuple(joined)

    def __call__(
        self,
        text: Any,
        text_pair: Any = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: Side | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        split_special_tokens: bool | None = None,
        n_threads: int | None = None,
    ) -> EncodedBatch:
        """Encode texts or pairs of texts as a model takes them, like a call of a transformers tokenizer.

        Args:
            text: a str, a list of str, a list of pairs (tuples) of str, or an Arrow string array; with
                `is_split_into_words` a list of words or a list of such lists.
            text_pair: the second texts, in the same form.
            padding: True or "longest", "max_length", or False.
            truncation: True or "longest_first", "only_first", "only_second", or False. A mere `max_length`
                switches it on.
            stride: tokens that overflowing rows have in common with the row before.
            return_tensors: "np" or "pt" (int64, [R, L]); None: lists.
            return_overflowing_tokens: what is cut off becomes further rows; `overflow_to_sample_mapping` says
                whose.
            n_threads: threads for this call.

        Raises:
            InputError: options that do not go together, texts of a wrong type, or rows of unequal lengths
                for `return_tensors`.
        """
        return encode_call(
            self,
            text,
            text_pair,
            Call(
                add_special_tokens=add_special_tokens,
                padding=padding,
                truncation=truncation,
                max_length=max_length,
                stride=stride,
                is_split_into_words=is_split_into_words,
                pad_to_multiple_of=pad_to_multiple_of,
                padding_side=padding_side or self.padding_side,
                return_tensors=return_tensors,
                return_token_type_ids=return_token_type_ids is not False,
                return_attention_mask=return_attention_mask is not False,
                return_overflowing_tokens=return_overflowing_tokens,
                return_special_tokens_mask=return_special_tokens_mask,
                return_offsets_mapping=return_offsets_mapping,
                return_length=return_length,
            ),
            lambda texts, details: self._encode(texts, n_threads, split_special_tokens, details=details),
        )


def encode_documents(
    tokenizer: PreTrainedTokenizerFast | FastWordPieceTokenizer, texts: Sequence[str]
) -> tuple[Ids, Offsets]:
    """Encode whole documents, without [CLS] and [SEP], never cut or padded.

    A special token written in the text (a literal "[MASK]") is encoded as the ordinary characters it consists
    of.

    Args:
        tokenizer: a `FastWordPieceTokenizer` saves making one at every call and says how many threads work.

    Returns:
        ids: int32, flat.
        offsets: int64 [len(texts) + 1]; document i is `ids[offsets[i]:offsets[i + 1]]`.
    """
    if not isinstance(tokenizer, FastWordPieceTokenizer):
        tokenizer = FastWordPieceTokenizer.from_tokenizer(tokenizer, split_special_tokens=True)
    ids, offsets = tokenizer._encode(texts, None, True, details=False)
    return ids, offsets
