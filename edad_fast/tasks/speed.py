"""Size and speed of encoders, measured side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .device import autocast

# One timing covers at least this long, so that the clock and the scheduler do not show.
_SECONDS_PER_TIMING = 0.2


def weight_bytes(directory: str | Path) -> int:
    """Bytes of the weight files (*.safetensors) in `directory`."""
    return sum(path.stat().st_size for path in Path(directory).glob("*.safetensors"))


def measure_speed(
    models: Mapping[str, nn.Module],
    *,
    device: torch.device,
    precision: str = "fp32",
    batch_size: int = 32,
    length: int = 128,
    repeats: int = 7,
) -> dict[str, dict[str, Any]]:
    """Time the encoders of `models` in turn, so that whatever else the machine does strikes all alike.

    Inputs are random ids without padding. The encoder alone is timed, as a task would put its own head on it;
    `parameters` counts each parameter of the model once (tied ones once, heads as loaded).

    Returns:
        For each model: parameters, embedding_parameters (the word table), sentences_per_second (medians over
        `repeats` of batches of `batch_size` sentences of `length` tokens), latency_ms (one sentence), and
        sentences_per_second_range and latency_ms_range (lowest and highest).

    Raises:
        InputError: `length` is above the position table of a model (it is named).
    """
    encoders = {name: _encoder(model).to(device).eval() for name, model in models.items()}
    for name, encoder in encoders.items():
        if length > encoder.config.max_position_embeddings:
            raise InputError(
                f"sentences of {length} tokens are longer than the {encoder.config.max_position_embeddings} "
                f"positions of the {name}; give a --seq_len that all models can take"
            )
    generator = torch.Generator().manual_seed(0)
    batch, single = {}, {}
    for name, encoder in encoders.items():
        shape = (batch_size, length)
        ids = torch.randint(0, encoder.config.vocab_size, shape, generator=generator).to(device)
        batch[name], single[name] = ids, ids[:1]
    throughput = _interleaved(encoders, batch, device, precision, repeats)
    latency = _interleaved(encoders, single, device, precision, repeats)
    return {
        name: {
            "parameters": sum(p.numel() for p in models[name].parameters()),
            "embedding_parameters": encoder.get_input_embeddings().weight.numel(),
            "sentences_per_second": batch_size / statistics.median(throughput[name]),
            "sentences_per_second_range": sorted(batch_size / f(throughput[name]) for f in (max, min)),
            "latency_ms": 1000 * statistics.median(latency[name]),
            "latency_ms_range": [1000 * min(latency[name]), 1000 * max(latency[name])],
        }
        for name, encoder in encoders.items()
    }


def _encoder(model: Any) -> Any:
    return getattr(model, model.base_model_prefix, model)


@torch.inference_mode()
def _interleaved(
    encoders: Mapping[str, Any], ids: Mapping[str, Tensor], device: torch.device, precision: str, repeats: int
) -> dict[str, list[float]]:
    """Seconds per call, `repeats` of them for each encoder, taken in turn."""

    def run(name: str, calls: int) -> float:
        mask = torch.ones_like(ids[name])
        _wait(device)
        begin = time.perf_counter()
        for _ in range(calls):
            with autocast(device, precision):
                encoders[name](input_ids=ids[name], attention_mask=mask)
        _wait(device)
        return (time.perf_counter() - begin) / calls

    calls = {}
    for name in encoders:
        run(name, 2)
        calls[name] = max(1, round(_SECONDS_PER_TIMING / run(name, 1)))
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    for _ in range(repeats):
        for name in encoders:
            seconds[name].append(run(name, calls[name]))
    return seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
