"""What a merged vocabulary does for a corpus, as numbers and as text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from .build import decompose, piece_counts
from .counts import WordCounts
from .merged import MergedVocabulary

MOST_VALUABLE = 30
_ENDS = {
    "size": "size asked for",
    "threshold": "the relative gain of P(D) fell to the threshold",
    "max_size": "largest size allowed (--max_size)",
    "candidates": "all useful pieces of the corpus",
}


def describe(
    merged: MergedVocabulary, counts: WordCounts, general: Sequence[str] | None = None
) -> dict[str, Any]:
    """Describe a vocabulary; all counts come from a pass of its own over the counted words.

    A new piece is worth the tokens that it saves: its count times the general pieces it replaces, less one.
    `log_likelihood` is the sum over the pieces t of c_t ln(c_t / C): AdaLM's P(D) but for the constant number
    of documents, so that gains are the same.

    Args:
        general: the vocabulary that one of the domain alone is compared with; its pieces are no new ones.

    Returns:
        a dictionary that JSON can hold.
    """
    reused: list[int] = []
    if general is None:
        # Rows that were taken over were [unusedN] before, which no text produces.
        general = merged.pieces[: merged.general_size]
        reused = [row for row in merged.added_rows if row < merged.general_size]
        for row in reused:
            general[row] = f"[unused-{row}]"
    else:
        known = set(general)
        rows = [row for row, piece in enumerate(merged.pieces) if piece not in known]
        shared = len(merged.pieces) - merged.padding - len(rows)
        merged = dataclasses.replace(merged, added_rows=rows, general_size=shared)
    before, after = piece_counts(general, counts), piece_counts(merged.pieces, counts)
    words = max(1, counts.total_words)
    added = merged.added
    new = after[list(merged.added_rows)]
    lengths = np.array([len(pieces) for pieces in decompose(added, general)], dtype=np.int64)
    saved = new * (lengths - 1)
    best = np.argsort(-saved, kind="stable")[:MOST_VALUABLE].tolist()
    report: dict[str, Any] = {
        "corpus": {
            "words": counts.total_words,
            "distinct_words": len(counts),
            "words_over_100_characters": counts.long_words,
        },
        "pieces": {
            "all": len(merged.pieces),
            "general": merged.general_size,
            "new": len(added),
            "in_unused_rows": len(reused),
            "padding": merged.padding,
            "candidates_passed_over": merged.passed_over,
        },
        "tokens": {"before": int(before.sum()), "after": int(after.sum())},
        "fertility": {"before": float(before.sum() / words), "after": float(after.sum() / words)},
        "unreachable_new_pieces": int(np.count_nonzero(new == 0)),
        "end": merged.end,
        "most_valuable": [
            {"piece": added[i], "count": int(new[i]), "tokens_saved": int(saved[i])} for i in best
        ],
    }
    if merged.steps is not None and merged.gains is not None:
        report["automatic"] = [
            {
                "size": size,
                "tokens": tokens,
                "log_likelihood": value,
                "gain": None if np.isnan(gain) else gain,
            }
            for size, tokens, value, gain in zip(
                merged.steps.size.tolist(),
                merged.steps.tokens.tolist(),
                merged.steps.log_likelihood.tolist(),
                merged.gains.tolist(),
                strict=True,
            )
        ]
    if merged.curve is not None:
        thin = merged.curve.thinned()
        report["curve"] = {
            "size": thin.size.tolist(),
            "tokens": thin.tokens.tolist(),
            "log_likelihood": thin.log_likelihood.tolist(),
        }
    return report


def summary_lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    """(what, value) for a terminal or a file."""
    corpus, pieces = report["corpus"], report["pieces"]
    tokens, fertility = report["tokens"], report["fertility"]
    change = 100.0 * (tokens["after"] / max(1, tokens["before"]) - 1.0)
    reused = pieces["in_unused_rows"]
    behind = pieces["new"] - reused
    extra = f"; {reused:,} new ones in [unused] rows" if reused else ""
    padding = f" + {pieces['padding']:,} padding" if pieces["padding"] else ""
    return [
        ("corpus", f"{corpus['words']:,} words, {corpus['distinct_words']:,} distinct"),
        (
            "pieces",
            f"{pieces['all']:,} = {pieces['general']:,} general + {behind:,} new{padding}{extra}",
        ),
        ("size", _ENDS[report["end"]]),
        (
            "tokens per word",
            f"{fertility['before']:.4f} before, {fertility['after']:.4f} after ({change:+.1f}% tokens)",
        ),
        (
            "unreachable pieces",
            f"{report['unreachable_new_pieces']} of the new ones "
            f"({pieces['candidates_passed_over']:,} candidates left out)",
        ),
    ]
