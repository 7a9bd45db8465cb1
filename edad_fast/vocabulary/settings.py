"""All that makes a `FastWordPieceTokenizer`: pieces, special tokens, normalisation."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from .._native import Encoder
from ..errors import InputError
from .checks import as_pieces, check_int
from .normalization import MAX_WORD_CHARACTERS, Normalization
from .tokenizer import (
    SPECIAL_DEFAULTS,
    check_bert,
    is_cased,
    load_tokenizer,
    read_vocab,
    special_tokens,
    vocabulary_of,
)

_PLAIN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


@dataclass(frozen=True)
class Settings:
    """What a tokenizer is made of.

    special: special tokens by name (`cls_token` ...). literals: tokens found in the text as they stand, and
    whether each is special.
    """

    pieces: list[str]
    special: dict[str, str]
    literals: tuple[tuple[str, bool], ...]
    normalization: Normalization
    max_word_characters: int = MAX_WORD_CHARACTERS
    model_max_length: int = int(1e30)

    @classmethod
    def from_pieces(cls, pieces: Sequence[str] | Mapping[str, int]) -> Settings:
        """Of mere pieces: the usual special tokens, uncased unless a piece has a capital letter.

        Raises:
            InputError: see `as_pieces`.
        """
        held = as_pieces(pieces)
        known = set(held)
        special = {name: token for name, token in SPECIAL_DEFAULTS.items() if token in known}
        literals = tuple((token, True) for token in special.values())
        return cls(held, special, literals, Normalization(lowercase=not is_cased(held)))

    @classmethod
    def from_path(cls, path: str | os.PathLike[str]) -> Settings:
        """Of a vocab.txt, or of a directory or hub id as `load_tokenizer` takes it.

        Raises:
            InputError: there is no tokenizer, or it is not BERT's.
        """
        if Path(path).is_file():
            return cls.from_pieces(read_vocab(path))
        return cls.from_tokenizer(load_tokenizer(path))

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerFast, *, needs_literals: bool = True) -> Settings:
        """Of a transformers tokenizer.

        Args:
            needs_literals: whether special tokens written in the text are to be found.

        Raises:
            InputError: not BERT's model, normaliser, pre-tokeniser or special tokens around a text; pieces
                inside words that do not start with "##"; a model with another unknown token than the
                tokenizer; tokens outside the model; or a token that is found by other rules than as it
                stands.
        """
        definition: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
        check_bert(definition, tokenizer.name_or_path or "the tokenizer")
        pieces = vocabulary_of(tokenizer)
        special = special_tokens(tokenizer)
        if (unknown := definition["model"]["unk_token"]) != special["unk_token"]:
            if tokenizer.unk_token is not None:
                raise InputError(
                    f"the tokenizer's unk_token is {special['unk_token']!r}, but its WordPiece model gives "
                    f"{unknown!r}; set both to the same"
                )
            special["unk_token"] = unknown
        literals = []
        for token in definition["added_tokens"]:
            content = token["content"]
            if (needs_literals or not token["special"]) and any(token[flag] for flag in _PLAIN_FLAGS):
                flags = " and ".join(flag for flag in _PLAIN_FLAGS if token[flag])
                raise InputError(
                    f"the added token {content!r} is looked for with {flags}, which the native tokenizer "
                    "does not do; remove it from added_tokens (its row stays), or clear the flags"
                )
            literals.append((content, bool(token["special"])))
        _check_special_places(definition["post_processor"], special)
        return cls(
            pieces,
            {name: token for name, token in special.items() if token in set(pieces)},
            tuple(literals),
            Normalization.of(tokenizer),
            definition["model"].get("max_input_chars_per_word", MAX_WORD_CHARACTERS),
            tokenizer.model_max_length,
        )

    def replaced(self, model_max_length: int | None = None, **options: Any) -> Settings:
        """A copy with those of the options that are not None; see `Normalization`."""
        given = {key: value for key, value in options.items() if value is not None}
        if "lowercase" in given and "strip_accents" not in given:
            given["strip_accents"] = None  # it goes with lowercase
        normalization = dataclasses.replace(self.normalization, **given)
        length = self.model_max_length
        if model_max_length is not None:
            length = check_int("model_max_length", model_max_length, 0, 10**60)
        return dataclasses.replace(self, normalization=normalization, model_max_length=length)

    def extended(self, vocabulary: Sequence[str] | Mapping[str, int]) -> Settings:
        """A copy over other pieces with the same special tokens.

        Raises:
            InputError: a special token is not among the pieces; or see `as_pieces`.
        """
        pieces = as_pieces(vocabulary)
        known = set(pieces)
        tokens = [*self.special.values(), *(token for token, _ in self.literals)]
        if missing := [token for token in dict.fromkeys(tokens) if token not in known]:
            raise InputError(f"the vocabulary lacks {', '.join(missing)}; keep the special tokens")
        return dataclasses.replace(self, pieces=pieces)

    def with_pieces(self, pieces: list[str]) -> Settings:
        """A copy over other pieces, with [UNK] as the one special token."""
        return dataclasses.replace(self, pieces=pieces, special={"unk_token": "[UNK]"}, literals=())

    @property
    def unknown_id(self) -> int:
        """Id of [UNK].

        Raises:
            InputError: the vocabulary has none.
        """
        try:
            return self.pieces.index(self.special.get("unk_token", "[UNK]"))
        except ValueError:
            raise InputError("the vocabulary has no [UNK]; a BERT vocabulary is needed") from None

    def encoder(self, *, literals: bool) -> Encoder:
        """The native encoder; without `literals` special tokens in the text are ordinary characters."""
        ids = {piece: number for number, piece in enumerate(self.pieces)}
        found = [(token, ids[token]) for token, special in self.literals if literals or not special]
        try:
            return Encoder(
                self.pieces,
                unk_id=self.unknown_id,
                prefix="##",
                max_chars=self.max_word_characters,
                literals=found,
                **self.normalization.options(),
            )
        except ValueError as error:
            raise InputError(f"not a vocabulary: {error}") from error


def _check_special_places(processor: dict[str, Any] | None, special: dict[str, str]) -> None:
    """Refuse other special tokens than [CLS] first [SEP] second [SEP]."""
    kind = (processor or {}).get("type")
    if processor is None or kind == "BertProcessing":
        return
    cls, sep = special["cls_token"], special["sep_token"]
    if kind == "TemplateProcessing":
        single = [(cls, 0), ("A", 0), (sep, 0)]
        expected = {"single": single, "pair": [*single, ("B", 1), (sep, 1)]}
        found = {
            name: [(next(iter(item.values()))["id"], next(iter(item.values()))["type_id"]) for item in items]
            for name, items in processor.items()
            if name in expected
        }
        if found == expected:
            return
    raise InputError(
        f"the tokenizer puts other special tokens around a text than BERT's {cls} ... {sep}; "
        "take a BERT tokenizer"
    )
