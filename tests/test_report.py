from __future__ import annotations

import json
import math

import pytest
import yaml

from edad_fast.report import format_table, model_card, summary_table, write_plots, write_report
from edad_fast.report.tables import mean_std, number

REPORT = {
    "method": "edad",
    "seed": 7,
    "config_hash": "abc123",
    "parameters": {"teacher": 22_713_216, "student": 14_350_248},
    "tokens_seen": 1_000_000,
    "steps": 250,
    "device_name": "EPYC, 2 threads",
    "device_hours": {"edad": 0.25, "total": 0.25},
    "tokens_per_second": 2345.6,
    "peak_memory": {"edad": 3_500_000_000},
    "losses": {"mlm": 5.4, "hidden": math.nan},
    "mlm_loss": {"student": {"before": 10.6, "after": 5.25}},
    "evaluation": {},
    "teacher": "some/teacher",
    "corpus": [{"name": "bio|00.txt.xz", "size": 4_898_956}],
    "vocabulary": {"size": 40_000, "added": 9_478},
}


def metrics_line(stage: str, step: int, **changes: object) -> str:
    record = {"stage": stage, "step": step, "tokens": 4096 * step, "alpha": 1 - step / 4, "loss": 9.0 / step}
    record |= {
        "terms": {"mlm": 5.0 / step, "hidden": 3.0},
        "tokens_per_second": 2000.0,
        "lr": {"student": 1e-4},
    }
    return json.dumps({**record, **changes})


def test_plain_table_is_aligned():
    table = format_table(["name", "value"], [["a", "1,000"], ["longer", 2], ["none", None]])
    assert table.splitlines() == [
        "name    value",
        "------  -----",
        "a       1,000",
        "longer      2",
        "none        -",
    ]


def test_markdown_table_escapes_and_marks_numbers():
    table = format_table(["a|b", "n"], [["x\ny", 1.5]], style="markdown")
    assert table.splitlines() == ["| a\\|b |   n |", "| ---- | --: |", "| x y  | 1.5 |"]


def test_table_without_rows_and_with_ragged_rows():
    assert format_table(["a"], []).splitlines() == ["a", "---"]
    with pytest.raises(ValueError, match="2 cells"):
        format_table(["a", "b"], [["1"]])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (14_350_248, "14,350,248"),
        (0.25, "0.25"),
        (2345.6, "2,346"),
        (5.41234, "5.412"),
        (math.inf, "inf"),
    ],
)
def test_number(value, text):
    assert number(value) == text


def test_mean_std():
    assert mean_std({"mean": 0.65612, "std": 0.0123}) == "0.6561 ± 0.0123"
    assert mean_std({"mean": 0.5, "std": None}) == "0.5000"


def test_report_files(tmp_path):
    lines = [metrics_line("adapt", n) for n in (1, 2, 3)] + [metrics_line("distill", n) for n in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"stage": "dist']))
    assert write_report(tmp_path, REPORT) == tmp_path / "report.md"
    written = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert written == {**REPORT, "losses": {"mlm": 5.4, "hidden": None}}
    text = (tmp_path / "report.md").read_text()
    for part in ("14,350,248", "3,500 MB", "held-out MLM loss / student / after", "plots/alpha.png", "0.25"):
        assert part in text
    for name in ("losses", "alpha", "throughput"):
        assert (tmp_path / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.rglob("*.tmp*"))


def test_report_without_metrics_has_no_plots(tmp_path):
    write_report(tmp_path, {"method": "edad"})
    assert "plots/" not in (tmp_path / "report.md").read_text()
    assert write_plots(tmp_path / "metrics.jsonl", tmp_path / "plots") == []
    assert not (tmp_path / "plots").exists()


def test_plots_take_one_record_and_values_that_are_not_positive(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text(metrics_line("edad", 1, loss=0.0, alpha=None) + "\n")
    assert [plot.name for plot in write_plots(file, tmp_path)] == [
        "losses.png",
        "alpha.png",
        "throughput.png",
    ]


def test_stages_follow_each_other_on_the_token_axis():
    from edad_fast.report.plots import token_axis

    records = [json.loads(metrics_line(stage, n)) for stage, n in (("a", 1), ("a", 2), ("b", 1))]
    assert token_axis(records) == ([4096, 8192, 12288], [8192])


def test_summary_table_shows_what_the_run_made():
    table = summary_table(REPORT)
    assert "parameters / student" in table
    assert "14,350,248" in table
    assert "seed" in table
    assert "bio" not in table


def test_several_processes_are_named_beside_the_device():
    for devices, shown in ((1, "EPYC, 2 threads"), (3, "EPYC, 2 threads, 3 processes")):
        lines = summary_table({**REPORT, "devices": devices}).splitlines()
        assert [line.split(None, 1)[1] for line in lines if line.startswith("device ")][-1] == shown


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_model_card(role):
    card = model_card(REPORT, role=role)
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "transformers"
    assert f"{REPORT['parameters'][role]:,} parameters" in body
    for part in (
        "bio\\|00.txt.xz",
        "4,898,956",
        "`edad`",
        "some/teacher",
        "40,000 WordPieces, 9,478",
        "5.25",
    ):
        assert part in body
    assert "AutoModelForMaskedLM" in body
    assert "edad_fast.models" not in body


def test_model_card_of_exbert_and_of_an_empty_report():
    card = model_card({}, role="teacher", architecture="exbert")
    assert "load_masked_lm" in card
    assert "library_name" not in card
    assert "Not recorded" in card
