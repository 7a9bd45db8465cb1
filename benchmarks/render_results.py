"""Makes the README's GPU tables from benchmarks/results/*.json: no figure is typed by hand.

python benchmarks/render_results.py            # rewrites what stands between the marks in README.md
python benchmarks/render_results.py --check    # fails if the README is not what it would write

A result whose kernels are not those of this checkout is marked stale.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from provenance import ROOT, tree_hash

from edad_fast.report import format_table

RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
NOTHING = "Nothing has been measured on a GPU yet."
OURS = ("triton", "cuda", "chunked", "auto")


def load(folder: Path) -> list[dict[str, Any]]:
    """All results of real runs, oldest first."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
    return sorted((x for x in found if not x.get("dry_run")), key=lambda x: x["measured"])


def _source(result: dict[str, Any], tree: str) -> str:
    stale = "" if result["kernels_tree"] == tree else " **Stale: the kernels have changed since.**"
    return (
        f"{result['device']}, torch {result['torch']}, triton {result['triton']}, commit "
        f"{result['commit'][:10]}, {result['measured'][:10]}.{stale}"
    )


def _milliseconds(figures: dict[str, Any] | None) -> str:
    return "-" if not figures or "median_ms" not in figures else f"{figures['median_ms']:.3f}"


def losses_table(result: dict[str, Any]) -> str:
    """Each case: the choice of `auto`, our best, and the others as multiples of our best."""
    rows = []
    for case in result["cases"]:
        contenders = {who: x for who, x in case["contenders"].items() if "median_ms" in x}
        ours = {who: x for who, x in contenders.items() if who.split()[0] in OURS}
        best = min(ours, key=lambda who: ours[who]["median_ms"])
        others = [
            f"{who} {x['median_ms'] / ours[best]['median_ms']:.1f}x"
            for who, x in contenders.items()
            if who not in ours
        ]
        rows.append(
            [
                case["case"],
                _milliseconds(ours.get("auto")),
                f"{best}: {_milliseconds(ours[best])}",
                ", ".join(others),
                f"{ours[best]['part_of_bytes_per_s']:.0%}",
                f"{ours[best]['part_of_flop_per_s']:.0%}",
            ]
        )
    head = [
        "loss, forward + backward",
        "auto, ms",
        "fastest, ms",
        "others",
        "of copying",
        "of the matrix peak",
    ]
    return format_table(head, rows, style="markdown")


def hours_table(result: dict[str, Any]) -> str:
    """Each system's device hours and its time as a multiple of EDAD's."""
    rows = [
        [
            name,
            f"{x['device_hours_per_1e9_tokens']:.3g}",
            "1" if name == "edad" else f"{result['ratios'][name]:.2f}",
            f"{x['tokens_per_second']:,.0f}",
            f"{x['share_of_matrix_peak']:.0%}",
            "-" if x["peak_memory_bytes"] is None else f"{x['peak_memory_bytes'] / 1e9:.1f} GB",
        ]
        for name, x in result["systems"].items()
    ]
    head = [
        "system",
        "device hours for 10^9 tokens",
        "time / EDAD's",
        "tokens/s",
        "of the matrix peak",
        "memory",
    ]
    return format_table(head, rows, style="markdown")


def headline(result: dict[str, Any]) -> str:
    """The saving, with the one of the paper (21.6 against 17.4 hours on other hardware) beside."""
    ratio = result["ratios"]
    return (
        f"On one {result['device']}, teacher `{result['teacher_arch']}`, {result['vocabulary']:,} pieces, "
        f"{result['rows']} x {result['seq_len']} tokens a step: adapt-then-distil as usually written takes "
        f"{ratio['naive']:.2f}x EDAD's device hours, the best public parts {ratio['composed']:.2f}x, our own "
        f"adapt_then_distill {ratio['adapt_then_distill']:.2f}x (the paper: 1.24x)."
    )


def blocks(results: Sequence[dict[str, Any]], tree: str) -> dict[str, str]:
    """The text of each marked place."""
    newest: dict[tuple[object, ...], dict[str, Any]] = {}
    for result in results:
        newest[tuple(result.get(x) for x in ("kind", "device", "shape", "seq_len", "teacher_arch"))] = result
    losses = [x for x in newest.values() if x["kind"] == "losses" and x["on_gpu"]]
    hours = [x for x in newest.values() if x["kind"] == "device_hours" and x["on_gpu"]]
    return {
        "gpu-losses": "\n\n".join(f"{losses_table(x)}\n\n{_source(x, tree)}" for x in losses) or NOTHING,
        "gpu-device-hours": "\n\n".join(
            f"{headline(x)}\n\n{hours_table(x)}\n\n{_source(x, tree)}" for x in hours
        )
        or NOTHING,
    }


def rendered(text: str, texts: dict[str, str]) -> str:
    """`text` with each `<!-- NAME -->` ... `<!-- end NAME -->` holding its block.

    Raises:
        ValueError: a place is missing.
    """
    for name, block in texts.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"no '<!-- {name} -->' ... '<!-- end {name} -->' to write to")
        text = pattern.sub(lambda found, block=block: f"{found[1]}{block.strip()}\n{found[2]}", text)
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit status 1 if something would change"
    )
    options = parser.parse_args(arguments)
    before = README.read_text(encoding="utf-8")
    after = rendered(before, blocks(load(RESULTS), tree_hash(ROOT / "kernels")))
    if options.check:
        if before != after:
            print("README.md: its GPU tables are not those of benchmarks/results; run this without --check")
        return int(before != after)
    README.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
