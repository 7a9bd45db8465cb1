"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

# Without a GPU the Triton kernels are interpreted; Triton reads this where it is imported first.
HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Tests never reach for a model hub; whatever they load they made themselves.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# A shell that starts the tests in the background has it ignored; some tests press the key.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the checkout; a user of the package does not have it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("shared data absent")
    return folder


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked gpu are for machines that have one."""
    if not HAS_GPU and (without := [item for item in items if item.get_closest_marker("gpu")]):
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if item not in set(without)]


pytest.register_assert_rewrite("toy_corpus", "toy_ner", "toy_tokenizers", "toy_training", "toy_vocabulary")
