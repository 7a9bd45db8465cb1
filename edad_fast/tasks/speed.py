"""Size and speed of encoders, measured side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

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
    encoders = {name: encoder_of(model).to(device).eval() for name, model in models.items()}
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

    def calls(ids: Mapping[str, Tensor]) -> dict[str, Timed]:
        return {name: Timed(_call(encoders[name], ids[name], device, precision), device) for name in encoders}

    throughput = interleaved(calls(batch), repeats)
    latency = interleaved(calls(single), repeats)
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


def encoder_of(model: Any) -> Any:
    """The encoder inside a model with a head, or the model itself."""
    return getattr(model, model.base_model_prefix, model)


def _call(encoder: Any, ids: Tensor, device: torch.device, precision: str) -> Callable[[], object]:
    mask = torch.ones_like(ids)

    def call() -> object:
        with autocast(device, precision):
            return encoder(input_ids=ids, attention_mask=mask)

    return call


class Timed(NamedTuple):
    """What `interleaved` times: a call, its device, and torch's CPU threads (None: as they are)."""

    call: Callable[[], object]
    device: torch.device
    threads: int | None = None


@torch.inference_mode()
def interleaved(
    timed: Mapping[str, Timed], repeats: int, *, progress: bool = False
) -> dict[str, list[float]]:
    """Seconds per call, `repeats` of them for each, taken in turn."""

    def run(item: Timed, calls: int) -> float:
        if item.threads is not None:
            torch.set_num_threads(item.threads)
        _wait(item.device)
        begin = time.perf_counter()
        for _ in range(calls):
            item.call()
        _wait(item.device)
        return (time.perf_counter() - begin) / calls

    threads = torch.get_num_threads()
    calls = {}
    try:
        for name, item in tqdm(
            timed.items(), desc="warm-up", disable=None if progress else True, leave=False
        ):
            run(item, 2)
            calls[name] = max(1, round(_SECONDS_PER_TIMING / run(item, 1)))
        seconds: dict[str, list[float]] = {name: [] for name in timed}
        for _ in tqdm(range(repeats), desc="repeats", disable=None if progress else True, leave=False):
            for name, item in timed.items():
                seconds[name].append(run(item, calls[name]))
    finally:
        torch.set_num_threads(threads)
    return seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
