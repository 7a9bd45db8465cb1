"""Texts with a class each: files -> the same splits everywhere.

Formats: `LABEL.review` (the pseudo-XML of Blitzer et al. 2007), `.csv`, `.tsv`, `.jsonl`, and `.txt` with one
text a line and no labels; all but `.review` also compressed.
"""

from __future__ import annotations

import csv
import hashlib
import html
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..corpus.files import COMPRESSIONS
from ..corpus.readers import EncodingErrors, decoded_lines
from ..errors import InputError

logger = logging.getLogger(__name__)

SPLITS = ("train", "devel", "test")
SHARES = (0.7, 0.1, 0.2)  # of SPLITS, where the data come without splits
TEXT_FIELDS = ("text", "review", "reviews", "sentence")
LABEL_FIELDS = ("label", "labels", "sentiment")
_STEMS = {"train": "train", "devel": "devel", "dev": "devel", "valid": "devel", "test": "test"}
_BINARY = {"0": "negative", "1": "positive"}


@dataclass(frozen=True, slots=True)
class Text:
    """One text, its class (None: not read), and where it stands."""

    text: str
    label: str | None
    source: Path
    line: int


@dataclass(frozen=True, slots=True)
class TextData:
    """The three splits (an empty one has no texts), the classes in id order, and the files read."""

    splits: dict[str, list[Text]]
    labels: list[str]
    files: list[Path]

    @property
    def fingerprint(self) -> str:
        """Hash of all texts with their splits and, where read, classes."""
        total = hashlib.blake2b(digest_size=16)
        for split in SPLITS:
            for item in self.splits[split]:
                total.update(json.dumps([split, item.text, item.label]).encode())
        return total.hexdigest()


@dataclass(frozen=True)
class Fields:
    """Names of the columns or keys; "" takes the first of `TEXT_FIELDS` or `LABEL_FIELDS` that is there.

    encoding_errors: what to do with bytes that are not UTF-8.
    """

    text: str = ""
    label: str = ""
    encoding_errors: EncodingErrors = "strict"

    def lines(self, path: Path) -> Iterator[str]:
        """The lines of a file."""
        return decoded_lines(path, encoding_errors=self.encoding_errors)

    def text_in(self, names: Sequence[str], where: str) -> str:
        """The text's name among `names`."""
        return _choose(self.text, TEXT_FIELDS, names, where, "--text_field")

    def label_in(self, names: Sequence[str], where: str) -> str:
        """The class's name among `names`."""
        return _choose(self.label, LABEL_FIELDS, names, where, "--label_field")


def _choose(given: str, usual: Sequence[str], names: Sequence[str], where: str, option: str) -> str:
    for name in (given,) if given else usual:
        if name in names:
            return name
    wanted = repr(given) if given else " or ".join(map(repr, usual))
    raise InputError(f"{where}: no field {wanted}; there are {', '.join(names)}. Choose one with {option}")


def _read_review(path: Path, fields: Fields, labels: bool) -> Iterator[tuple[int, str, Any]]:
    label = path.stem if labels else None
    lines: list[str] | None = None
    start = 0
    for number, raw in enumerate(fields.lines(path), start=1):
        line = raw.strip()
        if line == "<review_text>":
            if lines is not None:
                raise InputError(f"{path}:{number}: <review_text> inside the one of line {start}")
            lines, start = [], number
        elif line == "</review_text>":
            if lines is None:
                raise InputError(f"{path}:{number}: </review_text> without <review_text>")
            yield start, html.unescape(" ".join(lines)), label
            lines = None
        elif lines is not None:
            lines.append(line)
    if lines is not None:
        raise InputError(f"{path}:{start}: <review_text> is not closed; the file may be truncated")


