"""The rewrites are exact: a forward pass from the rewritten weights gives what the untouched model gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from magicmm import ErrorCode, MagicError
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.config import FAMILY, ModelConfig
from magicmm_model.loading import load_model
from magicmm_model.model import MagicModel
from magicmm_quant.hadamard import Rotation
from magicmm_quant.units import unit_shapes
from magicmm_quant.weights import RewrittenWeights
from rewritten_forward import Forward, random_smoothing, smoothable
from tiny_checkpoints import edit_config, write_checkpoint

Floats = NDArray[np.float32]
Smoothing = dict[str, Floats]
WIDTH = 48


@pytest.fixture(scope="module")
def config(checkpoint: Checkpoint) -> ModelConfig:
    """Small tiles, so that the position table is interpolated, too."""
    return checkpoint.config.variant(image_size=112)


@pytest.fixture(scope="module")
def model(checkpoint: Checkpoint) -> MagicModel:
    return load_model(checkpoint, image_size=112)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randint(0, 256, (2, 112, 112, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def black(checkpoint: Checkpoint) -> Tensor:
    """What the untouched model's first layer reads of a black tile of the stored size."""
    seen: list[Tensor] = []
    model: Any = load_model(checkpoint)
    model.vision.layers[0].register_forward_pre_hook(lambda _, given: seen.append(given[0][0]))
    model.vision(torch.zeros(1, 448, 448, 3, dtype=torch.uint8))
    return seen[0]


def check_exact(
    checkpoint: Checkpoint,
    model: MagicModel,
    config: ModelConfig,
    pixels: Tensor,
    rotation: Rotation | None,
    smoothing: Smoothing,
) -> None:
    """Visual tokens and vectors, the first relative to their own size, are the model's to 1e-5."""
    weights = RewrittenWeights(checkpoint, config, rotation, smoothing)
    forward = Forward(weights, config)
    visual, expected = forward.visual(pixels), model.visual_tokens(pixels)
    plain = torch.from_numpy(rotation.undo(visual.numpy())) if rotation else visual
    assert (plain - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))
    ids = torch.randint(0, 400, (2, 9), generator=torch.Generator().manual_seed(1))
    table = torch.from_numpy(weights.tokens(0, 400))
    vector = forward.vector(torch.cat([table[ids[:, :4]], visual, table[ids[:, 4:]]], 1))
    rows = model.language.embed_tokens(ids)
    theirs = torch.cat([rows[:, :4], expected, rows[:, 4:]], 1)
    reference = model.vectors(theirs, torch.full((2,), theirs.shape[1] - 1))
    assert reference.abs().max() > 0.2
    assert (vector - reference).abs().max() <= 1e-5


@pytest.mark.parametrize("smoothed", [False, True])
@pytest.mark.parametrize("seed", [None, 0])
def test_all_rewrites_together_are_exact(
    seed: int | None, smoothed: bool, checkpoint: Checkpoint, model: MagicModel, config: ModelConfig, pixels: Tensor
) -> None:
    smoothing = random_smoothing(config, smoothable(config)) if smoothed else {}
    rotation = None if seed is None else Rotation(WIDTH, seed)
    check_exact(checkpoint, model, config, pixels, rotation, smoothing)


@pytest.mark.parametrize("kind", ["qkv", "proj", "fc1", "linear_1", "o", "gate_up", "down"])
def test_smoothing_of_each_kind_alone_is_exact_and_changes_the_weights(
    kind: str, checkpoint: Checkpoint, model: MagicModel, config: ModelConfig, pixels: Tensor
) -> None:
    units = [unit for unit in smoothable(config) if unit.endswith(f".{kind}")]
    smoothing = random_smoothing(config, units)
    check_exact(checkpoint, model, config, pixels, None, smoothing)
    plain = RewrittenWeights(checkpoint, config, None).linear(units[-1]).weight
    smooth = RewrittenWeights(checkpoint, config, None, {units[-1]: smoothing[units[-1]]}).linear(units[-1]).weight
    assert np.allclose(smooth, plain * smoothing[units[-1]], rtol=1e-6)


