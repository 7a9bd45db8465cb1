"""How often each word occurs: all that learning and proving a vocabulary needs to know of a corpus."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from .. import _native
from ..corpus import Document, EncodingErrors, expand_globs, iter_documents, iter_text_blocks
from ..corpus.files import Source
from ..errors import InputError
from ..files import atomic_write
from .checks import LARGEST, MOST_MIB, check_int, check_threads, shown
from .file_input import ahead
from .normalization import MAX_WORD_CHARACTERS, Normalization
from .parts import Part, check_whole

_DOCUMENTS = 1024  # handed to the native core at a time
_WORDS = 1 << 16


def usable_cpus() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class WordCounts(Mapping[str, int]):
    """Counts of BERT pre-tokens (words) after BERT's normalisation: a mapping from word to count.

    Words are in ascending order of code points, whatever order, sharding or number of threads they were
    counted in. Words of more than 100 characters, which BERT never splits, are counted but not kept
    (`long_words`).

    Args:
        counts: words and their counts, above 0.
        normalization: how the words were made; None: not recorded.

    Attributes:
        part: of which corpus this is a part; None: not recorded, or a whole one.

    Raises:
        InputError: a word is not a str, a count no whole number above 0, or the total exceeds 64 bits.
    """

    part: Part | None = None

    def __init__(
        self, counts: Mapping[str, int] | None = None, *, normalization: Normalization | None = None
    ) -> None:
        items = dict(counts or {})
        for word, count in items.items():
            if not isinstance(word, str):
                raise InputError(f"no table of word counts: the word {shown(word)} is not a str")
            if type(count) is not int or not 0 < count <= LARGEST:
                check_int(f"word counts: the count of {shown(word)}", count, 1)
        kept = [word for word in items if len(word) <= MAX_WORD_CHARACTERS]
        long_words = sum(int(count) for word, count in items.items() if len(word) > MAX_WORD_CHARACTERS)
        check_int("word counts: the count of words of more than 100 characters", long_words, 0)
        try:
            table = np.array([items[word] for word in kept], np.int64)
            self.native = _native.WordCounts.from_items(kept, table, long_words)
        except (ValueError, OverflowError) as error:
            raise InputError(f"no table of word counts: {error}") from error
        self.normalization = normalization

    @classmethod
    def _of(
        cls, native: _native.WordCounts, normalization: Normalization | None, part: Part | None = None
    ) -> WordCounts:
        result = cls.__new__(cls)
        result.native, result.normalization, result.part = native, normalization, part
        return result

    def __getitem__(self, word: str) -> int:
        count = self.native.get(word) if isinstance(word, str) else 0
        if not count:
            raise KeyError(word)
        return count

    def __contains__(self, word: object) -> bool:
        return isinstance(word, str) and self.native.get(word) > 0

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _WORDS):
            yield from self.native.words(start, start + _WORDS)

    def __len__(self) -> int:
        return len(self.native)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, WordCounts):
            return self.normalization == other.normalization and self.native == other.native
        return super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (list(self), self.counts_array(), self.long_words, self.normalization, self.part)

    @property
    def total_words(self) -> int:
        """Words counted, repetitions and long words included."""
        return self.native.total

    @property
    def long_words(self) -> int:
        """Words of more than 100 characters, each of which is one [UNK]."""
        return self.native.long_words

    def counts_array(self) -> NDArray[np.int64]:
        """The counts in the order of the words: int64 [len(self)]."""
        return self.native.counts()

    def most_common(self, n: int | None = None) -> list[tuple[str, int]]:
        """Words and counts by falling count, ties in the order of the words; at most `n`."""
        counts = self.counts_array()
        order = np.argsort(-counts, kind="stable")[:n].tolist()
        words = list(self)
        return [(words[place], int(counts[place])) for place in order]

    # Counting

    @classmethod
    def from_documents(
        cls,
        documents: Iterable[Document | str],
        *,
        lowercase: bool = True,
        normalization: Normalization | None = None,
        n_threads: int = 1,
        progress: bool = False,
    ) -> WordCounts:
        """Count the words of `documents` exactly as BERT splits them.

        Args:
            lowercase: BERT's uncased (True, accents are stripped too) or cased normalisation.
            normalization: used instead of the one that `lowercase` stands for.
            n_threads: threads; the result does not depend on them.
            progress: show a bar in characters.

        Raises:
            InputError: one str instead of several, or what is no text; a text holds half of a surrogate pair
                (mode hf).
        """
        if isinstance(documents, (str, bytes)) or not isinstance(documents, Iterable):
            raise InputError(f"documents is of type {type(documents).__name__}; give a list of str")
        check_threads(n_threads)
        normalization = normalization or Normalization(lowercase=lowercase)
        counter = _native.WordCounter(**normalization.options())
        texts = (document.text if isinstance(document, Document) else document for document in documents)
        with tqdm(desc="counting words", unit="ch", unit_scale=True, disable=not progress) as bar:
            number = 0
            while batch := list(islice(texts, _DOCUMENTS)):
                try:
                    counter.add(batch, n_threads)
                except (TypeError, ValueError) as error:
                    message = _renumbered(str(error), number)
                    raise InputError(f"the texts cannot be counted: {message}") from error
                number += len(batch)
                bar.update(sum(map(len, batch)))
        return cls._of(counter.finish(), normalization)

    @classmethod
    def from_files(
        cls,
        sources: Source | Sequence[Source],
        *,
        lowercase: bool = True,
        normalization: Normalization | None = None,
        text_field: str = "text",
        encoding_errors: EncodingErrors = "strict",
        max_line_mib: int = 64,
        n_threads: int | None = None,
        progress: bool = False,
        empty_is_error: bool = True,
    ) -> WordCounts:
        """Count the words of files (all formats and globs of `iter_documents`) in one pass.

        Plain text goes to the native core in blocks as it is; memory holds the table of words and a few
        blocks.

        Args:
            n_threads: threads; None: all processors. The result does not depend on them.
            empty_is_error: whether files without any text raise.

        Raises:
            InputError: as `iter_documents`.
        """
        check_int("max_line_mib", max_line_mib, 1, MOST_MIB)
        files = expand_globs([sources] if isinstance(sources, (str, os.PathLike)) else list(sources))
        normalization = normalization or Normalization(lowercase=lowercase)
        threads = usable_cpus() if n_threads is None else check_threads(n_threads)
        counter = _native.WordCounter(**normalization.options())
        blocks = iter_text_blocks(
            files, text_field=text_field, encoding_errors=encoding_errors, max_line_mib=max_line_mib
        )
        with tqdm(desc="counting words", unit="B", unit_scale=True, disable=not progress) as bar:
            for block in ahead(blocks):
                counter.add_utf8(block, threads)
                bar.update(len(block))
        counts = cls._of(counter.finish(), normalization)
        if empty_is_error and not counts.total_words:
            # Raises where there is no text at all.
            next(
                iter_documents(
                    files, text_field=text_field, encoding_errors=encoding_errors, max_line_mib=max_line_mib
                )
            )
        return counts

    # Tables

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table to a file, atomically; its format is described in csrc/wordpiece/count_list.hpp.

        Raises:
            InputError: the disk is full or the folder cannot be written.
        """
        header: dict[str, Any] = {
            "normalization": None if self.normalization is None else self.normalization.options()
        }
        if self.part is not None:
            header["part"] = asdict(self.part)
        try:
            with atomic_write(path) as temporary:
                self.native.save(temporary, json.dumps(header))
        except (OSError, RuntimeError) as error:
            raise InputError(f"{path}: cannot be written ({error}); check folder and free space") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> WordCounts:
        """Read a table that `save` wrote.

        Raises:
            InputError: no such file, not such a table, or damaged; the file and what is wrong are named.
        """
        try:
            native, header = _native.WordCounts.load(Path(path))
            known = json.loads(header)
            made, part = known["normalization"], known.get("part")
            normalization = None if made is None else Normalization(**made)
            part = None if part is None else Part(**part)
        except (RuntimeError, UnicodeDecodeError) as error:
            raise InputError(str(error)) from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: the header of the word counts is not understood ({error}); count the words again"
            ) from error
        return cls._of(native, normalization, part)

    @classmethod
    def merge(cls, tables: Sequence[WordCounts], *, names: Sequence[str] | None = None) -> WordCounts:
        """Add up several tables, such as those of all the parts of a corpus.

        Args:
            names: of the tables, for errors.

        Raises:
            InputError: no table, tables made in different ways (both are named), a count above 64 bits, or
                parts of a corpus of which one is missing or there twice (see `check_whole`).
        """
        if not tables:
            raise InputError("no word counts to merge; name at least one table")
        first = tables[0].normalization
        for number, table in enumerate(tables[1:], start=2):
            if table.normalization != first:
                raise InputError(
                    f"word counts of different normalisation cannot be merged: table 1 has "
                    f"{first or 'none recorded'}; table {number} has {table.normalization or 'none recorded'}"
                )
        names = names or [f"table {number}" for number in range(1, len(tables) + 1)]
        check_whole({n: table.part for n, table in zip(names, tables, strict=True) if table.part is not None})
        try:
            return cls._of(_native.WordCounts.merge([table.native for table in tables]), first)
        except ValueError as error:
            raise InputError(f"the word counts cannot be merged: {error}") from error


def _renumbered(message: str, first: int) -> str:
    """The native core's "texts[i]" of a batch as "documents[first + i]"."""
    return re.sub(r"\btexts\[(\d+)\]", lambda found: f"documents[{first + int(found[1])}]", message)


def _restore(
    words: list[str],
    counts: NDArray[np.int64],
    long_words: int,
    normalization: Normalization | None,
    part: Part | None,
) -> WordCounts:
    return WordCounts._of(_native.WordCounts.from_items(words, counts, long_words), normalization, part)
