"""Judge a model: `python -m edad_fast.evaluate ner|sentiment|mlm|embeddings|speed --model DIR ...`.

Each task prints a table and writes TASK.json and TASK.md into --output_dir (default: evaluation/ in the
model's directory).
"""

from .command import main

__all__ = ["main"]
