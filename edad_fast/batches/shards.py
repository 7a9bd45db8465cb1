"""The corpus as token ids on disk: written once, memory-mapped ever after."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerFast

from ..corpus import EncodingErrors, corpus_fingerprint, iter_documents
from ..errors import InputError
from ..files import atomic_dir, write_json
from ..vocabulary import FastWordPieceTokenizer, encode_documents, usable_cpus
from .hashing import Purpose, row_keys, unit

FORMAT = 1
TOKENS_PER_FILE = 2**26
_BLOCK_CHARACTERS = 2**22
_BLOCK_DOCUMENTS = 2**13
_OFFSETS = "offsets.int64"

logger = logging.getLogger(__name__)


class TokenShards:
    """Memory-mapped tokens of all documents, without special tokens.

    A folder holds `tokens-NNNNN.int32` (at most 2^26 tokens each; documents run on across files),
    `offsets.int64` (n_documents + 1 positions) and `index.json`, all little-endian.

    Args:
        directory: a folder made by `build_shards`.
        held_out_fraction: share of the documents kept from training, chosen by a hash of their number; at
            least one if the share is above 0 and there are two or more.

    Raises:
        InputError: a file is missing or has another size than the index says.
    """

    def __init__(self, directory: str | Path, *, held_out_fraction: float = 0.0) -> None:
        self.directory, self.held_out_fraction = Path(directory), held_out_fraction
        index = _read_index(self.directory)
        if index["format"] != FORMAT:
            raise self._damaged(self.directory / "index.json", f"has format {index['format']}, not {FORMAT}")
        self.fingerprint: str = index["fingerprint"]
        self.n_documents: int = index["n_documents"]
        self.n_tokens: int = index["n_tokens"]
        self._tokens_per_file: int = index["tokens_per_file"]
        self._files: list[dict[str, Any]] = index["files"]
        for file in self._files:
            path = self.directory / file["name"]
            size = path.stat().st_size if path.is_file() else None
            if size != file["bytes"]:
                state = "is missing" if size is None else f"has {size:,} bytes instead of {file['bytes']:,}"
                raise self._damaged(path, state)
        names = [file["name"] for file in self._files if file["name"] != _OFFSETS]
        self._tokens = [np.memmap(self.directory / name, "<i4", "r") for name in names]
        self.offsets: npt.NDArray[np.int64] = np.memmap(self.directory / _OFFSETS, "<i8", "r")
        if len(self.offsets) != self.n_documents + 1 or int(self.offsets[-1]) != self.n_tokens:
            raise self._damaged(self.directory / _OFFSETS, "does not agree with index.json")
        share = unit(row_keys(0, Purpose.HELD_OUT, np.array([0]), np.arange(self.n_documents)))
        self._is_held_out = share < held_out_fraction
        if held_out_fraction > 0 and self.n_documents > 1 and not self._is_held_out.any():
            self._is_held_out[share.argmin()] = True

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.directory, self.held_out_fraction)

    @staticmethod
    def _damaged(path: Path, state: str) -> InputError:
        return InputError(
            f"{path}: the token shard {state}; delete {path.parent} and run again to rebuild it"
        )

    @property
    def files(self) -> tuple[tuple[npt.NDArray[np.int32], ...], int]:
        """The files' tokens, int32 [n] each, and the number in every file but the last."""
        return tuple(self._tokens), self._tokens_per_file

    @property
    def held_out(self) -> npt.NDArray[np.int64]:
        """Numbers of the documents kept from training, ascending."""
        return np.flatnonzero(self._is_held_out)

    @property
    def train(self) -> npt.NDArray[np.int64]:
        """Numbers of the documents to train on, ascending."""
        return np.flatnonzero(~self._is_held_out)

    def document(self, number: int) -> npt.NDArray[np.int32]:
        """Tokens of one document; int32 [n]."""
        if not 0 <= number < self.n_documents:
            raise IndexError(f"document {number} of {self.n_documents}")
        return self.read(np.arange(self.offsets[number], self.offsets[number + 1]))

    def read(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """Tokens at `positions` (int64, any shape, counted over all documents); int32, the same shape."""
        if len(self._tokens) == 1:
            return np.asarray(self._tokens[0][positions])
        flat = positions.ravel()
        file, place = np.divmod(flat, self._tokens_per_file)
        order = np.argsort(file, kind="stable")
        used, first = np.unique(file[order], return_index=True)
        tokens = np.empty(flat.shape, np.int32)
        for number, part in zip(used, np.split(order, first[1:]), strict=True):
            tokens[part] = self._tokens[number][place[part]]
        return tokens.reshape(positions.shape)

    def verify(self) -> None:
        """Compare the content of every file with its hash.

        Raises:
            InputError: naming the first damaged file.
        """
        for file in self._files:
            path = self.directory / file["name"]
            with path.open("rb") as stream:
                digest = hashlib.blake2b(digest_size=16)
                while block := stream.read(2**24):
                    digest.update(block)
            if digest.hexdigest() != file["blake2b"]:
                raise self._damaged(path, "is not what was written")


def _reopen(directory: Path, held_out_fraction: float) -> TokenShards:
    return TokenShards(directory, held_out_fraction=held_out_fraction)


def _read_index(directory: Path) -> dict[str, Any]:
    path = directory / "index.json"
    try:
        index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(index["format"], int):
            raise ValueError(f"format is {index['format']!r}")
        if index["format"] == FORMAT:
            for key, kind in {"fingerprint": str, "n_documents": int, "n_tokens": int, "files": list}.items():
                if not isinstance(index[key], kind):
                    raise ValueError(f"{key} is {index[key]!r}")
    except FileNotFoundError as error:
        raise InputError(f"{directory}: no token shards here (index.json is missing)") from error
    except (ValueError, KeyError, TypeError) as error:
        raise TokenShards._damaged(path, f"index cannot be read ({error})") from error
    return index


class _Writer:
    """Appends tokens and document ends to the files of a folder, hashing as it writes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._hashes: dict[str, tuple[int, hashlib.blake2b]] = {}
        self.n_tokens = self.n_documents = 0
        self._write(_OFFSETS, np.zeros(1, np.int64))

    def _write(self, name: str, values: npt.NDArray[Any]) -> None:
        data = values.astype("<i8" if name == _OFFSETS else "<i4", copy=False).tobytes()
        size, digest = self._hashes.get(name) or (0, hashlib.blake2b(digest_size=16))
        with (self._directory / name).open("ab") as stream:
            stream.write(data)
        digest.update(data)
        self._hashes[name] = (size + len(data), digest)

    def append(self, ids: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64]) -> None:
        """Add documents: document i is ids[offsets[i]:offsets[i + 1]]; those without tokens are left out."""
        ends = np.unique(offsets[1:])
        ends = ends[ends > offsets[0]]
        self._write(_OFFSETS, ends + self.n_tokens)
        self.n_documents += len(ends)
        while len(ids):
            file, place = divmod(self.n_tokens, TOKENS_PER_FILE)
            part = ids[: TOKENS_PER_FILE - place]
            self._write(f"tokens-{file:05}.int32", part)
            self.n_tokens += len(part)
            ids = ids[len(part) :]

    def index(self) -> dict[str, Any]:
        """What index.json says of the files."""
        return {
            "n_documents": self.n_documents,
            "n_tokens": self.n_tokens,
            "tokens_per_file": TOKENS_PER_FILE,
            "files": [
                {"name": name, "bytes": size, "blake2b": digest.hexdigest()}
                for name, (size, digest) in sorted(self._hashes.items())
            ],
        }


def _blocks(texts: Iterator[str]) -> Iterator[list[str]]:
    """Group texts so that memory stays constant: a block ends at 2^22 characters or 2^13 documents."""
    block: list[str] = []
    characters = 0
    for text in texts:
        block.append(text)
        characters += len(text)
        if characters >= _BLOCK_CHARACTERS or len(block) >= _BLOCK_DOCUMENTS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def _tokenizer_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    """Hash of all that decides a text's tokens: normaliser, pre-tokeniser, vocabulary, added tokens."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    parts = {key: state.get(key) for key in ("normalizer", "pre_tokenizer", "model", "added_tokens")}
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def part_dir(parts_dir: Path, num_shards: int, shard_id: int) -> Path:
    """Where part `shard_id` of `num_shards` belongs."""
    return parts_dir / f"{shard_id:05}-of-{num_shards:05}"


def _blocks_of_parts(
    parts_dir: Path, expected: dict[str, Any]
) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]]:
    """Documents of all parts as `_Writer.append` takes them; `expected`: what the whole is made from."""
    way_out = f"build it with edad_fast.shards, or delete {parts_dir} to tokenise the whole corpus here"
    found = [path.parent for path in sorted(parts_dir.glob("*-of-*/index.json"))]
    number = int(found[0].name.rpartition("-")[2]) if found else 1
    folders = [part_dir(parts_dir, number, part) for part in range(number)]
    for folder in folders:
        if folder not in found:
            raise InputError(f"{folder}: this part of the token shards is missing; {way_out}")
    if len(found) > number:
        raise InputError(f"{found[-1]}: of another number of parts than {found[0]}; delete those not wanted")
    files: list[Any] = []
    for folder in folders:
        made = _read_index(folder)["parts"]
        wrong = [key for key in expected if key != "files" and made[key] != expected[key]]
        theirs, ours = made["files"], expected["files"][len(files) : len(files) + len(made["files"])]
        if wrong or theirs != ours:
            raise InputError(
                f"{folder}: made from other {', '.join(wrong) or 'files'} than this run; {way_out}"
            )
        files += theirs
    if len(files) < len(expected["files"]):
        raise InputError(f"{parts_dir}: made from fewer files than the corpus has now; {way_out}")
    for folder in folders:
        shards = TokenShards(folder)
        shards.verify()
        first, offsets = 0, shards.offsets
        while first < shards.n_documents:
            last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + _BLOCK_CHARACTERS)))
            here = offsets[first : last + 1]
            yield shards.read(np.arange(here[0], here[-1])), here - here[0]
            first = last