def _read_table(path: Path, fields: Fields, labels: bool) -> Iterator[tuple[int, str, Any]]:
    rows = csv.reader(fields.lines(path), delimiter="\t" if _kind(path) == ".tsv" else ",", strict=True)
    end = 0
    try:
        header = next(rows, None)
        if header is None:
            return
        text = header.index(fields.text_in(header, f"{path}:1"))
        label = header.index(fields.label_in(header, f"{path}:1")) if labels else None
        end = rows.line_num
        for row in rows:
            first, end = end + 1, rows.line_num
            if not row:
                continue
            if len(row) != len(header):
                raise InputError(
                    f"{path}:{first}: {len(row)} columns, the header has {len(header)}; mend the row or its "
                    "quotes"
                )
            yield first, row[text], None if label is None else row[label]
    except csv.Error as error:
        raise InputError(
            f"{path}:{end + 1}: not a valid table ({error}); look for a missing quote"
        ) from error


def _read_jsonl(path: Path, fields: Fields, labels: bool) -> Iterator[tuple[int, str, Any]]:
    for number, line in enumerate(fields.lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{path}:{number}: not JSON ({error}); write one object a line") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}:{number}: no JSON object; write one object a line")
        where, names = f"{path}:{number}", list(row)
        text = row[fields.text_in(names, where)]
        if not isinstance(text, str):
            raise InputError(f"{where}: the text is {type(text).__name__}; see --text_field")
        yield number, text, row[fields.label_in(names, where)] if labels else None


def _read_txt(path: Path, fields: Fields, labels: bool) -> Iterator[tuple[int, str, Any]]:
    if labels:
        raise InputError(f"{path}: a .txt file has no classes; give .csv, .tsv, .jsonl or LABEL.review")
    for number, line in enumerate(fields.lines(path), start=1):
        if line.strip():
            yield number, line, None


_READERS: dict[str, Callable[[Path, Fields, bool], Iterator[tuple[int, str, Any]]]] = {
    ".review": _read_review,
    ".csv": _read_table,
    ".tsv": _read_table,
    ".jsonl": _read_jsonl,
    ".txt": _read_txt,
}


def _kind(path: Path) -> str:
    return (path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path).suffix.lower()


def _stem(path: Path) -> str:
    return path.name.split(".")[0].lower()


def read_texts(path: Path, fields: Fields, *, labels: bool) -> list[Text]:
    """The rows of one file, in order. Without `labels` no class is looked at.

    Raises:
        InputError: unknown format, a malformed row, an empty text, or a row without class; file and line are
            named.
    """
    if _kind(path) not in _READERS:
        raise InputError(f"{path}: unknown format; give {', '.join(_READERS)}")
    found = []
    for line, raw, value in _READERS[_kind(path)](path, fields, labels):
        text = " ".join(raw.split())
        if not text:
            raise InputError(f"{path}:{line}: the text is empty; remove the row or fill it in")
        label = None
        if labels:
            if not isinstance(value, (str, int)) or not str(value).strip():
                raise InputError(f"{path}:{line}: no class ({value!r}); fill it in or remove the row")
            label = str(int(value)) if isinstance(value, bool) else str(value).strip()
        found.append(Text(text, label, path, line))
    return found


def files_in(path: Path) -> list[Path]:
    """The file itself, or the readable files of a folder, sorted.

    Raises:
        InputError: there is none.
    """
    if path.is_file():
        return [path]
    files = sorted(f for f in path.iterdir() if f.is_file() and _kind(f) in _READERS) if path.is_dir() else []
    if not files:
        raise InputError(f"{path}: no {', '.join(_READERS)} file there; check the path")
    return files


