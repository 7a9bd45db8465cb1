"""Peak memory of one optimiser step, counted on fake tensors: no data, no time, any size.

python benchmarks/step_memory.py --rows 256 --seq_len 128

Of the MiniLM shape, 48,180 pieces, TinyBERT4: the two stages of the usual adapt-then-distil
(`baselines.naive`) and EDAD, in bf16 autocast on a CPU. Counted are weights, gradients and both moments of
AdamW, and every tensor that the step makes for as long as it lives. What the package's operators hold inside
is added as their budget.
"""

from __future__ import annotations

import argparse
import json
import weakref
from collections.abc import Callable
from typing import Any

import torch
from baselines import naive
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import BertConfig, BertForPreTraining

from edad_fast.kernels.cpu.cross_entropy import BUDGET
from edad_fast.losses import layer_map
from edad_fast.methods.adapt import AdaptationLoss
from edad_fast.methods.cost import full_batch
from edad_fast.methods.edad import Edad
from edad_fast.methods.general_distillation import LayerDistillation
from edad_fast.models import build_pretraining_model, student_config

PIECES = 48_180
MINILM = BertConfig(
    hidden_size=384,
    num_hidden_layers=6,
    num_attention_heads=12,
    intermediate_size=1536,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages that operations made and that are still alive, and their highest sum."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if not isinstance(x, Tensor):
                continue
            storage = x.untyped_storage()
            key = storage._cdata
            if key in given or key in self._known:
                continue
            self._known.add(key)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key, storage.nbytes())
        return result


def peak_of(build: Callable[[], tuple[nn.Module, Callable[[], Tensor]]]) -> int:
    """Bytes of one step: `build` makes the models and a function that gives the loss."""
    with FakeTensorMode():
        module, loss = build()
        parameters = list(module.parameters())
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        frozen = sum(p.numel() for p in parameters) - trained
        with LiveBytes() as live:
            with torch.autocast("cpu", torch.bfloat16):
                total = loss()
            total.backward()
    # Weights and both moments; the gradients are among the tensors that the step makes.
    return live.peak + 12 * trained + 4 * frozen


def _models() -> tuple[BertForPreTraining, BertForPreTraining]:
    teacher = BertConfig(**{**MINILM.to_dict(), "vocab_size": PIECES})
    student = student_config("tinybert4", vocab_size=PIECES, max_positions=512)
    student.hidden_dropout_prob = student.attention_probs_dropout_prob = 0.0
    return tuple(build_pretraining_model(c).train() for c in (teacher, student))  # type: ignore[return-value]


def _padded_batch(rows: int, seq_len: int) -> dict[str, Tensor]:
    ids = torch.ones(rows, seq_len, dtype=torch.long)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def naive_adapt(rows: int, seq_len: int) -> tuple[nn.Module, Callable[[], Tensor]]:
    teacher, _ = _models()
    teacher.set_attn_implementation("eager")
    batch = _padded_batch(rows, seq_len)
    return teacher, lambda: naive.masked_lm_loss(teacher, batch)


def naive_distil(rows: int, seq_len: int) -> tuple[nn.Module, Callable[[], Tensor]]:
    teacher, student = _models()
    teacher.eval().requires_grad_(False)
    projection = nn.Linear(student.config.hidden_size, teacher.config.hidden_size)
    losses = naive.TinyBertLoss(teacher, student, layer_map("uniform", 4, 6), projection)
    batch = _padded_batch(rows, seq_len)
    return nn.ModuleList([teacher, student, projection]), lambda: torch.stack(losses(batch)).sum()


def edad(rows: int, seq_len: int) -> tuple[nn.Module, Callable[[], Tensor]]:
    teacher, student = _models()
    distillation = LayerDistillation(
        student,
        teacher,
        layer_map("uniform", 4, 6),
        attention_weight=1.0,
        hidden_weight=1.0,
        mode="tinybert",
        head_match="auto",
        backend="auto",
    )
    objective = Edad(
        *(teacher, student, AdaptationLoss(), distillation),
        scope="student",
        teacher_learning_rate=1e-4,
        student_learning_rate=5e-4,
    )
    batch = full_batch(rows, seq_len, 0.15)
    return objective, lambda: objective(batch, 0.5).total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--seq_len", type=int, default=128)
    options = parser.parse_args()
    size = options.rows, options.seq_len
    figures = {
        "naive, adapt": peak_of(lambda: naive_adapt(*size)),
        "naive, distil": peak_of(lambda: naive_distil(*size)),
        # Inside the head's operator: a chunk of logits, the weight in bf16, and its gradient in bf16.
        "edad": peak_of(lambda: edad(*size)) + BUDGET + 4 * PIECES * 384,
    }
    for name, value in figures.items():
        print(f"{name}: {value / 1e9:.2f} GB")
    naive_peak = max(value for name, value in figures.items() if name != "edad")
    print(json.dumps({"rows": options.rows, "seq_len": options.seq_len, **figures}))
    print(f"edad / naive: {figures['edad'] / naive_peak:.3f}")


if __name__ == "__main__":
    main()
