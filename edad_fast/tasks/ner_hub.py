"""Tagged words of a Hugging Face dataset (extra `datasets`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..corpus import HUB_PREFIX
from ..errors import InputError
from .ner_schemes import TAG

Row = tuple[list[str], list[str], int]  # words, tags, number of the row (1-based)


def read_hub_ner(
    source: str, splits: Mapping[str, Sequence[str]], token_column: str, tag_column: str
) -> dict[str, tuple[str, list[Row]]]:
    """Read `hf:NAME[:CONFIG]`; NAME is a name on the hub or a folder written by `save_to_disk`.

    Tags are class labels or strings. Rows without a word are left out.

    Args:
        splits: our names of the splits, and theirs that are looked for.

    Returns:
        For each split where it is from, for messages, and its rows.

    Raises:
        InputError: the package datasets is absent, the dataset cannot be loaded, a split or column is
            missing, or a row has other numbers of words and tags (the row is named).
    """
    name, _, config = source.removeprefix(HUB_PREFIX).partition(":")
    try:
        from datasets import load_dataset, load_from_disk
    except ImportError as error:
        raise InputError(
            f"{source}: Hugging Face datasets need an extra: pip install 'edad-fast[datasets]'"
        ) from error
    try:
        on_disk = (Path(name) / "dataset_dict.json").is_file()
        parts = load_from_disk(name) if on_disk else load_dataset(name, config or None)
    except Exception as error:  # The library raises its own, network and file-format errors alike.
        raise InputError(
            f"{source}: cannot be loaded ({type(error).__name__}: {error}); check name, config and "
            "the network"
        ) from error
    result = {}
    for split, names in splits.items():
        found = next((key for key in names if key in parts), None)
        if found is None:
            raise InputError(f"{source}: no {split} split; there are {', '.join(parts)}")
        where = f"{source}:{found}"
        result[split] = where, _rows(parts[found], where, token_column, tag_column)
    return result


def _rows(part: Any, where: str, token_column: str, tag_column: str) -> list[Row]:
    for flag, column in (("--token_column", token_column), ("--tag_column", tag_column)):
        if column not in part.column_names:
            raise InputError(
                f"{where}: no column {column!r}; there are {', '.join(part.column_names)}. Choose with {flag}"
            )
    names = getattr(getattr(part.features[tag_column], "feature", None), "names", None)
    rows: list[Row] = []
    for number, (words, tags) in enumerate(zip(part[token_column], part[tag_column], strict=True), start=1):
        if len(words) != len(tags):
            raise InputError(f"{where}: row {number} has {len(words)} words and {len(tags)} tags")
        try:
            texts = [names[tag] for tag in tags] if names else [str(tag) for tag in tags]
        except (IndexError, TypeError) as error:
            raise InputError(f"{where}: row {number} has a tag that is no class label: {tags}") from error
        wrong = next((i for i, tag in enumerate(texts) if not TAG.fullmatch(tag)), None)
        if wrong is not None:
            raise InputError(
                f"{where}: row {number}, token {wrong + 1}: {texts[wrong]!r} is no tag; O, B-TYPE, I-TYPE "
                "or the like are needed, as text or as class labels"
            )
        if words:
            rows.append(([str(word) for word in words], texts, number))
    if not rows:
        raise InputError(f"{where}: no sentence")
    return rows
