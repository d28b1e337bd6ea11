"""What tests of the torch model share: a tiny checkpoint, transformers' model of the same weights, random tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.image_transforms import normalize
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, ChannelDimension

import tiny_checkpoints
from one_thread import one_thread as one_thread

BOUND = 1e-5
"""Largest difference of any number from transformers, in float32."""


@pytest.fixture(scope="session")
def _written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    model = tiny_checkpoints.hf_model(folder)
    model.save_pretrained(folder)
    return folder, model


@pytest.fixture(scope="session")
def folder(_written: tuple[Path, Any]) -> Path:
    """A float32 checkpoint with its own output matrix, in transformers' layout; tests must not change it."""
    return _written[0]


@pytest.fixture(scope="session")
def hf(_written: tuple[Path, Any]) -> Any:
    """The model of transformers with the weights of `folder`; tests must not change it."""
    return _written[1].requires_grad_(False)


@pytest.fixture(scope="session")
def pixels() -> Tensor:
    """Random tiles: uint8 [3, 448, 448, 3]."""
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (3, 448, 448, 3), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="session")
def hf_pixels() -> Callable[[Tensor], Tensor]:
    """Return transformers' own way from uint8 [n, h, w, 3] to what its model reads, float32 [n, 3, h, w]."""

    def prepare(tiles: Tensor) -> Tensor:
        planes = [
            normalize(tile / 255.0, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, ChannelDimension.FIRST)
            for tile in tiles.permute(0, 3, 1, 2).numpy().astype(np.float64)
        ]
        return torch.from_numpy(np.stack(planes)).float()

    return prepare


@pytest.fixture(scope="session")
def agree() -> Callable[[Tensor, Tensor], None]:
    """Return the check that our numbers are transformers'."""

    def check(ours: Tensor, theirs: Tensor) -> None:
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= BOUND

    return check


@pytest.fixture(scope="session")
def record() -> Callable[[Iterable[nn.Module], Callable[[], object]], list[Tensor]]:
    """Return a function that notes what goes into the first of some layers, and what comes out of each of them."""
    seen: list[Tensor] = []

    def note(_: nn.Module, __: object, result: Any) -> None:
        seen.append(result[0] if isinstance(result, tuple) else result)

    def run(layers: Iterable[nn.Module], call: Callable[[], object]) -> list[Tensor]:
        seen.clear()
        layers = list(layers)
        handles = [layers[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))]
        for layer in layers:
            handles.append(layer.register_forward_hook(note))
        try:
            call()
        finally:
            for handle in handles:
                handle.remove()
        return list(seen)

    return run
