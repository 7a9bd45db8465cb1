"""Named-entity data: files or datasets of tagged words -> IOB2 -> chunks of WordPiece ids -> batches."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..corpus import is_hub
from ..errors import InputError
from .ner_hub import read_hub_ner
from .ner_schemes import TAG, SchemeError, detect_scheme, repair_iob2, to_iob2

logger = logging.getLogger(__name__)

SPLITS = {"train": ("train",), "devel": ("devel", "dev", "valid", "validation"), "test": ("test",)}
SUFFIXES = (".tsv", ".txt", ".conll")


@dataclass(frozen=True, slots=True)
class Sentence:
    """Words and their tags, of equal length, and the line of the first word (1-based) or the row."""

    words: list[str]
    tags: list[str]
    line: int


@dataclass(frozen=True, slots=True)
class NerData:
    """The three splits in IOB2 and the label set, which is read from train ("O" first, then sorted).

    `sources` says where each split is from, `scheme` how it was tagged there.
    """

    splits: dict[str, list[Sentence]]
    labels: list[str]
    sources: dict[str, Path | str]
    scheme: str = "iob2"


def read_ner(path: str | Path) -> list[Sentence]:
    """Read a file of `token TAB tag` lines with blank lines between sentences; tags stay as they are.

    With more than two columns the first is the token and the last the tag; without a tab, columns are
    separated by spaces. CRLF and a byte order mark are tolerated, `-DOCSTART-` rows are skipped.

    Raises:
        InputError: no file, invalid UTF-8, a row without a tag, or no sentence at all.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; convert the file to UTF-8") from error
    sentences: list[Sentence] = []
    words: list[str] = []
    tags: list[str] = []
    start = 0
    for number, line in enumerate([*text.replace("\r\n", "\n").split("\n"), ""], start=1):
        if not line.strip():
            if words:
                sentences.append(Sentence(words, tags, start))
            words, tags = [], []
            continue
        columns = line.split("\t") if "\t" in line else line.split(" ")
        word, tag = columns[0], columns[-1].strip()
        if len(columns) < 2 or not TAG.fullmatch(tag):
            problem = f"has no tag (its last column is {tag!r})" if len(columns) > 1 else "has no tag"
            raise InputError(
                f"{path}:{number}: row {line[:80]!r} {problem}; write 'token TAB tag' with tags O, B-TYPE, "
                "I-TYPE and an empty line between sentences"
            )
        if word == "-DOCSTART-":
            continue
        start = number if not words else start
        words.append(word)
        tags.append(tag)
    if not sentences:
        raise InputError(f"{path}: no sentence; write 'token TAB tag' lines")
    return sentences


def load_ner(
    source: str | Path,
    *,
    ignore_unknown_labels: bool = False,
    scheme: str = "auto",
    token_column: str = "tokens",
    tag_column: str = "ner_tags",
) -> NerData:
    """Read train, devel (or dev, valid, validation) and test of a folder or a Hugging Face dataset as IOB2.

    A label in devel or test that train lacks cannot be predicted. That is an error, as it is mostly a slip in
    the data; with `ignore_unknown_labels` it stays in the gold standard, where its entities count as missed.

    Args:
        source: a folder of .tsv, .txt or .conll files, or `hf:NAME[:CONFIG]` (see `ner_hub`).
        scheme: one of `SCHEMES`, which the tags then have to follow; "auto" finds it, and reads an I- that
            continues nothing as the begin of an entity.
        token_column, tag_column: names in the dataset.

    Raises:
        InputError: a split is missing, a file is malformed, tags break their scheme, or an unknown label.
    """
    sources: dict[str, Path | str]
    if is_hub(str(source)):
        parts = read_hub_ner(str(source), SPLITS, token_column, tag_column)
        sources = {split: where for split, (where, _) in parts.items()}
        splits = {split: [Sentence(*row) for row in rows] for split, (_, rows) in parts.items()}
    else:
        sources = {split: _split_file(Path(source), split) for split in SPLITS}
        splits = {split: read_ner(path) for split, path in sources.items()}
    if scheme == "auto":
        try:
            found = detect_scheme(sentence.tags for part in splits.values() for sentence in part)
        except ValueError as error:
            raise InputError(f"{source}: {error}") from error
    else:
        found = scheme
    splits = {
        split: _converted(part, sources[split], found, lenient=scheme == "auto" and found == "iob2")
        for split, part in splits.items()
    }
    known = {tag for sentence in splits["train"] for tag in sentence.tags}
    for split in ("devel", "test"):
        for sentence in splits[split]:
            for offset, tag in enumerate(sentence.tags):
                if tag not in known and tag != "O" and not ignore_unknown_labels:
                    raise InputError(
                        f"{_place(sources[split], sentence, offset)}: label {tag} does not occur in "
                        f"{sources['train']}; correct the data, or give --ignore_unknown_labels to count "
                        "such entities as missed"
                    )
    return NerData(splits, ["O", *sorted(known - {"O"})], sources, found)


