"""`python -m edad_fast.shards`: tokenise one part of a run's corpus, so that many machines share the work."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .cli import main_guard
from .options import parse_config


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m edad_fast.shards",
        description="Tokenise part I of N of the corpus of a run. The other options are those of the run, "
        "which then finds the parts in its output_dir: --config, --teacher, --vocab, --corpus, --output_dir, "
        "--text_field, --encoding_errors, --max_line_mib; the rest is checked and not used.",
        allow_abbrev=False,
    )
    parser.add_argument("--num_shards", type=int, required=True, metavar="N", help="parts of the files")
    parser.add_argument("--shard_id", type=int, required=True, metavar="I", help="this part, 0 to N - 1")

    def body() -> None:
        from .methods.prepare import build_part

        part = build_part(parse_config(rest), own.num_shards, own.shard_id)
        print(f"{part.n_tokens:,} tokens of {part.n_documents:,} documents are in {part.directory}")

    own, rest = parser.parse_known_args(arguments)
    return main_guard(body)


if __name__ == "__main__":
    sys.exit(main())
