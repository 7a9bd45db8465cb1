"""Runs several trainings one after the other in the processes that torchrun starts once for all of them.

torchrun ... toy_processes.py PLAN_JSON OUTPUT_JSON

The plan is a list of [port, kind, folder, what]; kind is "toy" with options of toy_training, or "train" with
arguments of edad_fast.train. OUTPUT_JSON.RANK gets [exit status, standard error] of each.
"""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import toy_training

from edad_fast import train


def execute(kind: str, folder: str, what: Any) -> int:
    return toy_training.attempt(Path(folder), what) if kind == "toy" else train.main(what)


def main() -> None:
    plan, output = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    # torchrun's store remembers the groups of earlier trainings: each gets one of its own.
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
    results = []
    for port, kind, folder, what in plan:
        os.environ["MASTER_PORT"] = str(port)
        errors = io.StringIO()
        with redirect_stderr(errors), redirect_stdout(io.StringIO()):
            status = execute(kind, folder, what)
        results.append([status, errors.getvalue()])
    output.with_name(f"{output.name}.{os.environ['RANK']}").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
