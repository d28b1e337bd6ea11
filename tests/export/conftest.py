"""One tiny checkpoint and the bundles exported from it, shared by all tests of export; none may change them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from exported_bundles import importable_in_children
from graph_runs import FOUR, SIDE, options, run_here
from magicmm import Bundle
from magicmm_export import isolated
from magicmm_export.onnx.export import OnnxOptions, export_onnx
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.loading import load_model
from magicmm_model.model import MagicModel
from magicmm_model.tokenizer import PromptTokenizer
from magicmm_quant.recipe import RECIPES, Recipe
from nano_students import student_bundle
from tiny_checkpoints import write_checkpoint


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A checkpoint whose matrices groups of 32 divide."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    write_checkpoint(folder, hidden_size=96, intermediate_size=128)
    return Checkpoint.open(folder)


@pytest.fixture(scope="session")
def tokenizer(tiny: Checkpoint) -> PromptTokenizer:
    return PromptTokenizer(tiny.folder / "tokenizer.json", tiny.config.language.vocab_size)


@pytest.fixture(scope="session")
def reference(tiny: Checkpoint) -> MagicModel:
    """The checkpoint in torch, float32, as its config says."""
    return load_model(tiny, dtype=torch.float32)


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The shipped weights with a random student, in int8."""
    return student_bundle(tmp_path_factory.mktemp("student"))


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run what belongs in a child process here, to save its start; test_isolated.py has the real one."""
    monkeypatch.setattr(isolated, "_run", run_here)
    yield


@pytest.fixture(scope="session")
def int8_bundle(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sealed by a real child process."""
    with importable_in_children():
        return export_onnx(tiny, tmp_path_factory.mktemp("int8") / "tiny.magicmm", options()).path


def _exported(tiny: Checkpoint, folder: Path, lowering: OnnxOptions) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(isolated, "_run", run_here)
        return export_onnx(tiny, folder / "tiny.magicmm", lowering).path


@pytest.fixture(scope="session")
def float32_bundle(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _exported(tiny, tmp_path_factory.mktemp("float32"), options(RECIPES["float32"]))


@pytest.fixture(scope="session")
def int4_bundle(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _exported(tiny, tmp_path_factory.mktemp("int4"), options(FOUR))


@pytest.fixture(scope="session")
def executorch_bundle(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In float32, with a short and a long bucket."""
    return _executorch(tiny, tmp_path_factory.mktemp("executorch"), RECIPES["float32"], (32, 128))


@pytest.fixture(scope="session")
def executorch_int8_bundle(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _executorch(tiny, tmp_path_factory.mktemp("executorch-int8"), RECIPES["int8"], (128,))


def _executorch(tiny: Checkpoint, folder: Path, recipe: Recipe, buckets: tuple[int, ...]) -> Path:
    pytest.importorskip("executorch")
    from magicmm_export.executorch.export import ExecutorchOptions, export_executorch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(isolated, "_run", run_here)
        lowering = ExecutorchOptions(recipe, image_size=SIDE, buckets=buckets)
        return export_executorch(tiny, folder / "tiny.magicmm", lowering).path


@pytest.fixture(scope="session")
def low_memory_bundle(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _exported(tiny, tmp_path_factory.mktemp("low"), options(FOUR, low_memory=True))
