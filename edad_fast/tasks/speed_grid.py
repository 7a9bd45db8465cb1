"""Encoders as they are deployed: CPU threads x number formats, and CUDA, measured side by side."""

from __future__ import annotations

import copy
import os
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .speed import Timed, interleaved

CPU = torch.device("cpu")
# int64 ids and mask [B, L] to hidden states [B, L, d].
Runner = Callable[[Tensor, Tensor], Tensor]
# An engine besides torch, from an encoder and a number of threads: its runner and the bytes of its weights.
Engine = Callable[[str, Any, int], tuple[Runner, int]]


def quantised(encoder: nn.Module) -> nn.Module:
    """A copy of `encoder`: linear layers in int8 (a scale for each row), activations quantised as they come.

    torch marks torch.ao.quantization as deprecated in favour of the package torchao, which would be one more
    dependency; it is in every torch from 2.6 to 2.13.

    Raises:
        RuntimeError, ImportError, AttributeError: this torch has no such kernels.
    """
    from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return quantize_dynamic(encoder, {nn.Linear: per_channel_dynamic_qconfig})


def weights_in_bytes(encoder: nn.Module) -> int:
    """Bytes of all parameters, and of the weights that quantised layers keep in packed form."""
    total = sum(parameter.numel() * parameter.element_size() for parameter in encoder.parameters())
    for module in encoder.modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if callable(weight) and callable(bias):  # methods in torch's quantised layers
            packed, offset = weight(), bias()
            total += packed.numel() + (0 if offset is None else 4 * offset.numel())
    return total


def _runner(encoder: Any) -> Runner:
    return lambda ids, mask: encoder(input_ids=ids, attention_mask=mask).last_hidden_state


def measure_grid(
    encoders: Mapping[str, Any],
    *,
    batch_size: int,
    length: int,
    repeats: int,
    threads: Sequence[int] = (1, 2),
    engines: Mapping[str, Engine] | None = None,
) -> list[dict[str, Any]]:
    """Time `encoders` in turn in every format on every device.

    CPU: each number of `threads` that the machine has, with fp32, bf16 (weights too), int8 (see `quantised`)
    and what `engines` adds. CUDA, where there is one: fp32 and bf16. Inputs are random ids without padding,
    the same for all.

    Returns:
        One row for each model, device and format: model, device, threads, format, weight_bytes,
        sentences_per_second (batches of `batch_size` sentences of `length` tokens) and latency_ms (one
        sentence), both medians over `repeats`, their _range (lowest and highest), and cosine_to_fp32 (mean
        over tokens, between this format's hidden states and those of fp32 on the CPU). A format that this
        machine lacks gives no row.

    Raises:
        InputError: `length` is above the position table of a model (it is named).
    """
    rows: list[dict[str, Any]] = []
    batch: dict[str, Timed] = {}
    single: dict[str, Timed] = {}
    counts = [number for number in threads if number <= (os.cpu_count() or 1)]
    vocabulary = min(encoder.config.vocab_size for encoder in encoders.values())
    ids = torch.randint(0, vocabulary, (batch_size, length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)

    def add(
        model: str, name: str, runner: Runner, size: int, device: torch.device, count: int | None
    ) -> None:
        here = ids.to(device), mask.to(device)
        with torch.inference_mode():
            found = runner(*here).float().cpu()
            expected = reference[model]
        cosine = torch.cosine_similarity(found, expected, dim=-1).mean()
        key = str(len(rows))
        rows.append(
            {
                "model": model,
                "device": device.type,
                "threads": count,
                "format": name,
                "weight_bytes": size,
                "cosine_to_fp32": min(1.0, float(cosine)),
            }
        )
        batch[key] = Timed(lambda: runner(*here), device, count)
        one = here[0][:1], here[1][:1]
        single[key] = Timed(lambda: runner(*one), device, count)

    reference: dict[str, Tensor] = {}
    for model, encoder in encoders.items():
        if length > encoder.config.max_position_embeddings:
            raise InputError(
                f"sentences of {length} tokens are longer than the {encoder.config.max_position_embeddings} "
                f"positions of the {model}; give a --seq_len that all models can take"
            )
        encoder.to(CPU).eval()
        with torch.inference_mode():
            reference[model] = _runner(encoder)(ids, mask)
        formats = {"fp32": encoder, "bf16": copy.deepcopy(encoder).bfloat16()}
        try:
            formats["int8"] = quantised(encoder)
        except (RuntimeError, ImportError, AttributeError) as error:
            warnings.warn(f"int8 is left out: this torch cannot quantise ({error})", stacklevel=2)
        for count in counts:
            for name, ready in formats.items():
                add(model, name, _runner(ready), weights_in_bytes(ready), CPU, count)
            for name, engine in (engines or {}).items():
                add(model, name, *engine(model, encoder, count), CPU, count)
        if torch.cuda.is_available():
            cuda = torch.device("cuda")
            for name in ("fp32", "bf16"):
                there = copy.deepcopy(formats[name]).to(cuda)
                add(model, name, _runner(there), weights_in_bytes(there), cuda, None)
    # Models in turn within each format, so that those compared are neighbours in time.
    order = sorted(batch, key=lambda key: _place(rows[int(key)]))
    throughput = interleaved({key: batch[key] for key in order}, repeats, progress=True)
    latency = interleaved({key: single[key] for key in order}, repeats, progress=True)
    for number, row in enumerate(rows):
        rates = [batch_size / seconds for seconds in throughput[str(number)]]
        times = [1000 * seconds for seconds in latency[str(number)]]
        row["sentences_per_second"] = statistics.median(rates)
        row["sentences_per_second_range"] = [min(rates), max(rates)]
        row["latency_ms"] = statistics.median(times)
        row["latency_ms_range"] = [min(times), max(times)]
    return sorted(rows, key=_place)


def _place(row: Mapping[str, Any]) -> tuple[str, int, str]:
    return row["device"], row["threads"] or 0, row["format"]