def test_nothing_rewritten_is_left_in_norms_and_the_stream_is_rotated(
    checkpoint: Checkpoint, model: MagicModel, config: ModelConfig
) -> None:
    rotation = Rotation(WIDTH, 4)
    weights = RewrittenWeights(checkpoint, config, rotation, {"vision.layers.1.fc1": np.full(32, 4, np.float32)})
    for name, gain in (("vision.layers.0.norm1", 1), ("vision.layers.1.norm2", 0.25), ("connector.layer_norm", 1)):
        left, bias = weights.norm(name)
        assert (left == gain).all()
        assert bias is not None
        assert not bias.any()
    assert weights.norm("language.layers.2.input_layernorm")[1] is None
    matrix = rotation.matrix()
    layer: Any = model.language.layers[1]
    down, o = layer.mlp.down_proj.weight.numpy(), layer.self_attn.o_proj.weight.numpy()
    table = model.language.embed_tokens.weight.numpy()
    gate = (layer.mlp.gate_proj.weight * layer.post_attention_layernorm.weight).numpy()
    assert np.allclose(weights.linear("language.layers.1.down").weight, matrix.T @ down, atol=1e-6)
    assert np.allclose(weights.linear("language.layers.1.o").weight, matrix.T @ o, atol=1e-6)
    assert np.allclose(weights.linear("language.layers.1.gate_up").weight[:80], gate @ matrix, atol=1e-6)
    assert np.allclose(weights.tokens(3, 9), table[3:9] @ matrix, atol=1e-6)


