"""Device hours for the same text: EDAD against adapt-then-distil on the CPU; floors in floors.toml."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from conftest import Row, Table, judge
from data import have_shared

HERE = Path(__file__).resolve().parent
KEYS = {
    "naive": "device_hours_naive",
    "adapt_then_distill": "device_hours_adapt_then_distill",
    "composed": "device_hours_composed",
}


@pytest.mark.timeout(5400)
@pytest.mark.skipif(
    int(transformers.__version__.split(".")[0]) < 5, reason="the baselines need transformers 5"
)
def test_device_hours(table: Table, tmp_path: Path) -> None:
    """With the shared data the MiniLM teacher; else toy models, whose figures are shown but not judged."""
    shape = "minilm" if have_shared() else "tiny"
    file = tmp_path / "hours.json"
    command = [sys.executable, HERE / "device_hours.py", "--shape", shape, "--device", "cpu", "--json", file]
    subprocess.run([*map(str, command), "--repeats", "3"], check=True, stdout=subprocess.DEVNULL)
    report = json.loads(file.read_text(encoding="utf-8"))
    systems, judged = report["systems"], shape != "tiny"
    text = f"{shape}, {report['rows']} x {report['seq_len']}, {report['precision']}"

    def hours(name: str) -> str:
        return f"{systems[name]['device_hours_per_1e9_tokens']:,.0f} h/1e9"

    rows = []
    for name, key in KEYS.items():
        row = Row(key, text, name, report["ratios"][name], report["cpu_ratios"][name], judged=judged)
        row.ours, row.theirs = hours("edad"), hours(name)
        rows.append(table.add(row))
    ours, theirs = (systems[name]["peak_memory_bytes"] for name in ("edad", "naive"))
    row = Row("device_hours_memory", text, "naive", ours / theirs, judged=judged)
    row.ours, row.theirs = f"{ours / 1e6:,.0f} MB", f"{theirs / 1e6:,.0f} MB"
    rows.append(table.add(row))
    judge(*rows)


def test_step_memory(table: Table) -> None:
    """At the paper's batch, where it does not fit into ordinary machines: counted on fake tensors."""
    command = [sys.executable, str(HERE / "step_memory.py"), "--rows", "256", "--seq_len", "128"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    found = json.loads(lines[-2])
    usual = max(found["naive, adapt"], found["naive, distil"])
    row = Row("step_memory", "minilm, 256 x 128, bf16", "naive", found["edad"] / usual)
    row.ours, row.theirs = f"{found['edad'] / 1e9:.2f} GB", f"{usual / 1e9:.2f} GB"
    judge(table.add(row))
