"""What tests of quantisation share: one torch thread, and a tiny checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import tiny_checkpoints
from magicmm_model.checkpoint import Checkpoint


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny products are slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 checkpoint in transformers' layout; tests must not change it."""
    path = tmp_path_factory.mktemp("checkpoint") / "tiny"
    tiny_checkpoints.write_checkpoint(path)
    return path


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Checkpoint:
    """The same, open."""
    return Checkpoint.open(folder)
