"""Ids and pieces of a tokenizer, either way, and its special tokens."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any, overload

import numpy as np

from ..errors import InputError
from .settings import Settings


class PieceLookup:
    """The part of a tokenizer that knows its pieces."""

    settings: Settings

    @property
    def pieces(self) -> list[str]:
        """The pieces by id."""
        return self.settings.pieces

    @property
    def vocab_size(self) -> int:
        """Number of pieces."""
        return len(self.pieces)

    def __len__(self) -> int:
        return len(self.pieces)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {piece: number for number, piece in enumerate(self.pieces)}

    def get_vocab(self) -> dict[str, int]:
        """Ids by piece."""
        return dict(self._ids)

    def __getattr__(self, name: str) -> Any:
        # cls_token, cls_token_id and so on; None where the vocabulary has no such token.
        stem = name.removesuffix("_id")
        if stem.endswith("_token") and not name.startswith("_"):
            token = self.settings.special.get(stem)
            return token if stem == name or token is None else self._ids[token]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def all_special_tokens(self) -> list[str]:
        """The special tokens that the vocabulary has."""
        found = [token for token, special in self.settings.literals if special]
        return list(dict.fromkeys([*self.settings.special.values(), *found]))

    @property
    def all_special_ids(self) -> list[int]:
        """Their ids."""
        return [self._ids[token] for token in self.all_special_tokens]

    @property
    def model_max_length(self) -> int:
        """Tokens of a row with `truncation=True` and no `max_length`."""
        return self.settings.model_max_length

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Special tokens around a text or a pair of texts."""
        return 3 if pair else 2

    def row_tokens(self) -> dict[str, int]:
        """Ids of [CLS], [SEP] and [PAD] (0 if there is none) by the names `cls`, `sep` and `pad`.

        Raises:
            InputError: the vocabulary has no [CLS] or [SEP].
        """
        found = {name: getattr(self, f"{name}_token_id") for name in ("cls", "sep")}
        if missing := [name for name, number in found.items() if number is None]:
            raise InputError(
                f"the vocabulary has no {' and no '.join(f'[{name.upper()}]' for name in missing)}; "
                "add it, or encode with add_special_tokens=False"
            )
        return {**found, "pad": self.pad_token_id or 0}

    @overload
    def convert_ids_to_tokens(self, ids: int) -> str: ...
    @overload
    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]: ...
    def convert_ids_to_tokens(self, ids: int | Iterable[int]) -> str | list[str]:
        """Return the piece of an id, or those of several (lists, arrays, tensors)."""
        pieces = self.pieces
        if isinstance(ids, (int, np.integer)):
            return pieces[ids]
        return [pieces[int(number)] for number in ids]

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """Return the id of a piece, or those of several; that of [UNK] for what is no piece."""
        unknown = self.settings.unknown_id
        if isinstance(tokens, str):
            return self._ids.get(tokens, unknown)
        return [self._ids.get(token, unknown) for token in tokens]

    def decode(self, ids: int | Iterable[int], skip_special_tokens: bool = False) -> str:
        """Return the text of token ids, as `tokenizers` puts pieces together again."""
        from tokenizers.decoders import WordPiece

        tokens = self.convert_ids_to_tokens([ids] if isinstance(ids, (int, np.integer)) else ids)
        if skip_special_tokens:
            special = set(self.all_special_tokens)
            tokens = [token for token in tokens if token not in special]
        return str(WordPiece(prefix="##").decode(tokens))

    def batch_decode(self, rows: Iterable[Iterable[int]], skip_special_tokens: bool = False) -> list[str]:
        """Return the texts of several rows of ids."""
        return [self.decode(row, skip_special_tokens) for row in rows]