def build_shards(
    tokenizer: PreTrainedTokenizerFast,
    sources: Sequence[str | Path],
    directory: str | Path,
    *,
    text_field: str = "text",
    encoding_errors: EncodingErrors = "strict",
    max_line_mib: int = 64,
    held_out_fraction: float = 0.0,
    rebuild: bool = True,
    progress: bool = True,
    parts_dir: Path | None = None,
    empty_is_error: bool = True,
) -> TokenShards:
    """Tokenise a corpus into `directory`; reuse what is there if files, vocabulary and settings are the same.

    Memory does not grow with the corpus. The folder appears, or is replaced, only once it is whole.

    Args:
        tokenizer: gives the ids.
        sources: as `edad_fast.corpus.iter_documents` takes them.
        directory: where the shards go.
        text_field: see `iter_documents`.
        encoding_errors: see `iter_documents`.
        max_line_mib: see `iter_documents`.
        held_out_fraction: see `TokenShards`; a change of it alone rebuilds nothing.
        rebuild: whether shards of other input may be replaced.
        progress: show a progress bar.
        parts_dir: holds the shards of consecutive parts of `sources` (see `part_dir`), made by this function
            elsewhere: they are put together; the result is the same. None or absent: the text is tokenised.
        empty_is_error: whether a corpus without tokens raises; a part of one may have none.

    Raises:
        InputError: shards of other input are there and `rebuild` is off; bad input text; a corpus without
            tokens; damaged shards; `directory` holds something else; parts that are missing, damaged or of
            other input.
    """
    directory = Path(directory)
    files = corpus_fingerprint(sources)
    parts = {
        "files": files,
        "vocabulary": _tokenizer_hash(tokenizer),
        "settings": {"text_field": text_field, "encoding_errors": encoding_errors},
        "format": FORMAT,
    }
    fingerprint = hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        if not (directory / "index.json").is_file():
            raise InputError(f"{directory}: holds something else than token shards; name another folder")
        index = _read_index(directory)
        if index.get("fingerprint") == fingerprint:
            shards = TokenShards(directory, held_out_fraction=held_out_fraction)
            shards.verify()
            return shards
        old = index.get("parts", {})
        changed = [key for key, value in parts.items() if old.get(key) != value]
        if not rebuild:
            before = {entry["name"]: entry for entry in old.get("files", [])}
            names = [entry["name"] for entry in files if before.get(entry["name"]) != entry]
            raise InputError(
                f"{directory}: made from other {', '.join(changed)} ({', '.join(names) or 'fewer files'}); "
                "put back what the run was started with, or start anew with --overwrite"
            )
        logger.info("%s: made from other %s; building the token shards again", directory, ", ".join(changed))

    with atomic_dir(directory) as temporary:
        writer = _Writer(temporary)
        whole = parts_dir is None or not parts_dir.is_dir()
        blocks: Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]]
        if parts_dir is None or whole:
            fast = FastWordPieceTokenizer.from_tokenizer(
                tokenizer, split_special_tokens=True, n_threads=usable_cpus()
            )
            documents = iter_documents(
                sources,
                text_field=text_field,
                encoding_errors=encoding_errors,
                max_line_mib=max_line_mib,
                empty_is_error=empty_is_error,
            )
            blocks = (encode_documents(fast, b) for b in _blocks(document.text for document in documents))
        else:
            blocks = _blocks_of_parts(parts_dir, parts)
        name = "tokenising" if whole else "joining parts"
        with tqdm(desc=name, unit=" tokens", unit_scale=True, disable=not progress) as bar:
            for ids, offsets in blocks:
                writer.append(ids, offsets)
                bar.update(writer.n_tokens - bar.n)
                bar.set_postfix(documents=writer.n_documents, refresh=False)
        if empty_is_error and not writer.n_tokens:
            raise InputError(
                f"{', '.join(map(str, sources))}: the text has no token; check files and vocabulary"
            )
        index = {"format": FORMAT, "fingerprint": fingerprint, **writer.index(), "parts": parts}
        write_json(temporary / "index.json", index)
    return TokenShards(directory, held_out_fraction=held_out_fraction)
