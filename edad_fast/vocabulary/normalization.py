"""How texts are turned into words: BERT's normalisation, in one of two modes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedTokenizerFast

from ..errors import InputError

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
            raise InputError(f"compat is {self.compat!r}; there are 'hf' and 'slow'")
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