@pytest.mark.parametrize("has_bias", [True, False])
def test_the_bias_of_a_norm_goes_into_its_unit_even_if_that_had_none(
    has_bias: bool, folder: Path, tmp_path: Path
) -> None:
    tensors = load_file(folder / "model.safetensors")
    attention = ".attention.q_proj.bias", ".attention.k_proj.bias", ".attention.v_proj.bias"
    save_file({k: v for k, v in tensors.items() if has_bias or not k.endswith(attention)}, tmp_path / "m.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    edit_config(tmp_path, vision_config={"attention_bias": has_bias})
    checkpoint = Checkpoint.open(tmp_path)
    bias = RewrittenWeights(checkpoint, checkpoint.config, None).linear("vision.layers.0.qkv").bias
    layer: Any = load_model(checkpoint).vision.layers[0]
    assert bias is not None
    assert np.allclose(bias, layer.attn.qkv(layer.norm1.bias).numpy(), atol=1e-5)


def test_positions_are_all_that_a_black_tile_gives(checkpoint: Checkpoint, black: Tensor) -> None:
    rows = RewrittenWeights(checkpoint, checkpoint.config, None).positions()
    assert np.allclose(rows, black.numpy(), atol=1e-5)


def test_units_come_in_graph_order_with_the_shapes_that_are_announced(
    checkpoint: Checkpoint, config: ModelConfig
) -> None:
    weights = RewrittenWeights(checkpoint, config, None)
    shapes = unit_shapes(config)
    assert [*weights.unit_names(), "tokens"] == list(shapes)
    assert weights.unit_names()[:3] == ["vision.patches", "vision.layers.0.qkv", "vision.layers.0.proj"]
    assert weights.unit_names()[-2:] == ["language.layers.2.gate_up", "language.layers.2.down"]
    assert len(weights.unit_names()) == 1 + 2 * 4 + 2 + 3 * 4
    for unit in weights.unit_names():
        assert weights.linear(unit).weight.shape == shapes[unit]
        assert weights.linear(unit).weight.flags.c_contiguous
    assert shapes["tokens"] == weights.tokens(0, 400).shape == (400, WIDTH)
    assert unit_shapes(FAMILY["2B"])["language.layers.27.gate_up"] == (17920, 1536)
    assert unit_shapes(FAMILY["2B"])["language.layers.0.qkv"] == (2048, 1536)


@pytest.fixture
def counted(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the tensors that are read, in order."""
    names: list[str] = []
    read: Callable[[Checkpoint, str], Tensor] = Checkpoint.read
    read_rows: Callable[[Checkpoint, str, int, int], Tensor] = Checkpoint.read_rows

    def note(self: Checkpoint, name: str) -> Tensor:
        names.append(name)
        return read(self, name)

    def note_rows(self: Checkpoint, name: str, start: int, stop: int) -> Tensor:
        names.append(f"{name}[{start}:{stop}]")
        return read_rows(self, name, start, stop)

    monkeypatch.setattr(Checkpoint, "read", note)
    monkeypatch.setattr(Checkpoint, "read_rows", note_rows)
    return names


def test_a_unit_reads_only_its_own_tensors(checkpoint: Checkpoint, config: ModelConfig, counted: list[str]) -> None:
    units = random_smoothing(config, smoothable(config))
    weights = RewrittenWeights(checkpoint, config, Rotation(WIDTH, 0), units)
    assert counted == []
    weights.linear("vision.layers.1.fc2")
    assert sorted(counted) == [f"vision.layers.1.{name}" for name in ("ls2", "mlp.fc2.bias", "mlp.fc2.weight")]
    counted.clear()
    weights.linear("language.layers.0.gate_up")
    assert sorted(counted) == [
        f"language.layers.0.{name}.weight" for name in ("mlp.gate_proj", "mlp.up_proj", "post_attention_layernorm")
    ]
    counted.clear()
    weights.norm("vision.layers.0.norm1")
    assert counted == []
    assert weights.tokens(7, 9).shape == (2, WIDTH)
    assert counted == ["language.embed_tokens.weight[7:9]"]


def test_every_tensor_is_read_by_somebody(checkpoint: Checkpoint, config: ModelConfig, counted: list[str]) -> None:
    weights = RewrittenWeights(checkpoint, config, None)
    for unit in weights.unit_names():
        weights.linear(unit)
    weights.positions()
    weights.closing()
    assert set(checkpoint.names) - set(counted) == {"language.embed_tokens.weight", "language.lm_head.weight"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("stored", "name", "read"),
    [
        ("language_model.model.layers.1.mlp.up_proj.weight", "language.layers.1.mlp.up_proj.weight", "gate_up"),
        ("language_model.model.layers.1.input_layernorm.weight", "language.layers.1.input_layernorm.weight", "qkv"),
        ("language_model.model.embed_tokens.weight", "language.embed_tokens.weight", "tokens"),
        ("language_model.model.norm.weight", "language.norm.weight", "closing"),
        ("vision_tower.embeddings.cls_token", "vision.class_embedding", "positions"),
    ],
)
def test_nan_and_infinity_are_refused_where_they_are_read(
    value: float, stored: str, name: str, read: str, folder: Path, tmp_path: Path
) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[stored].reshape(-1)[5] = value
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    broken = Checkpoint.open(tmp_path)
    weights = RewrittenWeights(broken, broken.config, Rotation(WIDTH, 0))
    calls: dict[str, Callable[[], object]] = {"closing": weights.closing, "positions": weights.positions}
    calls["tokens"] = lambda: weights.tokens(0, 3)
    with pytest.raises(MagicError) as caught:
        calls.get(read, lambda: weights.linear(f"language.layers.1.{read}"))()
    assert caught.value.code is ErrorCode.CHECKPOINT_INVALID
    assert name in caught.value.message
    weights.linear("language.layers.0.gate_up")
    weights.tokens(1, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_checkpoints_are_rewritten_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, dtype)
    checkpoint = Checkpoint.open(tmp_path)
    weights = RewrittenWeights(checkpoint, checkpoint.config, None)
    reference = load_model(checkpoint, dtype=torch.float32)
    assert np.array_equal(weights.tokens(0, 400), reference.language.embed_tokens.weight.numpy())
    layer: Any = reference.language.layers[0]
    down = (layer.mlp.up_proj.weight * layer.post_attention_layernorm.weight).numpy()
    assert np.array_equal(weights.linear("language.layers.0.gate_up").weight[80:], down)


def test_all_that_does_not_fit_is_listed_in_one_error(checkpoint: Checkpoint, config: ModelConfig) -> None:
    unshared = np.arange(1, WIDTH + 1, dtype=np.float32)
    wrong = {
        "vision.layers.0.fc2": np.ones(64, np.float32),
        "vision.layers.9.fc1": np.ones(32, np.float32),
        "vision.layers.1.fc1": np.ones(31, np.float32),
        "language.layers.0.down": np.full(80, -1, np.float32),
        "language.layers.1.down": np.full(80, np.inf, np.float32),
        "language.layers.0.o": unshared,
    }
    with pytest.raises(MagicError) as caught:
        RewrittenWeights(checkpoint, config, Rotation(64, 0), wrong)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
    for part in ("the size 64", "[31], not [32]", *wrong):
        assert part in caught.value.message


@pytest.mark.parametrize("name", ["vision.layers.2.qkv", "tokens", "", "connector.layer_norm"])
def test_unknown_names_are_refused(name: str, checkpoint: Checkpoint, config: ModelConfig) -> None:
    weights = RewrittenWeights(checkpoint, config, None)
    with pytest.raises(MagicError, match=f"no unit {name}"):
        weights.linear(name)
    with pytest.raises(MagicError, match="no norm vision"):
        weights.norm("vision.layers.0.qkv")
