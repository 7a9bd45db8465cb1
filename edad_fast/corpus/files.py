"""Which files, and the bytes in them: globs, decompression, fingerprints."""

from __future__ import annotations

import glob
import gzip
import hashlib
import io
import lzma
import os
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from ..errors import InputError

HUB_PREFIX = "hf:"
COMPRESSIONS = (".gz", ".xz", ".zst")
BUFFER_BYTES = 1 << 20

Source = str | os.PathLike[str]
SourceT = TypeVar("SourceT", bound=Source)


def is_hub(source: Source) -> bool:
    """Whether `source` names a Hugging Face dataset (`hf:NAME[:CONFIG[:SPLIT]]`) and not a file."""
    return isinstance(source, str) and source.startswith(HUB_PREFIX)


def expand_globs(patterns: Sequence[Source]) -> list[Path | str]:
    """Return the files that `patterns` match: sorted within a pattern, patterns in order, no file twice.

    `**` matches any depth; `hf:NAME[:CONFIG[:SPLIT]]` passes through as it is.

    Raises:
        InputError: a pattern matches no file (the pattern is named).
    """
    found: dict[str, Path | str] = {}
    for pattern in patterns:
        if is_hub(pattern):
            found.setdefault(str(pattern), str(pattern))
            continue
        text = os.path.expanduser(os.fspath(pattern))
        if os.path.isdir(text):
            raise InputError(f"{pattern}: is a directory; name its files, such as '{text.rstrip('/')}/*.txt'")
        matches = (
            [text]
            if os.path.isfile(text)
            else sorted(m for m in glob.glob(text, recursive=True) if os.path.isfile(m))
        )
        if not matches:
            raise InputError(
                f"{pattern}: no file matches; check the path (now in {os.getcwd()}) and quote the pattern"
            )
        for match in matches:
            found.setdefault(os.path.abspath(match), Path(match))
    return list(found.values())


def files_of_shard(files: Sequence[SourceT], num_shards: int, shard_id: int) -> list[SourceT]:
    """Part `shard_id` (from 0) of `num_shards`: neighbours, so that all parts in order are `files`.

    Raises:
        InputError: no such part, or more parts than files.
    """
    if not 0 <= shard_id < num_shards:
        raise InputError(
            f"--shard_id is {shard_id}; with --num_shards {num_shards}, give 0 to {num_shards - 1}"
        )
    if num_shards > len(files):
        raise InputError(
            f"--num_shards {num_shards} is more than the {len(files)} file(s) of the corpus; give "
            f"{len(files)} or less, or cut the files"
        )
    first, last = (len(files) * part // num_shards for part in (shard_id, shard_id + 1))
    return list(files[first:last])


class _ZstdStream(io.RawIOBase):
    """Decompressed bytes of one or more zstd frames; unlike `stream_reader`, a cut-off frame is an error."""

    def __init__(self, raw: BinaryIO) -> None:
        import zstandard

        self._raw = raw
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)
        self._frame: Any = None
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        rest = b""
        while not self._ready:
            chunk = rest or self._raw.read(BUFFER_BYTES // 8)
            if not chunk:
                if self._frame is not None and not self._frame.eof:
                    raise EOFError("compressed file ended before its end marker was reached")
                return 0
            if self._frame is None or self._frame.eof:
                self._frame = self._decompressor.decompressobj()
            self._ready = memoryview(self._frame.decompress(chunk))
            rest = self._frame.unused_data if self._frame.eof else b""
            if rest and self._ready:
                # The next frame starts inside this chunk: step back, so that it is read again.
                self._raw.seek(-len(rest), io.SEEK_CUR)
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _NamedStream(io.RawIOBase):
    """A stream whose read errors name the file."""

    def __init__(self, path: Source, inner: Any, errors: tuple[type[Exception], ...]) -> None:
        self._path, self._inner, self._errors = path, inner, errors

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            return int(self._inner.readinto(buffer))
        except self._errors as error:
            if getattr(error, "errno", None) is not None:
                raise InputError(f"{self._path}: cannot be read ({error})") from error
            raise InputError(
                f"{self._path}: truncated or corrupt compressed file ({error}); download or compress it again"
            ) from error

    def close(self) -> None:
        self._inner.close()
        super().close()


def open_stream(path: Source) -> BinaryIO:
    """Open a file for reading bytes, decompressed by its last suffix (.gz, .xz, .zst).

    Raises:
        InputError: the file cannot be opened or, while reading, turns out truncated or corrupt (it is named).
    """
    suffix = Path(path).suffix.lower()
    errors: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error, lzma.LZMAError)
    try:
        if suffix == ".gz":
            inner: Any = gzip.open(path, "rb")  # noqa: SIM115
        elif suffix == ".xz":
            inner = lzma.open(path, "rb")  # noqa: SIM115
        elif suffix == ".zst":
            try:
                from zstandard import ZstdError
            except ImportError as error:
                raise InputError(
                    f"{path}: .zst needs the package zstandard: pip install 'edad-fast[zstd]'"
                ) from error
            errors += (ZstdError,)
            inner = io.BufferedReader(_ZstdStream(open(path, "rb")), BUFFER_BYTES)  # noqa: SIM115
        else:
            inner = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror or error})") from error
    return io.BufferedReader(_NamedStream(path, inner, errors), BUFFER_BYTES)


@lru_cache(maxsize=4096)
def _hash(path: Path, size: int, modified: int) -> str:
    """BLAKE2b of a file; a run asks more than once. `size` and `modified` tell a changed file."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(BUFFER_BYTES):
            digest.update(block)
    return digest.hexdigest()


def corpus_fingerprint(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """Return name, size in bytes and BLAKE2b (of the file as stored) of each source, in order.

    Folders do not count, so a moved corpus keeps its fingerprint. A hub dataset is known by its name only:
    its size and hash are None, so a change of its content upstream is not noticed.

    Raises:
        InputError: a file cannot be read.
    """
    result: list[dict[str, Any]] = []
    for source in sources:
        if is_hub(source):
            result.append({"name": str(source), "size": None, "blake2b": None})
            continue
        path = Path(source)
        try:
            state = path.stat()
            hashed = _hash(path.absolute(), state.st_size, state.st_mtime_ns)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        result.append({"name": path.name, "size": state.st_size, "blake2b": hashed})
    return result
