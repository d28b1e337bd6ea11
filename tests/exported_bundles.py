"""Bundles of tiny vision-language checkpoints, exported for tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from magicmm_export.onnx.export import OnnxOptions, export_onnx
from magicmm_model.checkpoint import Checkpoint
from magicmm_quant.recipe import RECIPES, Recipe
from tiny_checkpoints import write_checkpoint


def tiny_checkpoint(folder: Path) -> Checkpoint:
    """Write a checkpoint and open it."""
    folder.mkdir(parents=True)
    write_checkpoint(folder)
    return Checkpoint.open(folder)


def tiny_bundle(
    checkpoint: Checkpoint, target: Path, recipe: Recipe | str, rotate: bool = True, low_memory: bool = False
) -> Path:
    """Export with a recipe, or the published one of that name."""
    chosen = RECIPES[recipe] if isinstance(recipe, str) else recipe
    with importable_in_children():
        export_onnx(checkpoint, target, OnnxOptions(recipe=chosen, rotate=rotate, low_memory=low_memory))
    return target


@contextmanager
def importable_in_children() -> Iterator[None]:
    """Let child processes find what this one finds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        yield
