"""Encodes hostile strings with EDAD-fast and with the oracle of a mode, and counts the strings that differ.

python benchmarks/fuzz_wordpiece.py --strings 1e7 --mode hf

Mode hf: ids, character offsets and word numbers against the installed `tokenizers`, under every
combination of BertNormalizer's options. Mode slow: the same against a plain Python re-statement of Google's
rules, uncased and cased (an hour or two for 1e7 strings). Two vocabularies take turns: one that spells words
out character by character, so that no difference hides in [UNK], and one of real words' parts.
The result goes to benchmarks/out/fuzz-MODE.json. Exit status 1: there are differences.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from itertools import count, product
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from data import SHARED, have_shared  # noqa: E402
from encoding_oracles import (  # noqa: E402
    Encode,
    differing,
    native,
    shortest_difference,
    slow_oracle,
    tokenizers_oracle,
)
from hostile import hostile_strings, witness_pieces  # noqa: E402

Pair = tuple[str, Encode, Encode]
_SHOWN = 10
# Small enough to stop in between, large enough that making an encoder for each is cheap.
_BATCH = 50_000


def option_sets() -> list[dict[str, Any]]:
    """Every combination of BertNormalizer's options."""
    names = ("lowercase", "strip_accents", "handle_chinese_chars", "clean_text")
    values = ((True, False), (None, True, False), (True, False), (True, False))
    return [dict(zip(names, choice, strict=True)) for choice in product(*values)]


def real_pieces() -> list[str]:
    """bert-base-uncased's pieces where they are at hand."""
    from edad_fast.vocabulary import read_vocab

    if not have_shared():
        return witness_pieces()
    return read_vocab(SHARED / "vocab" / "bert_base_uncased_vocab.txt")


def contenders(mode: str, all_characters: bool) -> list[Callable[[], Pair]]:
    """Makers of (name, ours, oracle), to take turns; the usual options come up every other time."""
    vocabularies = {"spelling": witness_pieces(everything=all_characters), "real": real_pieces()}

    def make(name: str, options: dict[str, Any]) -> Callable[[], Pair]:
        pieces = vocabularies[name]

        def pair() -> Pair:
            if mode == "slow":
                ours = native(pieces, literals=False, compat="slow", **options)
                return f"{name} {options}", ours, slow_oracle(pieces, **options)
            return f"{name} {options}", native(pieces, **options), tokenizers_oracle(pieces, **options)

        return pair

    if mode == "slow":
        return [make(name, {"lowercase": low}) for low in (True, False) for name in vocabularies]
    usual = [{"lowercase": True}, {"lowercase": False}]
    turns = [options for n, rare in enumerate(option_sets()) for options in (usual[n % 2], rare)]
    return [make(name, options) for name in vocabularies for options in turns]


def _turns(makers: Sequence[Callable[[], Pair]], batch: int, strings: int) -> Iterator[tuple[Pair, int]]:
    left = strings
    for turn in count():
        if left <= 0:
            return
        yield makers[turn % len(makers)](), min(batch, left)
        left -= batch


def fuzz(
    strings: int, mode: str, seed: int, *, progress: bool = False, all_characters: bool = False
) -> dict[str, Any]:
    """Compare `strings` hostile strings; returns the report (see the module)."""
    start = time.perf_counter()
    makers = contenders(mode, all_characters)
    words = real_pieces()[1996:12_000:7]
    done = characters = tokens = found = 0
    examples: list[dict[str, Any]] = []
    batch = max(1, min(_BATCH, -(-strings // len(makers))))
    for turn, ((name, ours, oracle), size) in enumerate(_turns(makers, batch, strings)):
        texts = hostile_strings(size, [seed, turn], more_words=words)
        mine, its = ours(texts), oracle(texts)
        wrong = differing(texts, mine, its)
        for number in wrong[: _SHOWN - len(examples)]:
            text = shortest_difference(texts[number], ours, oracle)
            # Ids beside each other say little; names of characters say where to look.
            shown = {
                "options": name,
                "text": ascii(text),
                "characters": [unicodedata.name(c, "?") for c in text],
            }
            examples.append(shown | {"ours": ours([text]).row(0), "oracle": oracle([text]).row(0)})
            print(json.dumps(examples[-1], default=str), file=sys.stderr, flush=True)
        done += size
        found += len(wrong)
        characters += sum(map(len, texts))
        tokens += len(its.ids)
        if progress:
            seconds = time.perf_counter() - start
            print(f"{done:,} strings, {found} differ, {seconds:.0f} s", file=sys.stderr, flush=True)
    return {
        "mode": mode,
        "strings": done,
        "differences": found,
        "seed": seed,
        "characters": characters,
        "tokens": tokens,
        "seconds": round(time.perf_counter() - start, 1),
        "tokenizers": version("tokenizers"),
        "python": platform.python_version(),
        "unicode": unicodedata.unidata_version,
        "examples": examples,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--strings", type=float, default=1e6, help="how many (default: %(default)g)")
    parser.add_argument("--mode", choices=("hf", "slow"), default="hf")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where the report goes")
    options = parser.parse_args()
    report = fuzz(int(options.strings), options.mode, options.seed, progress=True, all_characters=True)
    out = options.out or HERE / "out" / f"fuzz-{options.mode}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(report, indent=1, default=str) + "\n", encoding="utf-8")
    shown = {name: value for name, value in report.items() if name != "examples"}
    print(json.dumps(shown), out, sep="\n")
    return 1 if report["differences"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