def _split_file(directory: Path, split: str) -> Path:
    candidates = [directory / (name + suffix) for suffix in SUFFIXES for name in SPLITS[split]]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise InputError(
            f"{directory}: no {split} file; --data wants a folder with train.tsv, devel.tsv and test.tsv"
        )
    return found


def _place(source: Path | str, sentence: Sentence, offset: int) -> str:
    if isinstance(source, Path):
        return f"{source}:{sentence.line + offset}"
    return f"{source}: row {sentence.line}, token {offset + 1}"


def _converted(
    sentences: list[Sentence], source: Path | str, scheme: str, *, lenient: bool
) -> list[Sentence]:
    result: list[Sentence] = []
    orphans, first = 0, ""
    for sentence in sentences:
        if lenient:
            tags = repair_iob2(sentence.tags)
            changed = [i for i, (a, b) in enumerate(zip(tags, sentence.tags, strict=True)) if a != b]
            if changed and not orphans:
                first = _place(source, sentence, changed[0])
            orphans += len(changed)
        else:
            try:
                tags = to_iob2(sentence.tags, scheme)
            except SchemeError as error:
                raise InputError(
                    f"{_place(source, sentence, error.position)}: {error} in {scheme}; mend the tag, or name "
                    "the scheme of the data with --scheme"
                ) from error
        result.append(Sentence(sentence.words, tags, sentence.line))
    if orphans:
        logger.warning("%s: %d I- tags without a B- before them; each begins an entity", first, orphans)
    return result


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a sentence that fits the model.

    `ids` int64 [n] with [CLS] and [SEP]; `positions` int64 [w], where in `ids` each word begins; `words`
    int64 [w], the numbers of these words in sentence `sentence`.
    """

    ids: np.ndarray
    positions: np.ndarray
    words: np.ndarray
    sentence: int


def encode_sentences(tokenizer: Any, sentences: Sequence[Sentence], max_length: int) -> list[Chunk]:
    """Cut sentences into chunks of at most `max_length` WordPieces, at word boundaries.

    A word is represented by its first piece. A word that normalises to nothing has no piece and appears in
    no chunk; a word longer than a whole chunk keeps its first pieces.
    """
    room = max_length - 2
    if room < 1:
        raise InputError(f"--max_length {max_length}: at least 3 WordPieces are needed")
    encoded = tokenizer(
        [sentence.words for sentence in sentences],
        is_split_into_words=True,
        add_special_tokens=False,
        truncation=False,
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    chunks: list[Chunk] = []
    for number in range(len(sentences)):
        ids, owners = encoded["input_ids"][number], encoded.word_ids(number)
        pieces: dict[int, list[int]] = {}
        for piece, owner in zip(ids, owners, strict=True):
            pieces.setdefault(owner, []).append(piece)
        body: list[int] = []
        positions: list[int] = []
        words: list[int] = []
        for word, word_pieces in pieces.items():
            if body and len(body) + len(word_pieces) > room:
                chunks.append(_chunk(tokenizer, body, positions, words, number))
                body, positions, words = [], [], []
            positions.append(len(body) + 1)
            words.append(word)
            body += word_pieces[:room]
        if body:
            chunks.append(_chunk(tokenizer, body, positions, words, number))
    return chunks


def _chunk(tokenizer: Any, body: list[int], positions: list[int], words: list[int], sentence: int) -> Chunk:
    ids = np.array([tokenizer.cls_token_id, *body, tokenizer.sep_token_id], dtype=np.int64)
    return Chunk(ids, np.array(positions, dtype=np.int64), np.array(words, dtype=np.int64), sentence)


def bucketed_batches(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Random batches of items of similar length: a pure function of (seed, epoch), each item exactly once.

    Items are shuffled, sorted by length within pools of 32 batches, cut, and the batches shuffled again.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(lengths))
    keys = np.asarray(lengths)
    batches: list[list[int]] = []
    for begin in range(0, len(order), pool := 32 * batch_size):
        part = order[begin : begin + pool]
        part = part[np.argsort(keys[part], kind="stable")]
        batches += [part[i : i + batch_size].tolist() for i in range(0, len(part), batch_size)]
    return [batches[i] for i in generator.permutation(len(batches))]


def sorted_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Batches in the order of length, for scoring."""
    order = np.argsort(np.asarray(lengths), kind="stable")
    return [order[i : i + batch_size].tolist() for i in range(0, len(order), batch_size)]


def collate(
    chunks: Sequence[Chunk], pad_id: int, targets: Sequence[np.ndarray] | None = None
) -> dict[str, torch.Tensor]:
    """Padded tensors `input_ids`, `attention_mask` and, given `targets`, `labels`; int64 [B, L].

    `targets[i]` int64 [w] holds the label ids of the words of chunk i; all other positions get -100.
    """
    longest = max(len(chunk.ids) for chunk in chunks)
    ids = np.full((len(chunks), longest), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    labels = np.full_like(ids, -100)
    for row, chunk in enumerate(chunks):
        ids[row, : len(chunk.ids)] = chunk.ids
        mask[row, : len(chunk.ids)] = 1
        if targets is not None:
            labels[row, chunk.positions] = targets[row]
    batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    if targets is not None:
        batch["labels"] = torch.from_numpy(labels)
    return batch
