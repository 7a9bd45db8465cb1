"""`python -m edad_fast.vocab`: learn domain WordPieces, merge them behind a general vocabulary, report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .corpus import expand_globs
from .errors import InputError
from .vocabulary import (
    MergedVocabulary,
    WordCounts,
    build_tokenizer,
    count_words,
    decompose,
    extend_vocabulary,
    load_tokenizer,
    piece_counts,
    save_tokenizer,
    vocabulary_of,
)

_SHOWN = 30


def build_parser() -> argparse.ArgumentParser:
    """The flags of `python -m edad_fast.vocab`."""
    parser = argparse.ArgumentParser(
        prog="python -m edad_fast.vocab",
        description="Learn domain WordPieces and merge them behind a general vocabulary; its ids stay.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--base", required=True, metavar="ID|DIR|vocab.txt", help="general tokenizer or vocabulary"
    )
    parser.add_argument(
        "--corpus", required=True, nargs="+", metavar="GLOB", help="domain text, as in edad_fast.train"
    )
    parser.add_argument(
        "--output_dir", required=True, type=Path, metavar="DIR", help="folder for tokenizer and vocab.txt"
    )
    parser.add_argument("--size", required=True, metavar="N", help="pieces of the merged vocabulary")
    parser.add_argument("--criterion", default="frequency", help="how merges are chosen (default: frequency)")
    parser.add_argument(
        "--min_frequency", type=int, default=2, metavar="N", help="least count of a merge (default: 2)"
    )
    parser.add_argument(
        "--text_field", default="text", help="field of .jsonl, column of .csv and .parquet (default: text)"
    )
    parser.add_argument(
        "--encoding_errors", choices=("strict", "replace"), default="strict", help="bytes that are not UTF-8"
    )
    parser.add_argument(
        "--max_line_mib", type=int, default=64, metavar="N", help="longest line accepted (default: 64)"
    )
    return parser


def report(merged: MergedVocabulary, counts: WordCounts) -> str:
    """Describe a merged vocabulary: size, tokens per word, unreachable and most valuable new pieces.

    A new piece is worth the tokens that it saves: its count times the general pieces it replaces, less one.
    """
    general, added = merged.pieces[: merged.general_size], merged.added
    before = piece_counts(general, counts)
    after = piece_counts(merged.pieces, counts)
    words = max(1, counts.total_words)
    new = after[merged.general_size :]
    lengths = np.array([len(pieces) for pieces in decompose(added, general)], dtype=np.int64)
    saved = new * (lengths - 1)
    best = np.argsort(-saved, kind="stable")[:_SHOWN]
    change = 100.0 * (after.sum() / max(1, before.sum()) - 1.0)
    lines = [
        f"corpus              {counts.total_words:,} words, {len(counts):,} distinct",
        f"pieces              {len(merged.pieces):,} = {merged.general_size:,} general + {len(added):,} new",
        f"tokens per word     {before.sum() / words:.4f} before, {after.sum() / words:.4f} after "
        f"({change:+.1f}% tokens)",
        f"unreachable pieces  {int(np.count_nonzero(new == 0))} of the new ones "
        f"({merged.removed_unreachable:,} candidates left out)",
    ]
    if added:
        lines += ["", f"{'most valuable new pieces':<32}{'count':>12}{'tokens saved':>16}"]
        lines += [f"{added[i]:<32}{new[i]:>12,}{saved[i]:>16,}" for i in best]
    return "\n".join(lines)


def run(arguments: Sequence[str]) -> str:
    """Do what the flags say and return the report.

    Raises:
        InputError: bad input; the message names it and the way out.
    """
    options = build_parser().parse_args(arguments)
    if not options.size.isdigit():
        raise InputError(
            f"--size is {options.size!r}; give the number of pieces of the merged vocabulary, such as 40000"
        )
    base = load_tokenizer(options.base)
    general = vocabulary_of(base)
    size = int(options.size)
    if size < len(general):
        raise InputError(f"--size {size} is below the general vocabulary's {len(general)} pieces; give more")
    counts = count_words(
        base,
        expand_globs(options.corpus),
        text_field=options.text_field,
        encoding_errors=options.encoding_errors,
        max_line_mib=options.max_line_mib,
        progress=sys.stderr.isatty(),
    )
    merged = extend_vocabulary(
        general, counts, size, criterion=options.criterion, min_frequency=options.min_frequency
    )
    save_tokenizer(build_tokenizer(base, merged.pieces), options.output_dir)
    return f"{report(merged, counts)}\n\ntokenizer and vocab.txt are in {options.output_dir}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 2 for bad input, 130 when interrupted."""
    try:
        print(run(sys.argv[1:] if arguments is None else arguments))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
