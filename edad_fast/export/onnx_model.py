"""A model as an ONNX graph: export, int8, and a comparison with PyTorch (extra `onnx`)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_OPSET = 17  # the first with LayerNormalization as one operator


class OneOutput(nn.Module):
    """`model` as a function of int64 [B, L] tensors, in the order of `INPUTS`, that gives one tensor."""

    def __init__(self, model: nn.Module, output: str) -> None:
        super().__init__()
        self.model, self.output = model, output
        self.eval()  # the exporter puts back the mode that it found here, in all parts

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """Return the field `output` of the model's result."""
        result = self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        found: Tensor = result[self.output]
        return found


def require_onnx() -> None:
    """See that the packages are there.

    Raises:
        InputError: one is absent.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise InputError(f"ONNX needs an extra ({error}): pip install 'edad-fast[onnx]'") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the notices of torch and onnxruntime that an export of BERT always causes."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)


def random_inputs(
    vocab_size: int, batch: int, length: int, *, padded: bool = True, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and token types, int64 [B, L]; with `padded`, row b lacks its last b tokens (one is left)."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocab_size, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    if padded:
        for row in range(batch):
            mask[row, max(1, length - row) :] = 0
    return ids, mask, torch.zeros_like(ids)


def export_onnx(model: OneOutput, file: Path, *, vocab_size: int) -> None:
    """Write `model` as ONNX with free batch size and length.

    The exporter that traces (dynamo=False) is taken: it is in every supported torch (2.6 to 2.13) and needs
    nothing but `onnx`, where the newer one wants onnxscript of a version that fits torch and takes ten times
    as long. A trace can freeze a decision that the inputs made, hence `differences`.
    """
    example = random_inputs(vocab_size, 2, 8)
    axes = {name: {0: "batch", 1: "sequence"} for name in INPUTS}
    with torch.no_grad():
        axes[model.output] = {0: "batch", 1: "sequence"} if model(*example).ndim == 3 else {0: "batch"}
        with _quiet():
            torch.onnx.export(
                model,
                example,
                str(file),
                input_names=list(INPUTS),
                output_names=[model.output],
                dynamic_axes=axes,
                opset_version=_OPSET,
                dynamo=False,
            )


def quantise_int8(source: Path, target: Path) -> None:
    """Weights of the matrix products and embeddings in int8, activations quantised as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True)


def open_session(file: Path, threads: int = 0) -> Any:
    """An onnxruntime session on the CPU; `threads` 0 leaves their number to onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def run_session(session: Any, inputs: Sequence[Tensor]) -> np.ndarray:
    """The first output for tensors in the order of `INPUTS`."""
    feed = {name: value.numpy() for name, value in zip(INPUTS, inputs, strict=True)}
    result: np.ndarray = session.run(None, feed)[0]
    return result


def differences(
    model: OneOutput, session: Any, *, vocab_size: int, shapes: Sequence[tuple[int, int]]
) -> dict[str, float]:
    """Compare the outputs at real tokens for inputs of each (batch, length), with and without padding.

    Returns:
        max_abs_difference, and cosine: the mean over tokens (or rows, if the output has no length) of the
        cosine between the two outputs.
    """
    largest, cosines = 0.0, []
    for seed, (batch, length) in enumerate(shapes):
        for padded in (False, True):
            inputs = random_inputs(vocab_size, batch, length, padded=padded, seed=seed)
            with torch.inference_mode():
                expected = model(*inputs)
            found = torch.from_numpy(run_session(session, inputs))
            if found.shape != expected.shape:
                raise InputError(
                    f"ONNX gives {tuple(found.shape)}, PyTorch {tuple(expected.shape)} for inputs "
                    f"{batch} x {length}: the exporter of torch {torch.__version__} does not fit this model"
                )
            if expected.ndim == 3:
                real = inputs[1].bool()
                expected, found = expected[real], found[real]
            largest = max(largest, float((expected - found).abs().max()))
            cosines.append(torch.cosine_similarity(expected.double(), found.double(), dim=-1))
    return {"max_abs_difference": largest, "cosine": float(torch.cat(cosines).mean())}
