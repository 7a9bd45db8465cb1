"""EDAD-fast: domain adaptation and distillation of BERT in one run."""

__version__ = "0.1.0"
