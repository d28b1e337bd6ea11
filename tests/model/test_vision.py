"""The vision tower, held against transformers' InternVL on the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from magicmm_model.loading import load_model
from magicmm_model.vision import normalise, resize_positions


@pytest.fixture(scope="module", params=[448, 224])
def tiles(request: pytest.FixtureRequest, pixels: Tensor) -> Tensor:
    """Tiles of both sizes; transformers resizes its positions by itself for the smaller ones."""
    return pixels[:, : request.param, : request.param]


def test_normalised_pixels_equal_transformers(hf_pixels: Callable[[Tensor], Tensor]) -> None:
    every_value = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(2, -1, -1, 3)
    ours = normalise(every_value)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, hf_pixels(every_value), atol=1e-6, rtol=0)


def test_the_three_colours_keep_their_order(hf_pixels: Callable[[Tensor], Tensor]) -> None:
    tall = torch.arange(2 * 5 * 3 * 3, dtype=torch.uint8).reshape(2, 5, 3, 3)
    assert normalise(tall).shape == (2, 3, 5, 3)
    torch.testing.assert_close(normalise(tall), hf_pixels(tall), atol=1e-6, rtol=0)


def test_patch_features_equal_transformers(
    folder: Path,
    hf: Any,
    tiles: Tensor,
    hf_pixels: Callable[[Tensor], Tensor],
    agree: Callable[[Tensor, Tensor], None],
) -> None:
    side = tiles.shape[1]
    ours = load_model(folder, compression=1, image_size=side).vision(tiles)
    assert ours.shape == (3, side // 14, side // 14, 32)
    agree(ours.flatten(1, 2), hf.model.vision_tower(pixel_values=hf_pixels(tiles)).last_hidden_state[:, 1:])


def test_every_layer_equals_transformers(
    folder: Path,
    hf: Any,
    tiles: Tensor,
    hf_pixels: Callable[[Tensor], Tensor],
    agree: Callable[[Tensor, Tensor], None],
    record: Callable[[Iterable[nn.Module], Callable[[], object]], list[Tensor]],
) -> None:
    tower, theirs = load_model(folder, compression=1, image_size=tiles.shape[1]).vision, hf.model.vision_tower
    ours = record(tower.layers, lambda: tower(tiles))
    expected = record(theirs.encoder.layer, lambda: theirs(pixel_values=hf_pixels(tiles)))
    assert len(ours) == len(expected) == 1 + 2  # the embeddings, then each layer
    for mine, his in zip(ours, expected, strict=True):
        agree(mine, his)


def test_bfloat16_weights_give_nearly_the_same_features(folder: Path, pixels: Tensor) -> None:
    wide = load_model(folder).vision(pixels)
    narrow = load_model(folder, dtype=torch.bfloat16).vision(pixels)
    assert narrow.dtype == torch.bfloat16
    assert narrow.isfinite().all()
    assert functional.cosine_similarity(narrow.float(), wide, dim=-1).min() > 0.999


def test_each_tile_is_seen_alone(folder: Path, pixels: Tensor) -> None:
    tower = load_model(folder).vision
    torch.testing.assert_close(tower(pixels)[1:2], tower(pixels[1:2]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_positions_resized_to_their_own_grid_stay_what_they_are(dtype: torch.dtype) -> None:
    table = torch.randn(1, 1 + 32 * 32, 8).to(dtype)
    assert torch.equal(resize_positions(table, 32), table)


@pytest.mark.parametrize("side", [224, 336, 672])
def test_positions_resize_like_those_of_transformers(
    hf: Any, side: int, agree: Callable[[Tensor, Tensor], None]
) -> None:
    embeddings = hf.model.vision_tower.embeddings
    grid = side // 14
    expected = embeddings.interpolate_pos_encoding(torch.zeros(1, 1 + grid * grid, 32), side, side)
    agree(resize_positions(embeddings.position_embeddings, grid), expected)


def test_positions_in_bfloat16_are_interpolated_in_float32() -> None:
    table = torch.randn(1, 1 + 32 * 32, 8).bfloat16()
    resized = resize_positions(table, 16)
    assert torch.equal(resized, resize_positions(table.float(), 16).bfloat16())
    assert torch.equal(resized[:, 0], table[:, 0])
