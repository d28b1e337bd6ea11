"""Statistics are those of what the rewritten units read, and Hessians come and go layer by layer."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from magicmm import ErrorCode, MagicError
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.config import ModelConfig
from magicmm_model.loading import load_model
from magicmm_model.tokenizer import PromptTokenizer
from magicmm_quant.calibration import Hessian, Statistics, collect, collect_hessians
from magicmm_quant.hadamard import Rotation
from magicmm_quant.samples import Samples, prepare, synthetic_samples
from magicmm_quant.units import unit_shapes


@pytest.fixture(scope="module")
def given(folder: Path) -> tuple[Checkpoint, ModelConfig, Samples, PromptTokenizer]:
    checkpoint = Checkpoint.open(folder)
    config = checkpoint.config.variant(image_size=56, compression=1)
    return checkpoint, config, synthetic_samples(3, side=56), PromptTokenizer(folder / "tokenizer.json")


@pytest.fixture(scope="module")
def read(given: tuple[Checkpoint, ModelConfig, Samples, PromptTokenizer]) -> dict[str, Tensor]:
    """What some linears of torch's whole model read, before anything is rewritten: all rows of all samples."""
    checkpoint, config, samples, tokenizer = given
    model = load_model(checkpoint, image_size=56, compression=1, dtype=torch.float32)
    inputs = prepare(samples, config, tokenizer)
    names = {
        "vision.layers.1.fc2": "vision.layers.1.mlp.fc2",
        "connector.linear_2": "connector.linear_2",
        "language.layers.2.o": "language.layers.2.self_attn.o_proj",
        "language.layers.2.down": "language.layers.2.mlp.down_proj",
    }
    seen: dict[str, list[Tensor]] = {}

    def keep(unit: str) -> Any:
        return lambda _, rows: seen.setdefault(unit, []).append(rows[0].flatten(0, -2))

    for unit, path in names.items():
        model.get_submodule(path).register_forward_pre_hook(keep(unit))
    for place, ids in enumerate(inputs.prompts):
        visual = model.visual_tokens(inputs.tiles[place]) if place < len(inputs.tiles) else None
        rows = model.embed_sequence(torch.tensor([ids]), visual, inputs.context)
        model.vectors(rows, torch.tensor([len(ids) - 1]))
    return {unit: torch.cat(parts) for unit, parts in seen.items()}


@pytest.fixture(scope="module")
def statistics(given: tuple[Checkpoint, ModelConfig, Samples, PromptTokenizer]) -> Statistics:
    return collect(*given, rotation=Rotation(48, 0))


def test_statistics_of_every_unit_but_the_patches(
    given: tuple[Checkpoint, ModelConfig, Samples, PromptTokenizer], statistics: Statistics
) -> None:
    shapes = unit_shapes(given[1])
    assert statistics.units.keys() == shapes.keys() - {"vision.patches", "tokens"}
    assert "SYNTHETIC" in statistics.sample
    for unit, found in statistics.units.items():
        assert found.peak.shape == found.mean_square.shape == shapes[unit][1:]
        assert found.peak.dtype == np.float32


def test_they_are_the_peaks_and_mean_squares_of_what_torchs_model_reads(
    statistics: Statistics, read: dict[str, Tensor]
) -> None:
    assert len(read) == 4
    for unit, rows in read.items():
        found = statistics.units[unit]
        assert found.rows == len(rows)
        np.testing.assert_allclose(found.peak, rows.abs().amax(0).numpy(), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found.mean_square, rows.double().square().mean(0).numpy(), rtol=1e-3, atol=1e-5)


def test_norm_gains_are_out_and_the_rotation_is_in(
    given: tuple[Checkpoint, ModelConfig, Samples, PromptTokenizer], statistics: Statistics
) -> None:
    plain = collect(*given)
    for unit in ("vision.layers.0.qkv", "language.layers.1.gate_up"):
        # Rows of a norm without gain have the mean square 1, over all channels.
        assert statistics.units[unit].mean_square.mean() == pytest.approx(1, abs=1e-3)
    turned, straight = (found.units["language.layers.1.qkv"].mean_square for found in (statistics, plain))
    assert not np.allclose(turned, straight, rtol=0.1)
    np.testing.assert_allclose(turned.sum(), straight.sum(), rtol=1e-4)


def test_hessians_are_handed_out_in_graph_order_and_not_kept(
    given: tuple[Checkpoint, ModelConfig, Samples, PromptTokenizer], read: dict[str, Tensor]
) -> None:
    wanted = ["language.layers.2.down", "connector.linear_2", "vision.layers.1.fc2", "language.layers.2.o"]
    alive: list[weakref.ref[Tensor]] = []
    order: list[str] = []

    def consume(unit: str, hessian: Hessian) -> None:
        layer = unit.rpartition(".")[0]
        assert all(ref() is None for ref in alive) or layer == order[-1].rpartition(".")[0]
        alive.extend(weakref.ref(block) for block in hessian.blocks)
        order.append(unit)
        rows = read[unit]
        assert hessian.rows == len(rows)
        assert [len(block) for block in hessian.blocks] == [len(part[0]) for part in torch.split(rows, 32, dim=1)]
        for block, part in zip(hessian.blocks, torch.split(rows, 32, dim=1), strict=True):
            torch.testing.assert_close(block, part.T @ part, rtol=1e-3, atol=1e-2)

    collect_hessians(*given, wanted, consume, Rotation(48, 0), block=32)
    assert order == ["vision.layers.1.fc2", "connector.linear_2", "language.layers.2.o", "language.layers.2.down"]


def test_smoothing_divides_the_hessian(
    given: tuple[Checkpoint, ModelConfig, Samples, PromptTokenizer], read: dict[str, Tensor]
) -> None:
    unit = "language.layers.2.down"
    scales = np.linspace(0.5, 3, 80).astype(np.float32)
    found: list[Hessian] = []
    collect_hessians(*given, [unit], lambda _, hessian: found.append(hessian), smoothing={unit: scales})
    rows = read[unit] / torch.from_numpy(scales)
    torch.testing.assert_close(found[0].blocks[0], rows.T @ rows, rtol=1e-3, atol=1e-2)


def test_the_patches_have_no_hessian(given: tuple[Checkpoint, ModelConfig, Samples, PromptTokenizer]) -> None:
    with pytest.raises(MagicError, match=r"vision\.patches") as caught:
        collect_hessians(*given, ["vision.patches"], lambda *_: None)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
