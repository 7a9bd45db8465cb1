"""Which part of a corpus a table of word counts holds, so that none is forgotten or added twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..corpus.files import Source, is_hub
from ..errors import InputError

_SHOWN = 10


@dataclass(frozen=True)
class Part:
    """Part `number` (from 0) of `of` parts of a corpus.

    corpus: hash of the names and sizes of all its files in order; folders do not count.
    """

    corpus: str
    number: int
    of: int

    @classmethod
    def of_files(cls, files: Sequence[Source], num_shards: int, shard_id: int) -> Part:
        """Part `shard_id` of `num_shards` of the corpus `files`, see `edad_fast.corpus.files_of_shard`."""
        named = [[str(f), 0] if is_hub(f) else [Path(f).name, Path(f).stat().st_size] for f in files]
        digest = hashlib.blake2b(json.dumps(named).encode(), digest_size=8)
        return cls(digest.hexdigest(), shard_id, num_shards)

    def __str__(self) -> str:
        return f"part {self.number} of {self.of}"


def check_whole(parts: Mapping[str, Part]) -> None:
    """Check that tables, given by name, hold every part of their corpora once.

    Raises:
        InputError: a part is missing or there twice, or a corpus was cut in two ways; tables are named.
    """
    corpora: dict[str, dict[int, str]] = {}  # number -> name
    first: dict[str, tuple[str, Part]] = {}
    for name, part in parts.items():
        names = corpora.setdefault(part.corpus, {})
        other, begun = first.setdefault(part.corpus, (name, part))
        if part.of != begun.of:
            raise InputError(
                f"{other} is {begun} and {name} {part} of the same corpus: words would be counted twice; "
                f"name the tables of {begun.of} parts, or those of {part.of}"
            )
        if part.number in names:
            raise InputError(
                f"{names[part.number]} and {name} are both {part} of the corpus: its words would be counted "
                "twice; leave one of them out"
            )
        names[part.number] = name
    for corpus, names in corpora.items():
        name, part = first[corpus]
        missing = [str(number) for number in range(part.of) if number not in names]
        if not missing:
            continue
        if len(corpora) > 1:
            other, another = next(first[key] for key in corpora if key != corpus)
            raise InputError(
                f"{name} ({part}) and {other} ({another}) are of different corpora: the names or sizes of "
                f"the files differ, and of the first {_listed(missing)} missing; count all parts of the same "
                "files"
            )
        raise InputError(
            f"{name} is {part} of a corpus, but {_listed(missing)} missing; count with --num_shards "
            f"{part.of} --shard_id {missing[0]} ... and name that table too"
        )


def _listed(numbers: Sequence[str]) -> str:
    shown = ", ".join(numbers[:_SHOWN]) + (", ..." if len(numbers) > _SHOWN else "")
    return f"part {shown} is" if len(numbers) == 1 else f"{len(numbers)} parts ({shown}) are"
