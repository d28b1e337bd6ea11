"""The vision graph gives the visual tokens of the torch model, however its weights were rewritten."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

from graph_runs import cosine, distance, pictures, random_smoothing, rotation_of, write_part
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.loading import load_model
from magicmm_quant.recipe import RECIPES
from magicmm_quant.weights import RewrittenWeights

SIDE = 224


@pytest.mark.parametrize(
    ("compression", "side", "rotate", "smooth"),
    [
        (2, 224, False, False),
        (2, 224, True, False),
        (2, 224, False, True),
        (1, 224, True, True),
        (2, 448, True, True),
        (1, 448, False, False),
    ],
)
def test_visual_tokens_are_those_of_the_torch_model(
    tiny: Checkpoint, tmp_path: Path, compression: int, side: int, rotate: bool, smooth: bool
) -> None:
    config = tiny.config.variant(compression=compression, image_size=side)
    rotation = rotation_of(config, rotate)
    weights = RewrittenWeights(tiny, config, rotation, random_smoothing(config) if smooth else {})
    pixels = pictures(2, side)
    found = write_part(tmp_path, "vision", tiny, weights, config).run({"pixels": pixels})
    model = load_model(tiny, dtype=torch.float32, compression=compression, image_size=side)
    with torch.inference_mode():
        wanted = model.visual_tokens(torch.from_numpy(pixels)).numpy()
    assert found.shape == (2, (side // 14) ** 2 // (16 if compression == 2 else 4), config.dim)
    if rotation:
        assert distance(found, wanted) > 0.1, "the rotation did nothing"
        found = rotation.undo(found)
    assert distance(found, wanted) < 1e-4


@pytest.fixture(scope="module")
def eight(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Any:
    config = tiny.config.variant(image_size=SIDE)
    weights = RewrittenWeights(tiny, config, rotation_of(config))
    return write_part(tmp_path_factory.mktemp("eight"), "vision", tiny, weights, config, RECIPES["int8"])


def test_in_int8_a_tile_gives_the_same_bits_alone_and_beside_others(eight: Any) -> None:
    pixels = pictures(3, SIDE)
    pixels[1] = 255 * (pixels[1] > 250)  # rare bright dots: the largest activations of the batch
    together = eight.run({"pixels": pixels})
    for place in range(3):
        alone = eight.run({"pixels": pixels[place : place + 1]})
        assert np.array_equal(alone[0], together[place])


def test_in_int8_the_tokens_stay_close(tiny: Checkpoint, eight: Any) -> None:
    pixels = pictures(2, SIDE)
    with torch.inference_mode():
        model = load_model(tiny, dtype=torch.float32, image_size=SIDE)
        wanted = model.visual_tokens(torch.from_numpy(pixels)).numpy()
    rotation = rotation_of(tiny.config)
    assert rotation is not None
    found = rotation.undo(eight.run({"pixels": pixels}))
    assert cosine(found, wanted) > 0.995
    assert distance(found, wanted) > 1e-4, "nothing was rounded"


def test_the_graph_that_torch_exports_gives_the_same(tiny: Checkpoint, tmp_path: Path) -> None:
    import_module("onnxscript")  # torch.onnx.export needs it; a test that is skipped proves nothing
    config = tiny.config.variant(image_size=SIDE)
    model = load_model(tiny, dtype=torch.float32, image_size=SIDE)

    class Vision(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.model.visual_tokens(pixels)

    pixels = pictures(2, SIDE)
    path = tmp_path / "oracle.onnx"
    torch.onnx.export(Vision().eval(), (torch.from_numpy(pixels),), str(path), dynamo=True, verbose=False)
    oracle = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = oracle.run(None, {oracle.get_inputs()[0].name: pixels})[0]
    weights = RewrittenWeights(tiny, config, None)
    found = write_part(tmp_path, "vision", tiny, weights, config).run({"pixels": pixels})
    assert distance(found, wanted) < 1e-5
