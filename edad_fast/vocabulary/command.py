"""What `python -m edad_fast.vocab` does."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..corpus import expand_globs, files_of_shard
from ..errors import InputError
from ..files import atomic_write
from .build import Size, extend_vocabulary, piece_counts
from .checks import MOST_MIB, check_int, check_threads, parse_rows
from .counts import WordCounts
from .domain import learn_domain_vocabulary
from .fast_tokenizer import FastWordPieceTokenizer
from .learning import CRITERIA, Learning
from .normalization import Normalization, check_word_limit
from .parts import Part
from .reach import find_unreachable
from .report_files import percent, write_vocabulary_report
from .summary import describe, summary_lines
from .tokenizer import (
    build_tokenizer,
    empty_lines,
    load_tokenizer,
    read_vocab,
    reserved_tokens,
    save_tokenizer,
    vocabulary_of,
)

_SHOWN = 30
_CHECK_OPTIONS = {"--check", "--base", "--corpus", "--counts", "--lowercase", "--output_dir"}
_READING_OPTIONS = {"--text_field", "--encoding_errors", "--max_line_mib", "--n_threads"}
_RESULTS = ("vocab.txt", "tokenizer.json", "report.json", "config.json")


def build_parser() -> argparse.ArgumentParser:
    """The flags of `python -m edad_fast.vocab`."""
    parser = argparse.ArgumentParser(
        prog="python -m edad_fast.vocab",
        description="Learn domain WordPieces and merge them behind a general vocabulary; its ids stay. With "
        "--save_counts and no --size: count words only. With --check: find pieces that no text "
        "produces; with --base as well: how many of them stand behind the base's pieces.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--base", metavar="ID|DIR|vocab.txt", help="general tokenizer or vocabulary, whose pieces come first")
    add("--corpus", nargs="+", default=[], metavar="GLOB", help="domain text, as in edad_fast.train")
    add(
        "--counts",
        nargs="+",
        default=[],
        metavar="FILE",
        help="saved word counts (globs too), added up; all parts of a corpus; need no --corpus",
    )
    add("--save_counts", type=Path, metavar="FILE", help="save the word counts of --corpus and --counts")
    add(
        "--num_shards",
        type=int,
        metavar="N",
        help="--save_counts: count only a part of the files, of N parts",
    )
    add("--shard_id", type=int, metavar="I", help="--num_shards: which part, from 0 to N - 1")
    add("--output_dir", type=Path, metavar="DIR", help="folder for tokenizer, vocab.txt and report")
    add("--overwrite", action="store_true", help="replace the vocabulary that is in --output_dir")
    add("--size", metavar="auto|N", help="pieces of the vocabulary; auto: by AdaLM's rule")
    add(
        "--scope",
        choices=("merged", "domain"),
        default="merged",
        help="merged: new pieces behind those of the base (default); domain: pieces of the domain alone, "
        "with ids of their own",
    )
    add(
        "--criterion",
        default="frequency",
        help=f"how merges are chosen: {', '.join(CRITERIA)} (default: frequency)",
    )
    defaults = Learning()
    for name, metavar, text in (
        ("min_frequency", "N", "least count of a merge and of a character"),
        ("limit_alphabet", "N", "most characters kept"),
        ("max_piece_characters", "N", "longest new piece, 0: no limit"),
        ("interval", "N", "--size auto: pieces between two looks"),
        ("threshold", "X", "--size auto: relative gain of P(D) at which growth ends"),
        ("max_size", "N", "--size auto: most pieces"),
        ("pad_to_multiple", "N", "fill up with [unusedN] rows to a multiple, 0: no"),
    ):
        value = getattr(defaults, name)
        add(f"--{name}", type=type(value), default=value, metavar=metavar, help=f"{text} (default: {value})")
    add("--reuse_unused", action="store_true", help="new pieces take the rows [unusedN] of the base first")
    add("--check", metavar="DIR|vocab.txt", help="find the pieces of this vocabulary that no text produces")
    add("--lowercase", choices=("true", "false"), help="--check: normalisation, where the files do not say")
    add("--text_field", default="text", help="field of .jsonl, column of .csv and .parquet (default: text)")
    add("--encoding_errors", choices=("strict", "replace"), default="strict", help="bytes that are not UTF-8")
    add("--max_line_mib", type=int, default=64, metavar="N", help="longest line accepted (default: 64)")
    add("--n_threads", type=int, metavar="N", help="threads for counting (default: all processors)")
    return parser


def _tables(patterns: Sequence[str]) -> list[Path]:
    """The files of --counts.

    Raises:
        InputError: a pattern matches nothing, or a file is named twice: its words would count twice.
    """
    files = [Path(file) for pattern in patterns for file in expand_globs([pattern])]
    seen: set[str] = set()
    for file in files:
        if (path := os.path.realpath(file)) in seen:
            raise InputError(f"--counts names {file} twice; its words would be counted twice")
        seen.add(path)
    return files


def _count(options: argparse.Namespace, normalization: Normalization) -> WordCounts:
    """Words of --corpus and --counts together."""
    tables, named = [], _tables(options.counts)
    for file in named:
        table = WordCounts.load(file)
        if table.normalization != normalization:
            raise InputError(
                f"{file}: the words were made with {table.normalization or 'rules that were not recorded'}; "
                f"the vocabulary has {normalization}; count again with this --base"
            )
        tables.append(table)
    if options.corpus:
        files, part = expand_globs(options.corpus), None
        if options.num_shards is not None:
            part = Part.of_files(files, options.num_shards, options.shard_id)
            files = files_of_shard(files, options.num_shards, options.shard_id)
        counted = WordCounts.from_files(
            files,
            normalization=normalization,
            text_field=options.text_field,
            encoding_errors=options.encoding_errors,
            max_line_mib=options.max_line_mib,
            n_threads=options.n_threads,
            progress=sys.stderr.isatty(),
            empty_is_error=part is None,
        )
        if part is not None:  # then there are no --counts
            counted.part = part
            return counted
        tables.append(counted)
    return WordCounts.merge(tables, names=[*map(str, named), *(["--corpus"] if options.corpus else [])])


def _check_part(options: argparse.Namespace) -> None:
    """Raise InputError unless --num_shards and --shard_id are left out, or ask for counts of a part."""
    given = [name for name in ("num_shards", "shard_id") if getattr(options, name) is not None]
    if not given:
        return
    if len(given) == 1:
        raise InputError(f"--{given[0]} needs the other of --num_shards and --shard_id")
    if options.size is not None or options.counts or not options.corpus:
        raise InputError(
            "--num_shards counts a part of --corpus, for --save_counts alone; then learn from all tables "
            "with --counts FILE ... --size N"
        )


def _check_writable(option: str, folder: Path) -> None:
    """Raise InputError if a folder cannot be made, or nothing be written there."""
    place = folder.absolute()
    try:
        while not place.exists():
            place = place.parent
    except OSError as error:
        raise InputError(f"{option} {folder}: cannot be made ({error.strerror})") from error
    if not place.is_dir():
        raise InputError(f"{option} {folder}: {place} is a file, not a folder; name another")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{option} {folder}: nothing can be written in {place}; name another folder")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Name the folder in errors of the system."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: cannot be written ({error.strerror}); name another --output_dir"
        ) from error


def _check_outputs(options: argparse.Namespace) -> None:
    """Look at what will be written where, before the work."""
    if options.save_counts is not None:
        _check_writable("--save_counts", options.save_counts.parent)
        if options.save_counts.is_dir():
            raise InputError(f"--save_counts {options.save_counts}: is a folder; name a file")
    if options.output_dir is not None:
        _check_writable("--output_dir", options.output_dir)
        found = [name for name in _RESULTS if (options.output_dir / name).exists()]
        if found and not options.check and not options.overwrite:
            raise InputError(
                f"{options.output_dir}: holds {found[0]} already; name another --output_dir, or give "
                "--overwrite to replace it"
            )


def _learning(options: argparse.Namespace) -> Learning:
    learning = Learning(
        options.criterion,
        options.min_frequency,
        options.limit_alphabet,
        options.max_piece_characters,
        options.threshold,
        options.interval,
        options.max_size,
        options.reuse_unused,
        options.pad_to_multiple,
    )
    learning.check()
    return learning


def _build(options: argparse.Namespace, written: list[str]) -> str:
    """Report of learning, or of counting only; what is on disk goes into `written`."""
    size: Size | None = None
    if options.size is not None:
        size = "auto" if options.size == "auto" else parse_rows("--size", options.size)
    if options.lowercase is not None:
        raise InputError("--lowercase goes with --check; --base says how words are made")
    if not options.base:
        raise InputError("--base is missing: the general tokenizer or vocabulary")
    if not options.corpus and not options.counts:
        raise InputError("give the domain's text with --corpus, or saved word counts with --counts")
    if (size is None or options.output_dir is None) and not (
        options.save_counts and size is None and options.output_dir is None
    ):
        raise InputError("give --size and --output_dir, or --save_counts alone to count words only")
    _check_part(options)
    learning = _learning(options)
    base = load_tokenizer(options.base)
    check_word_limit(base)
    general = vocabulary_of(base)
    domain = options.scope == "domain"
    if domain and learning.reuse_unused:
        raise InputError("--reuse_unused goes with --scope merged; a domain vocabulary has no [unusedN] rows")
    if (
        size is not None
        and not domain
        and (most := learning.max_size if size == "auto" else size) < len(general)
    ):
        name = "--max_size" if size == "auto" else "--size"
        raise InputError(f"{name} {most} is below the general vocabulary's {len(general)} pieces; give more")
    counts = _count(options, Normalization.of(base))
    saved = ""
    if options.save_counts:
        counts.save(options.save_counts)
        written.append(f"the word counts are in {options.save_counts}")
        saved = f"{len(counts):,} distinct words, {counts.total_words:,} in all, are in {options.save_counts}"
    if size is None:
        return saved
    learn = learn_domain_vocabulary if domain else extend_vocabulary
    start = reserved_tokens(base) if domain else general
    merged = learn(start, counts, size, learning=learning, progress=sys.stderr.isatty())
    report = describe(merged, counts, general if domain else None)
    with _writing(options.output_dir):
        written.append(f"{options.output_dir} is incomplete")
        save_tokenizer(build_tokenizer(base, merged.pieces), options.output_dir)
        write_vocabulary_report(options.output_dir, {**report, "criterion": options.criterion})
    lines = [f"{what:<20}{value}" for what, value in summary_lines(report)]
    if "automatic" in report:
        lines += ["", f"{'pieces':>12}{'tokens':>16}{'gain of P(D)':>16}"]
        lines += [f"{a['size']:>12,}{a['tokens']:>16,}{percent(a['gain']):>16}" for a in report["automatic"]]
    if report["most_valuable"]:
        lines += ["", f"{'most valuable new pieces':<32}{'count':>12}{'tokens saved':>16}"]
        lines += [
            f"{m['piece']:<32}{m['count']:>12,}{m['tokens_saved']:>16,}" for m in report["most_valuable"]
        ]
    lines += ["", f"tokenizer, vocab.txt, report and curve of P(D) are in {options.output_dir}", saved]
    return "\n".join(lines).rstrip()


def _check(options: argparse.Namespace, given: set[str]) -> str:
    """Report of --check; with --output_dir the pieces found go into unreachable.txt."""
    used = _CHECK_OPTIONS | (_READING_OPTIONS if options.corpus else set())
    if unused := sorted(given - used):
        needed = " (without --corpus)" if _READING_OPTIONS.issuperset(unused) else ""
        raise InputError(f"--check makes no use of {', '.join(unused)}{needed}; leave that out")
    path = Path(options.check)
    lowercase = None if options.lowercase is None else options.lowercase == "true"
    # Published lists have empty lines; they keep their rows.
    vocabulary: Any = read_vocab(path, fill_empty=True) if path.is_file() else options.check
    empty = empty_lines(path) if path.is_file() else []
    tokenizer = FastWordPieceTokenizer(vocabulary, lowercase, split_special_tokens=True)
    pieces = tokenizer.pieces
    reach = find_unreachable(tokenizer)
    lines = [
        f"{'pieces':<20}{len(pieces):,} ({len(reach.reserved):,} special or [unused])",
        f"{'normalisation':<20}{tokenizer.settings.normalization}",
        f"{'reachable':<20}{len(reach.witnesses):,}, each shown by a word that has it among its tokens",
        f"{'unreachable':<20}{len(reach.unreachable):,}: normalisation or splitting changes their text",
        f"{'undecided':<20}{len(reach.undecided):,}",
    ]
    if options.base:
        general = vocabulary_of(load_tokenizer(options.base))
        if pieces[: len(general)] != general:
            raise InputError(f"{options.check}: does not start with the {len(general):,} pieces of --base")
        behind = sum(row >= len(general) for row in reach.unreachable)
        lines.insert(4, f"{'':<20}{behind:,} of them behind the {len(general):,} pieces of {options.base}")
    if empty:
        named = ", ".join(f"{number:,}" for number in empty[:5]) + (", ..." if len(empty) > 5 else "")
        lines.insert(1, f"{'empty lines':<20}{len(empty):,} (line {named}), counted as [unused] rows")
    if options.corpus or options.counts:
        counts = _count(options, tokenizer.settings.normalization)
        seen = piece_counts(pieces, counts) > 0
        idle = [row for row in reach.witnesses if not seen[row]]
        lines.append(f"{'not in this corpus':<20}{len(idle):,} of the reachable ones")
    if reach.unreachable:
        lines += ["", f"{'line':>8}  unreachable piece"]
        lines += [f"{row + 1:>8}  {pieces[row]}" for row in reach.unreachable[:_SHOWN]]
        if len(reach.unreachable) > _SHOWN:
            lines.append(f"{'...':>8}  --output_dir DIR lists all of them")
    if options.output_dir is not None:
        file = options.output_dir / "unreachable.txt"
        text = "".join(f"{row + 1}\t{pieces[row]}\n" for row in reach.unreachable)
        with _writing(options.output_dir), atomic_write(file) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
        lines += ["", f"all of them, with line numbers, are in {file}"]
    return "\n".join(lines)


def run(arguments: Sequence[str]) -> str:
    """Do what the flags say and return the report.

    Raises:
        InputError: bad input; the message names it and the way out.
        KeyboardInterrupt: with a message that says what is on disk, if anything is.
    """
    options = build_parser().parse_args(arguments)
    given = {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}
    if options.n_threads is not None:
        check_threads(options.n_threads)
    check_int("--max_line_mib", options.max_line_mib, 1, MOST_MIB)
    _check_outputs(options)
    written: list[str] = []
    try:
        return _check(options, given) if options.check else _build(options, written)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt("; ".join(written) or "nothing was written") from stop
