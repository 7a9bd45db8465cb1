"""README.md of a saved model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ..files import atomic_write
from .summary import summary_rows, write_report
from .tables import format_table, number

_LOAD_PLAIN = """```python
from transformers import AutoModelForMaskedLM, AutoTokenizer

model = AutoModelForMaskedLM.from_pretrained("path/to/this/directory")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/directory")
```"""

_LOAD_EXBERT = """The layers carry exBERT extension modules, which `transformers` does not know:

```python
from edad_fast.models import load_masked_lm
from transformers import AutoTokenizer

model = load_masked_lm("path/to/this/directory")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/directory")
```"""

_LOAD_CLASSIFIER = _LOAD_PLAIN.replace("AutoModelForMaskedLM", "AutoModelForSequenceClassification")
_LOAD_EXBERT_CLASSIFIER = _LOAD_EXBERT.replace(
    "import load_masked_lm", "import classifier_labels, load_text_classifier"
).replace(
    'load_masked_lm("path/to/this/directory")',
    'load_text_classifier("path/to/this/directory", classifier_labels("path/to/this/directory"))',
)

_METHODS = {
    "edad": "domain adaptation of the teacher and distillation into the student in one pass (EDAD)",
    "general_distillation": "general distillation from a frozen teacher (TinyBERT)",
    "adapt_then_distill": "adaptation of the teacher, then general distillation from it",
    "from_scratch": "masked language modelling of the domain text from fresh weights",
    "distill_then_adapt": "a small general model, adapted to the domain (AdaLM)",
    "adapt_and_distill": "distillation of the adapted teacher into an adapted small general model (AdaLM)",
    "fine_tune": "fine-tuning on labelled texts",
    "task_distillation": "task distillation: intermediate layers, then predictions (TinyBERT)",
    "source_free": "source-free adaptation of the teacher and distillation from it in one pass",
    "source_free_two_stage": "source-free adaptation of the teacher, then distillation from it",
    "aad": "adversarial adaptation with distillation (AAD), then distillation from the adapted teacher",
}


def model_card(
    report: Mapping[str, Any],
    *,
    role: Literal["student", "teacher"],
    architecture: Literal["bert", "exbert"] = "bert",
) -> str:
    """Markdown with front matter: what the model is, corpus, method, cost, measured results, how to load it.

    Besides the keys that `write_report` names, these are used where present: `teacher` (id or folder that the
    run began with), `corpus` (list of {name, size in bytes}), `vocabulary` ({size, added}),
    `task` (its name on the hub; default fill-mask).
    """
    parameters = report.get("parameters", {}).get(role)
    method = str(report.get("method", ""))
    task = str(report.get("task", "fill-mask"))
    classifier = task == "text-classification"
    if architecture == "exbert":
        loading = _LOAD_EXBERT_CLASSIFIER if classifier else _LOAD_EXBERT
    else:
        loading = _LOAD_CLASSIFIER if classifier else _LOAD_PLAIN
    kind = "exBERT" if architecture == "exbert" else "BERT"
    size = f", {number(parameters)} parameters" if isinstance(parameters, int) else ""
    parts = [
        "---",
        *(["library_name: transformers", f"pipeline_tag: {task}"] if architecture == "bert" else []),
        "tags:",
        *[f"- {tag}" for tag in ("bert", "domain-adaptation", "distillation", "edad-fast")],
        "---",
        "",
        f"# {role.capitalize()}: {kind}{size}",
        "",
        f"Made by edad-fast; method `{method}`: {_METHODS.get(method, 'see the run report')}.",
    ]
    if teacher := report.get("teacher"):
        verb = "The teacher started from" if role == "student" else "Started from"
        if report.get("parameters") and "teacher" not in report["parameters"]:  # no stage ran it
            verb = "The general vocabulary is that of"
        parts.append(f"{verb} `{teacher}`.")
    if role == "student" and (length := report.get("seq_len")):
        parts.append(f"It was trained on sequences of {length} tokens; use it up to that length.")
    if vocabulary := report.get("vocabulary"):
        added = vocabulary.get("added")
        learned = f", {number(added)} of them learned from the corpus" if added is not None else ""
        parts.append(f"The vocabulary has {number(vocabulary.get('size'))} WordPieces{learned}.")
    parts += ["", "## Corpus", ""]
    corpus = report.get("corpus") or []
    if corpus:
        parts.append(format_table(["file", "bytes"], [_file(entry) for entry in corpus], style="markdown"))
    else:
        parts += ["Not recorded.", ""]
    keys = ("tokens_seen", "steps", "device_hours", "device_name", "tokens_per_second", "peak_memory", "seed")
    parts += ["## Cost", "", _section(report, keys)]
    parts += ["## Measured results", "", _section(report, ("mlm_loss", "evaluation"))]
    parts += ["## Loading", "", loading]
    return "\n".join(parts) + "\n"


def record_evaluation(model: Path, name: str, scores: Mapping[str, Any]) -> None:
    """Add an evaluation to the report and the card of the run that `model` belongs to, if it does to one.

    Args:
        model: the folder student/ or teacher/ of a run; others are left alone.
        name: what was measured, such as "ner NCBI-disease".
        scores: single numbers and texts.
    """
    file = model.parent / "report.json"
    if model.name not in ("student", "teacher") or not file.is_file():
        return
    report = json.loads(file.read_text(encoding="utf-8"))
    report.setdefault("evaluation", {}).setdefault(model.name, {})[name] = dict(scores)
    write_report(model.parent, report)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    role: Literal["student", "teacher"] = "student" if model.name == "student" else "teacher"
    card = model_card(report, role=role, architecture="bert" if config["model_type"] == "bert" else "exbert")
    with atomic_write(model / "README.md") as temporary:
        temporary.write_text(card, encoding="utf-8")


def _file(entry: Any) -> tuple[str, str]:
    if isinstance(entry, Mapping):
        return str(entry.get("name", "?")), number(entry.get("size"))
    return str(entry), "-"


def _section(report: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    rows = summary_rows({key: report[key] for key in keys if key in report})
    return format_table(["", "value"], rows, style="markdown") if rows else "Nothing recorded.\n"
