"""Tokens on disk (memory-mapped shards) -> packed, masked batches, resumable to the token."""

from __future__ import annotations

from .batch import Batch, Shares
from .loader import BatchStream
from .shards import TokenShards, build_shards, part_dir
from .texts import DomainBatch, DomainStream, EncodedTexts, TextBatch, TextStream

__all__ = [
    "Batch",
    "BatchStream",
    "DomainBatch",
    "DomainStream",
    "EncodedTexts",
    "Shares",
    "TextBatch",
    "TextStream",
    "TokenShards",
    "build_shards",
    "part_dir",
]
