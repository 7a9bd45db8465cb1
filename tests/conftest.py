"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Tests never reach for a model hub; whatever they load they made themselves.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the checkout; a user of the package does not have it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("shared data absent")
    return folder


pytest.register_assert_rewrite("toy_corpus", "toy_ner", "toy_training", "toy_vocabulary")
