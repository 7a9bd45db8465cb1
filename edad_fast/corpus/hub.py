"""Rows of a Hugging Face dataset as documents, streamed (extra `datasets`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import InputError
from .files import HUB_PREFIX


def iter_hub_rows(source: str, text_field: str) -> Iterator[tuple[int, Any]]:
    """Yield (1-based row number, value of `text_field`) of `hf:NAME[:CONFIG[:SPLIT]]`; default split: train.

    Raises:
        InputError: the package datasets is absent, the dataset cannot be loaded, or it has no such field.
    """
    name, config, split = [*source.removeprefix(HUB_PREFIX).split(":"), "", ""][:3]
    if not name:
        raise InputError(f"{source}: names no dataset; write hf:NAME[:CONFIG[:SPLIT]]")
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise InputError(
            f"{source}: Hugging Face datasets need an extra: pip install 'edad-fast[datasets]'"
        ) from error
    try:
        rows = iter(load_dataset(name, config or None, split=split or "train", streaming=True))
        number = 0
        for number, row in enumerate(rows, start=1):
            if text_field not in row:
                raise InputError(
                    f"{source}: no field {text_field!r}; there are {', '.join(sorted(row))}. "
                    "Choose one with --text_field"
                )
            yield number, row[text_field]
    except InputError:
        raise
    except Exception as error:  # The library raises its own, network and file-format errors alike.
        raise InputError(
            f"{source}: cannot be loaded ({type(error).__name__}: {error}); check name, config and split "
            "(hf:NAME:CONFIG:SPLIT) and the network"
        ) from error
