"""What tests of quantisation share: one torch thread, and a tiny checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny_checkpoints
from magicmm_model.checkpoint import Checkpoint
from one_thread import one_thread as one_thread


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
