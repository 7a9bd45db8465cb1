"""The texts that every contender gets: real biomedical text where it is at hand, else generated text."""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SMALL, LARGE = 4_100_000, 24_100_000
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# Generated text repeats itself, and is slow to make: a smaller share of it stands for the large text.
_GENERATED_WORDS = {SMALL: 700_000, LARGE: 1_400_000}


@dataclass(frozen=True)
class Text:
    """Lines without line ends, none of them empty, and a file that holds the same lines."""

    name: str
    lines: list[str]
    file: Path
    n_bytes: int
    real: bool


def have_shared() -> bool:
    return (SHARED / "corpus").is_dir()


def _shared_lines() -> Iterator[str]:
    for part in sorted((SHARED / "corpus").glob("*.txt.xz")):
        if part.name != "valid.txt.xz":  # held-out text
            with lzma.open(part, "rt", encoding="utf-8", newline="\n") as stream:
                yield from (line for line in (row.rstrip("\n") for row in stream) if line)


def _generated_lines(words: int, folder: Path) -> Iterator[str]:
    from edad_fast.corpus import write_demo_data

    data = write_demo_data(folder / "generated", general_words=words // 2, domain_words=words // 2)
    for path in (data.general, data.domain):
        yield from (line for line in path.read_text(encoding="utf-8").split("\n") if line)


def load(limit: int | None, folder: Path) -> Text:
    """The first `limit` bytes of text in whole lines (None: all there is); the file goes into `folder`."""
    real = have_shared()
    lines: list[str] = []
    n_bytes = 0
    for line in _shared_lines() if real else _generated_lines(_GENERATED_WORDS[limit or LARGE], folder):
        size = len(line.encode())
        if limit is not None and n_bytes + size > limit:
            break
        n_bytes += size
        lines.append(line)
    name = f"{n_bytes / 1e6:.0f} MB" + ("" if real else ", generated")
    file = folder / f"{n_bytes}.txt"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return Text(name, lines, file, n_bytes, real)


def general_vocabulary(folder: Path) -> list[str]:
    """bert-base-uncased's pieces, or, without them, pieces learned from generated text."""
    # Not above: it takes seconds, and a contender in a process of its own does without.
    from edad_fast.vocabulary import WordCounts, learn_wordpieces, read_vocab

    if have_shared():
        return read_vocab(SHARED / "vocab" / "bert_base_uncased_vocab.txt")
    counts = WordCounts.from_documents(load(SMALL, folder).lines, lowercase=True)
    return [*SPECIAL, *learn_wordpieces(counts, 8000)]
