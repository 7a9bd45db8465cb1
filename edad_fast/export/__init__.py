"""Students for other programs: `python -m edad_fast.export onnx|sentence_transformers --model DIR ...`."""

from .command import main

__all__ = ["main"]
