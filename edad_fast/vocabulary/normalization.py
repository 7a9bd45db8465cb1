"""How texts are turned into words: BERT's normalisation, in one of two modes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedTokenizerFast

from ..errors import InputError
from .checks import shown

Compat = Literal["hf", "slow"]
MAX_WORD_CHARACTERS = 100


@dataclass(frozen=True)
class Normalization:
    """BERT's normalisation and pre-tokenisation.

    compat: `hf`: as the installed `tokenizers`; `slow`: Google's original rules.
    strip_accents: None: as `lowercase`, as in the original BERT.
    """

    compat: Compat = "hf"
    lowercase: bool = True
    strip_accents: bool | None = None
    handle_chinese_chars: bool = True
    clean_text: bool = True

    def __post_init__(self) -> None:
        if self.compat not in ("hf", "slow"):
            raise InputError(f"compat is {shown(self.compat)}; there are 'hf' and 'slow'")
        for name in ("lowercase", "strip_accents", "handle_chinese_chars", "clean_text"):
            value = getattr(self, name)
            if not (isinstance(value, bool) or (value is None and name == "strip_accents")):
                raise InputError(f"{name} is {shown(value)}; give True or False")
        if self.strip_accents is None:
            object.__setattr__(self, "strip_accents", self.lowercase)

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast, compat: Compat = "hf") -> Normalization:
        """The normalisation of a transformers tokenizer of BERT."""
        normalizer: Any = tokenizer.backend_tokenizer.normalizer
        return cls(
            compat,
            normalizer.lowercase,
            normalizer.strip_accents,
            normalizer.handle_chinese_chars,
            normalizer.clean_text,
        )

    def options(self) -> dict[str, Any]:
        """The options as the native classes take them, and as count tables record them."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return ", ".join(f"{key} {value}" for key, value in self.options().items())


def check_word_limit(tokenizer: PreTrainedTokenizerFast) -> None:
    """Raise InputError if a tokenizer gives up words at another length than BERT's 100 characters.

    Words are counted and pieces learned and proved under that limit; encoding takes any.
    """
    limit = getattr(tokenizer.backend_tokenizer.model, "max_input_chars_per_word", MAX_WORD_CHARACTERS)
    if limit != MAX_WORD_CHARACTERS:
        raise InputError(
            f"the tokenizer's max_input_chars_per_word is {limit}; vocabularies are learned for BERT's "
            f"{MAX_WORD_CHARACTERS}: set it to {MAX_WORD_CHARACTERS}"
        )
