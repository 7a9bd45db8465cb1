"""`python -m edad_fast.vocab`: learn domain WordPieces, merge them behind a general vocabulary, report.

Or count words only (--save_counts), or find pieces that no text produces (--check).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .corpus import expand_globs
from .errors import InputError
from .files import atomic_write, write_json
from .report import format_table, write_curve
from .vocabulary import (
    CRITERIA,
    FastWordPieceTokenizer,
    Learning,
    Normalization,
    WordCounts,
    build_tokenizer,
    extend_vocabulary,
    find_unreachable,
    load_tokenizer,
    piece_counts,
    read_vocab,
    save_tokenizer,
    vocabulary_of,
)
from .vocabulary.summary import describe, summary_lines

_SHOWN = 30


def build_parser() -> argparse.ArgumentParser:
    """The flags of `python -m edad_fast.vocab`."""
    parser = argparse.ArgumentParser(
        prog="python -m edad_fast.vocab",
        description="Learn domain WordPieces and merge them behind a general vocabulary; its ids stay. With "
        "--save_counts and no --size: count words only. With --check: find pieces that no text produces.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--base", metavar="ID|DIR|vocab.txt", help="general tokenizer or vocabulary")
    add("--corpus", nargs="+", default=[], metavar="GLOB", help="domain text, as in edad_fast.train")
    add(
        "--counts",
        nargs="+",
        default=[],
        metavar="FILE",
        help="saved word counts, added up; need no --corpus",
    )
    add("--save_counts", type=Path, metavar="FILE", help="save the word counts of --corpus and --counts")
    add("--output_dir", type=Path, metavar="DIR", help="folder for tokenizer, vocab.txt and report")
    add("--size", metavar="auto|N", help="pieces of the merged vocabulary; auto: by AdaLM's rule")
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


def _count(options: argparse.Namespace, normalization: Normalization) -> WordCounts:
    """Words of --corpus and --counts together."""
    tables = []
    for file in options.counts:
        table = WordCounts.load(file)
        if table.normalization != normalization:
            raise InputError(
                f"{file}: the words were made with {table.normalization or 'rules that were not recorded'}; "
                f"the vocabulary has {normalization}; count again with this --base"
            )
        tables.append(table)
    if options.corpus:
        tables.append(
            WordCounts.from_files(
                expand_globs(options.corpus),
                normalization=normalization,
                text_field=options.text_field,
                encoding_errors=options.encoding_errors,
                max_line_mib=options.max_line_mib,
                n_threads=options.n_threads,
                progress=sys.stderr.isatty(),
            )
        )
    return WordCounts.merge(tables)


def write_vocabulary_report(folder: Path, report: dict[str, Any]) -> None:
    """Write report.json, report.md and the curve of P(D) into `folder`."""
    write_json(folder / "report.json", report)
    lines = ["# Vocabulary", "", format_table(["", "value"], summary_lines(report), style="markdown")]
    if report["most_valuable"]:
        rows = [[m["piece"], f"{m['count']:,}", f"{m['tokens_saved']:,}"] for m in report["most_valuable"]]
        lines += ["## Most valuable new pieces", ""]
        lines.append(format_table(["piece", "count", "tokens saved"], rows, style="markdown"))
    if "automatic" in report:
        rows = [
            [f"{a['size']:,}", f"{a['tokens']:,}", f"{a['log_likelihood']:.6g}", _percent(a["gain"])]
            for a in report["automatic"]
        ]
        lines += ["## Automatic size", ""]
        lines.append(format_table(["pieces", "tokens", "sum c ln(c/C)", "gain"], rows, style="markdown"))
    words = max(1, report["corpus"]["words"])
    curve = report["curve"]
    write_curve(
        folder / "plots" / "curve.png",
        curve["size"],
        [value / words for value in curve["log_likelihood"]],
        x_label="pieces",
        y_label="P(D): sum c ln(c/C) per word",
        marks=[(a["size"], a["log_likelihood"] / words) for a in report.get("automatic", [])],
    )
    lines += ["## P(D)", "", "![curve](plots/curve.png)"]
    with atomic_write(folder / "report.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _percent(gain: float | None) -> str:
    return "-" if gain is None else f"{100 * gain:.3f}%"


def _build(options: argparse.Namespace) -> str:
    if options.size is not None and options.size != "auto" and not options.size.isdigit():
        raise InputError(
            f"--size is {options.size!r}; give auto, or the number of pieces of the merged vocabulary, "
            "such as 40000"
        )
    if not options.base:
        raise InputError("--base is missing: the general tokenizer or vocabulary")
    if not options.corpus and not options.counts:
        raise InputError("give the domain's text with --corpus, or saved word counts with --counts")
    if (options.size is None or options.output_dir is None) and not (
        options.save_counts and options.size is None and options.output_dir is None
    ):
        raise InputError("give --size and --output_dir, or --save_counts alone to count words only")
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
    base = load_tokenizer(options.base)
    general = vocabulary_of(base)
    size = "auto" if options.size == "auto" else int(options.size or len(general))
    most = learning.max_size if size == "auto" else int(size)
    if most < len(general):
        name = "--max_size" if size == "auto" else "--size"
        raise InputError(f"{name} {most} is below the general vocabulary's {len(general)} pieces; give more")
    counts = _count(options, Normalization.of(base))
    saved = ""
    if options.save_counts:
        counts.save(options.save_counts)
        saved = f"{len(counts):,} distinct words, {counts.total_words:,} in all, are in {options.save_counts}"
    if options.output_dir is None:
        return saved
    merged = extend_vocabulary(
        general,
        counts,
        "auto" if size == "auto" else int(size),
        learning=learning,
        progress=sys.stderr.isatty(),
    )
    report = describe(merged, counts)
    save_tokenizer(build_tokenizer(base, merged.pieces), options.output_dir)
    write_vocabulary_report(options.output_dir, {**report, "criterion": options.criterion})
    lines = [f"{what:<20}{value}" for what, value in summary_lines(report)]
    if "automatic" in report:
        lines += ["", f"{'pieces':>12}{'tokens':>16}{'gain of P(D)':>16}"]
        lines += [f"{a['size']:>12,}{a['tokens']:>16,}{_percent(a['gain']):>16}" for a in report["automatic"]]
    if report["most_valuable"]:
        lines += ["", f"{'most valuable new pieces':<32}{'count':>12}{'tokens saved':>16}"]
        lines += [
            f"{m['piece']:<32}{m['count']:>12,}{m['tokens_saved']:>16,}" for m in report["most_valuable"]
        ]
    lines += ["", f"tokenizer, vocab.txt, report and curve of P(D) are in {options.output_dir}", saved]
    return "\n".join(lines).rstrip()


def _check(options: argparse.Namespace) -> str:
    """Report of --check; with --output_dir the pieces found go into unreachable.txt."""
    path = Path(options.check)
    lowercase = None if options.lowercase is None else options.lowercase == "true"
    # Published lists have empty lines; they keep their rows.
    vocabulary: Any = read_vocab(path, fill_empty=True) if path.is_file() else options.check
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
        first = len(vocabulary_of(load_tokenizer(options.base)))
        behind = sum(row >= first for row in reach.unreachable)
        lines.insert(4, f"{'':<20}{behind:,} of them behind the {first:,} pieces of {options.base}")
    if options.corpus or options.counts:
        counts = _count(options, tokenizer.settings.normalization)
        used = piece_counts(pieces, counts) > 0
        idle = [row for row in reach.witnesses if not used[row]]
        lines.append(f"{'not in this corpus':<20}{len(idle):,} of the reachable ones")
    if reach.unreachable:
        lines += ["", f"{'line':>8}  unreachable piece"]
        lines += [f"{row + 1:>8}  {pieces[row]}" for row in reach.unreachable[:_SHOWN]]
        if len(reach.unreachable) > _SHOWN:
            lines.append(f"{'...':>8}  --output_dir DIR lists all of them")
    if options.output_dir is not None:
        file = options.output_dir / "unreachable.txt"
        with atomic_write(file) as temporary:
            text = "".join(f"{row + 1}\t{pieces[row]}\n" for row in reach.unreachable)
            temporary.write_text(text, encoding="utf-8", newline="\n")
        lines += ["", f"all of them, with line numbers, are in {file}"]
    return "\n".join(lines)


def run(arguments: Sequence[str]) -> str:
    """Do what the flags say and return the report.

    Raises:
        InputError: bad input; the message names it and the way out.
    """
    options = build_parser().parse_args(arguments)
    return _check(options) if options.check else _build(options)


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
