"""The demo: the whole path in a few minutes on a CPU, on text that it generates.

A small BERT is pretrained for seconds on general sentences; EDAD then adapts it to an invented medical domain
while distilling it; the student is compared with the teacher and, on named entities, with its own untrained
self.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import BertConfig

from . import evaluate
from .batches import BatchStream, build_shards
from .config import TrainConfig
from .corpus import iter_documents
from .corpus.generated import DemoData, write_demo_data
from .errors import InputError
from .methods.adapt import Adaptation, AdaptationLoss
from .methods.run import run
from .models import build_pretraining_model, prepare_for_training, save_model, set_dropout
from .report import format_table
from .tasks.device import resolve_precision
from .training import Stage, Trainer, TrainerSettings
from .vocabulary import WordCounts, extend_vocabulary, load_tokenizer, save_tokenizer, write_vocab

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
GENERAL_PIECES, MERGED_PIECES = 180, 1000
SEQ_LEN, ROWS = 64, 32
TEACHER: dict[str, Any] = {
    "hidden_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "intermediate_size": 768,
}
STUDENT = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 6, "intermediate_size": 384}
NER_OPTIONS = ("--learning_rate", "1e-3", "--device", "cpu")


def pretrain_teacher(data: DemoData, folder: Path, *, steps: int, seed: int = 0) -> None:
    """Pretrain a small BERT on the general text with MLM and save it to `folder`, with its tokenizer."""
    counts = WordCounts.from_documents(iter_documents([data.general]), lowercase=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_vocab(folder / "vocab.txt", extend_vocabulary(SPECIAL, counts, GENERAL_PIECES).pieces)
    tokenizer = load_tokenizer(folder / "vocab.txt")
    save_tokenizer(tokenizer, folder)
    shards = build_shards(tokenizer, [data.general], folder.parent / "general_shards", progress=False)
    stream = BatchStream.for_tokenizer(tokenizer, shards, seq_len=SEQ_LEN, rows_per_step=ROWS, seed=seed)
    torch.manual_seed(seed)
    model = build_pretraining_model(
        BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **TEACHER)
    )
    set_dropout(model, 0.0)
    objective = Adaptation(prepare_for_training(model), "teacher", 1e-3, AdaptationLoss())
    settings = TrainerSettings(
        precision=resolve_precision("auto", torch.device("cpu")), checkpoint_every=0, log_every=50, seed=seed
    )
    trainer = Trainer(folder.parent / "general_training", settings, run_state={"pretraining": True})
    trainer.run([lambda: Stage("pretrain", objective, stream, steps)], resume=False)
    save_model(model, folder, keep_sentence_head=True)


def demo(output_dir: Path = Path("runs/demo"), *, scale: float = 1.0) -> dict[str, Any]:
    """Run everything and print one table; `scale` shrinks text and steps for tests. Returns the report.

    Raises:
        InputError: `output_dir` holds something else than an earlier demo.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    marker = output_dir / "demo.json"
    if output_dir.exists() and any(output_dir.iterdir()) and not marker.is_file():
        raise InputError(
            f"{output_dir}: is not empty and holds no demo; move it away or run the demo elsewhere"
        )
    shutil.rmtree(output_dir, ignore_errors=True)
    output_dir.mkdir(parents=True)
    marker.write_text("{}\n", encoding="utf-8")

    print("1/4  generating general and domain text with entity labels", flush=True)
    words = int(300_000 * scale)
    data = write_demo_data(output_dir / "data", general_words=words, domain_words=words)
    print("2/4  pretraining a small general BERT", flush=True)
    pretrain_teacher(data, output_dir / "general_bert", steps=max(4, int(300 * scale)))
    print("3/4  EDAD: adapting it to the domain and distilling it, in one pass", flush=True)
    student_config = output_dir / "student_config.json"
    student_config.write_text(json.dumps({"model_type": "bert", **STUDENT}), encoding="utf-8")
    config = TrainConfig(
        teacher=str(output_dir / "general_bert"),
        corpus=[str(data.domain)],
        validation=[str(data.valid)],
        vocab_size=str(MERGED_PIECES if scale >= 1.0 else GENERAL_PIECES + 200),
        student=str(student_config),
        seq_len=SEQ_LEN,
        batch_tokens=ROWS * SEQ_LEN,
        epochs=2.0,
        learning_rate=5e-4,
        student_learning_rate=2e-3,
        device="cpu",
        loader_workers=0,
        output_dir=str(output_dir / "run"),
    )
    report = run(config)
    print("4/4  named entities and speed", flush=True)
    report["evaluation"] = _evaluate(Path(config.output_dir), data.ner, *((3, 8) if scale >= 1.0 else (1, 1)))
    print(_table(report))
    print(f"student: {config.output_dir}/student    teacher: {config.output_dir}/teacher")
    print(f"report:  {config.output_dir}/report.md  plots: {config.output_dir}/plots/")
    marker.write_text(json.dumps(report["evaluation"], indent=2) + "\n", encoding="utf-8")
    return report


def _evaluate(run_dir: Path, ner: Path, seeds: int, epochs: int) -> dict[str, Any]:
    student, teacher, out = run_dir / "student", run_dir / "teacher", run_dir / "evaluation"
    ner_task = ["ner", "--model", student, "--data", ner, "--seeds", seeds, "--epochs", epochs, *NER_OPTIONS]
    tasks = {
        "speed": ["speed", "--model", student, "--teacher", teacher, "--seq_len", SEQ_LEN, "--device", "cpu"],
        "ner": ner_task,
        "ner_untrained": [*ner_task, "--untrained"],
    }
    results = {}
    for name, arguments in tasks.items():
        folder = out / name
        if evaluate.main([*map(str, arguments), "--output_dir", str(folder)]):
            raise InputError(f"the evaluation {name!r} failed; its message is above")
        results[name] = json.loads((folder / f"{arguments[0]}.json").read_text(encoding="utf-8"))
    return results


def _table(report: dict[str, Any]) -> str:
    speed, losses = report["evaluation"]["speed"], report["mlm_loss"]
    rows = [["parameters", f"{report['parameters']['teacher']:,}", f"{report['parameters']['student']:,}"]]
    for when in ("before", "after"):
        rows.append(
            [f"held-out MLM loss {when}", *(f"{losses[role][when]:.3f}" for role in ("teacher", "student"))]
        )
    for title, key, digits in (
        ("weights, MB", "weight_bytes", 1e-6),
        ("sentences/s", "sentences_per_second", 1.0),
        ("latency, ms", "latency_ms", 1.0),
    ):
        rows.append([title, *(f"{speed[role][key] * digits:,.1f}" for role in ("teacher", "student"))])
    trained, untrained = (
        report["evaluation"][name]["entity_f1"]["mean"] for name in ("ner", "ner_untrained")
    )
    rows.append(["entity F1, 300 labelled sentences", "", f"{trained:.3f} (untrained {untrained:.3f})"])
    rows.append(["device hours, both in one pass", f"{report['device_hours']['total']:.4f}", ""])
    return format_table(["demo", "teacher", "student"], rows)