def load_texts(
    path: str | Path,
    *,
    text_field: str = "",
    label_field: str = "",
    labels: bool = True,
    encoding_errors: EncodingErrors = "strict",
) -> TextData:
    """Read a file or folder and split it.

    A folder with a file `train` (and `devel`, `dev` or `valid`, and `test`) is split as its files say.
    Anything else is split by a hash of each text's letters and digits, 70% train, 10% devel, 20% test:
    the same text is in the same split whatever files and rows it is in. Texts that differ in case or
    punctuation alone are one text, taken once and never in two splits. The order is that of the hash, so it
    says nothing about the classes.

    Args:
        text_field, label_field: column or key; "" looks for the usual names (`TEXT_FIELDS`, `LABEL_FIELDS`).
        labels: read the classes; classes 0 and 1 are named negative and positive. Without it, no class is
            looked at and the result is the same whatever they are.
        encoding_errors: what to do with bytes that are not UTF-8.

    Raises:
        InputError: nothing to read, a bad row (file and line are named), or a single class.
    """
    files = files_in(Path(path))
    fields = Fields(text_field, label_field, encoding_errors)
    stems = {_stem(file) for file in files}
    ready = "train" in stems and stems <= _STEMS.keys()
    rows = [
        (_STEMS[_stem(f)] if ready else None, t) for f in files for t in read_texts(f, fields, labels=labels)
    ]
    if not rows:
        raise InputError(f"{path}: no text")
    splits = _split(rows, Path(path))
    names = {t.label for part in splits.values() for t in part if t.label is not None}
    if labels and names <= _BINARY.keys():
        splits = {
            split: [Text(t.text, _BINARY[str(t.label)], t.source, t.line) for t in part]
            for split, part in splits.items()
        }
        names = {_BINARY[str(name)] for name in names}
    if labels and len(names) < 2:
        raise InputError(f"{path}: a single class, {', '.join(map(str, names))}; two or more are needed")
    return TextData(splits, sorted(str(name) for name in names), files)


def _key(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold())) or text


def _split(rows: Iterable[tuple[str | None, Text]], path: Path) -> dict[str, list[Text]]:
    groups: dict[str, list[tuple[str | None, Text]]] = defaultdict(list)
    total = 0
    for split, item in rows:
        groups[_key(item.text)].append((split, item))
        total += 1
    bounds = np.cumsum(SHARES)
    placed: dict[str, list[tuple[int, Text]]] = {split: [] for split in SPLITS}
    contradictory = 0
    for key, members in groups.items():
        if len({item.label for _, item in members}) > 1:
            contradictory += 1
            continue
        number = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
        given = [split for split, _ in members if split is not None]
        # Where files disagree, the split that is farthest from training has it.
        split = max(given, key=SPLITS.index) if given else SPLITS[int((number / 2**64 >= bounds[:-1]).sum())]
        placed[split].append((number, min((item for _, item in members), key=lambda item: item.text)))
    if contradictory:
        logger.warning("%s: %d texts have several classes; they are left out", path, contradictory)
    if repeated := total - len(groups):
        logger.info("%s: %d repetitions of a text are taken once", path, repeated)
    return {split: [item for _, item in sorted(part, key=lambda p: p[0])] for split, part in placed.items()}


def class_ids(texts: Sequence[Text], labels: Sequence[str]) -> np.ndarray:
    """The classes of `texts` as ids, int64 [n].

    Raises:
        InputError: a class is not among `labels` (file and line are named).
    """
    ids = {label: number for number, label in enumerate(labels)}
    for item in texts:
        if item.label not in ids:
            raise InputError(
                f"{item.source}:{item.line}: class {item.label!r} is not one of the model's: "
                f"{', '.join(labels)}"
            )
    return np.array([ids[str(item.label)] for item in texts], dtype=np.int64)


def encode_texts(tokenizer: Any, texts: Sequence[Text], max_length: int) -> list[np.ndarray]:
    """Ids of each text with [CLS] and [SEP], int64 [at most max_length]; of longer ones the beginning."""
    if not texts:
        return []
    strings = [item.text for item in texts]
    encoded = tokenizer(
        strings,
        truncation=True,
        max_length=max_length,
        return_attention_mask=False,
        return_token_type_ids=False,
    )
    return [np.array(ids, dtype=np.int64) for ids in encoded["input_ids"]]
