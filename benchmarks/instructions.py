"""Instructions that a second pass over some text takes, per byte of text, for every encoder.

Counted by `perf stat` where the machine lets it, else by valgrind, which has no AVX-512: a library that has
code for it takes another way there. Two passes minus one: start-up and filling caches do not count.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import peers
from conftest import HERE, OUT
from data import Text, general_vocabulary, load

BYTES = 250_000
NAMES = ["ours", "ours with offsets", "ours, 1 text", *peers.ENCODERS]


def run_passes(name: str, vocab: str, file: str, passes: int) -> None:
    lines = Path(file).read_text(encoding="utf-8").split("\n")[:-1]
    pieces = Path(vocab).read_text(encoding="utf-8").split("\n")[:-1]
    if name.startswith("ours"):
        # Not through edad_fast.vocabulary: importing torch under valgrind takes minutes.
        from edad_fast._native import Encoder

        encoder = Encoder(pieces, unk_id=pieces.index("[UNK]"))
        call = encoder.encode_with_offsets if name == "ours with offsets" else encoder.encode
        texts = ["\n".join(lines)] if name == "ours, 1 text" else lines
        for _ in range(passes):
            call(texts)
        return
    text = Text(name, lines, Path(file), 0, True)
    with tempfile.TemporaryDirectory() as folder:
        encode = peers.ENCODERS[name][1](peers.Vocabulary(pieces, Path(folder)))
    for _ in range(passes):
        encode(text)


def _perf_counts() -> bool:
    if not shutil.which("perf"):
        return False
    done = subprocess.run(
        ["perf", "stat", "-x,", "-e", "instructions:u", "true"], capture_output=True, text=True
    )
    return done.returncode == 0 and done.stderr[:1].isdigit()


def _count(command: list[str], with_perf: bool) -> int:
    if with_perf:
        prefix, pattern = ["perf", "stat", "-x,", "-e", "instructions:u"], r"^(\d+),"
    else:
        prefix = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
        pattern = r"I\s+refs:\s+([\d,]+)"
    done = subprocess.run([*prefix, *command], capture_output=True, text=True)
    found = re.search(pattern, done.stderr, re.MULTILINE)
    if done.returncode != 0 or not found:
        raise RuntimeError(done.stderr[-1000:])
    return int(found[1].replace(",", ""))


def main() -> None:
    with_perf = _perf_counts()
    if not with_perf and not shutil.which("valgrind"):
        sys.exit("perf counts no instructions here, and there is no valgrind")
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vocabulary = peers.Vocabulary(general_vocabulary(folder), folder)
        text = load(BYTES, folder)
        for contender in NAMES:
            command = [
                sys.executable,
                str(HERE / "instructions.py"),
                contender,
                str(vocabulary.txt),
                str(text.file),
            ]
            try:
                if contender in peers.ENCODERS:
                    peers.version_of(peers.ENCODERS[contender][0])
                once, twice = (_count([*command, str(passes)], with_perf) for passes in (1, 2))
            except peers.AbsentError as absent:
                print(f"{contender:30} absent ({absent})")
                continue
            found[contender] = (twice - once) / text.n_bytes
            print(f"{contender:30} {found[contender]:8.1f} instructions / byte", flush=True)
    OUT.mkdir(exist_ok=True)
    report = {"counter": "perf" if with_perf else "valgrind", "bytes": text.n_bytes, "per_byte": found}
    (OUT / "instructions.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) == 5:
        run_passes(*sys.argv[1:4], passes=int(sys.argv[4]))
    else:
        main()
