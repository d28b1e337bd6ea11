"""The streamed model gives what the whole model gives, with one layer in memory, and shows what its units read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from magicmm_model.checkpoint import Checkpoint
from magicmm_model.config import ModelConfig
from magicmm_model.loading import load_model
from magicmm_model.model import MagicModel
from magicmm_quant.hadamard import Rotation
from magicmm_quant.streaming import StreamedModel
from magicmm_quant.units import unit_shapes
from magicmm_quant.weights import RewrittenWeights

BOUND = 1e-5
PROMPTS = ([5, 9, 2], [7], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])


@pytest.fixture(scope="module")
def config(checkpoint: Checkpoint) -> ModelConfig:
    return checkpoint.config.variant(image_size=112)


@pytest.fixture(scope="module")
def whole(checkpoint: Checkpoint) -> MagicModel:
    return load_model(checkpoint, image_size=112, dtype=torch.float32)


@pytest.fixture(scope="module")
def tiles() -> list[Tensor]:
    """Three pictures; the second has three tiles."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(0, 256, (n, 112, 112, 3), dtype=torch.uint8, generator=generator) for n in (1, 3, 1)]


@pytest.fixture(scope="module")
def rewritten(checkpoint: Checkpoint, config: ModelConfig) -> RewrittenWeights:
    """Rotated, and smoothed at every kind of place; heads that share a value head share its scales."""
    generator, smoothing = np.random.default_rng(5), {}
    for unit, (_, inputs) in unit_shapes(config).items():
        if unit.rpartition(".")[2] in ("qkv", "proj", "fc1", "linear_1", "gate_up", "down"):
            smoothing[unit] = (2 ** generator.uniform(-1, 1, inputs)).astype(np.float32)
        elif unit.endswith(".o"):
            own = 2 ** generator.uniform(-1, 1, (2, 1, 8))
            smoothing[unit] = np.repeat(own, 3, axis=1).reshape(-1).astype(np.float32)
    return RewrittenWeights(checkpoint, config, Rotation(config.dim, seed=1), smoothing)


def test_visual_tokens_equal_the_whole_models(
    checkpoint: Checkpoint, config: ModelConfig, whole: MagicModel, tiles: list[Tensor]
) -> None:
    found = StreamedModel(checkpoint, config).visual_tokens(tiles)
    assert [tokens.shape for tokens in found] == [(4, 48), (12, 48), (4, 48)]
    for tokens, picture in zip(found, tiles, strict=True):
        torch.testing.assert_close(tokens, whole.visual_tokens(picture).flatten(0, 1), atol=BOUND, rtol=0)


@pytest.mark.parametrize(("side", "compression"), [(448, 2), (56, 1)])
def test_other_variants_equal_the_whole_models_too(checkpoint: Checkpoint, side: int, compression: int) -> None:
    config = checkpoint.config.variant(image_size=side, compression=compression)
    picture = torch.randint(0, 256, (1, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    whole = load_model(checkpoint, image_size=side, compression=compression, dtype=torch.float32)
    found = StreamedModel(checkpoint, config).visual_tokens([picture])[0]
    torch.testing.assert_close(found, whole.visual_tokens(picture)[0], atol=BOUND, rtol=0)


def test_vectors_of_sequences_of_different_length_equal_the_whole_models(
    checkpoint: Checkpoint, config: ModelConfig, whole: MagicModel, tiles: list[Tensor]
) -> None:
    model = StreamedModel(checkpoint, config)
    picture = torch.cat([model.rows(PROMPTS[0]), *model.visual_tokens(tiles[1:2]), model.rows(PROMPTS[1])])
    sequences = [*(model.rows(ids) for ids in PROMPTS), picture]
    found = model.vectors(sequences)
    for vector, sequence in zip(found, sequences, strict=True):
        expected = whole.vectors(sequence[None], torch.tensor([len(sequence) - 1]))[0]
        torch.testing.assert_close(vector, expected, atol=BOUND, rtol=0)


def test_rows_are_those_of_the_token_table(checkpoint: Checkpoint, config: ModelConfig, whole: MagicModel) -> None:
    found = StreamedModel(checkpoint, config).rows(PROMPTS[2])
    assert torch.equal(found, whole.language.embed_tokens(torch.tensor(PROMPTS[2])))


def test_prefixes_equal_the_whole_models(checkpoint: Checkpoint, config: ModelConfig, whole: MagicModel) -> None:
    found = StreamedModel(checkpoint, config).prefixes(PROMPTS)
    for layers, ids in zip(found, PROMPTS, strict=True):
        _, expected = whole.language(whole.language.embed_tokens(torch.tensor([ids])))
        assert len(layers) == len(expected) == 3
        for ours, theirs in zip(layers, expected, strict=True):
            assert ours[0].shape == (1, 2, len(ids), 8)
            for one, other in zip(ours, theirs, strict=True):
                torch.testing.assert_close(one, other, atol=BOUND, rtol=0)


def test_vectors_from_rewritten_weights_are_the_same(
    checkpoint: Checkpoint,
    config: ModelConfig,
    whole: MagicModel,
    rewritten: RewrittenWeights,
    tiles: list[Tensor],
) -> None:
    model = StreamedModel(checkpoint, config, weights=rewritten)
    visual = model.visual_tokens(tiles[1:2])[0]
    exact = whole.visual_tokens(tiles[1]).flatten(0, 1)
    assert not torch.allclose(visual, exact, atol=0.1), "not rotated"
    sequence = torch.cat([model.rows(PROMPTS[0]), visual, model.rows(PROMPTS[2])])
    table = whole.language.embed_tokens
    plain = torch.cat([table(torch.tensor(PROMPTS[0])), exact, table(torch.tensor(PROMPTS[2]))])
    expected = whole.vectors(plain[None], torch.tensor([len(plain) - 1]))
    torch.testing.assert_close(model.vectors([sequence]), expected, atol=BOUND, rtol=0)


def test_smoothing_of_o_shows_in_the_values_of_a_prefix(
    checkpoint: Checkpoint, config: ModelConfig, rewritten: RewrittenWeights
) -> None:
    smooth = StreamedModel(checkpoint, config, weights=rewritten).prefixes(PROMPTS[:1])[0]
    plain = StreamedModel(checkpoint, config).prefixes(PROMPTS[:1])[0]
    for (key, value), (plain_key, plain_value) in zip(smooth, plain, strict=True):
        torch.testing.assert_close(key, plain_key, atol=BOUND, rtol=0)
        largest = value.abs().argmax(2, keepdim=True)  # what is near 0 has no ratio to speak of
        factors = plain_value.gather(2, largest) / value.gather(2, largest)
        torch.testing.assert_close(value * factors, plain_value, atol=BOUND, rtol=0)
        assert (factors - 1).abs().max() > 0.3


def test_only_one_layer_is_in_memory_at_a_time(
    checkpoint: Checkpoint, config: ModelConfig, tiles: list[Tensor], rewritten: RewrittenWeights
) -> None:
    for weights in (None, rewritten):
        model = StreamedModel(checkpoint, config, weights=weights)
        frame: nn.Module = model._frame

        def held(frame: nn.Module = frame) -> list[str]:
            return sorted({name for name, value in frame.named_parameters() if not value.is_meta})

        assert held() == []
        for part, count in (("vision", 2), ("connector", 1), ("language", 3)):
            names: list[str] = []

            def drop(_: str, names: list[str] = names) -> None:
                assert held() == []
                names.append("dropped")

            for name, layer in model.layers(part, drop):
                assert held() == [f"{name}.{key}" for key in sorted(dict(layer.named_parameters()))]
                names.append(name)
            assert len(names) == 2 * count
            assert names[1::2] == ["dropped"] * count
        assert held() == []


def test_a_layer_is_dropped_when_its_run_fails(checkpoint: Checkpoint, config: ModelConfig) -> None:
    model = StreamedModel(checkpoint, config)
    with pytest.raises(RuntimeError, match="size of tensor"):
        model.vectors([torch.zeros(3, 7)])
    assert all(value.is_meta for value in model._frame.parameters())


@pytest.mark.parametrize("rewrite", [False, True])
def test_the_observer_sees_what_every_unit_reads(
    checkpoint: Checkpoint, config: ModelConfig, tiles: list[Tensor], rewritten: RewrittenWeights, rewrite: bool
) -> None:
    seen: dict[str, list[tuple[int, ...]]] = {}
    model = StreamedModel(
        checkpoint,
        config,
        lambda unit, rows: seen.setdefault(unit, []).append(tuple(rows.shape)),
        rewritten if rewrite else None,
    )
    model.visual_tokens(tiles)
    model.vectors([model.rows(ids) for ids in PROMPTS])
    shapes = unit_shapes(config)
    assert list(seen) == [unit for unit in shapes if unit not in ("vision.patches", "tokens")]
    for unit, found in seen.items():
        rows = {"vision": [65] * 5, "connector": [4] * 5, "language": [3, 1, 11]}[unit.partition(".")[0]]
        assert found == [(count, shapes[unit][1]) for count in rows], unit


def test_the_observer_sees_normed_rows_without_gain_and_divided_by_the_smoothing(
    checkpoint: Checkpoint, config: ModelConfig, whole: MagicModel
) -> None:
    scales = np.linspace(0.5, 2, 48).astype(np.float32)
    unit = "language.layers.0.gate_up"
    seen: dict[str, Tensor] = {}
    for smoothing in ({}, {unit: scales}):
        weights = RewrittenWeights(checkpoint, config, None, smoothing)
        model = StreamedModel(checkpoint, config, seen.__setitem__, weights)
        model.vectors([model.rows(PROMPTS[2])])
        root = seen[unit].mul(torch.from_numpy(smoothing.get(unit, np.ones(48, np.float32)))).pow(2).mean(-1).sqrt()
        torch.testing.assert_close(root, torch.ones(11), atol=1e-4, rtol=0)


def test_progress_names_every_layer_in_order(checkpoint: Checkpoint, config: ModelConfig, tiles: list[Tensor]) -> None:
    names: list[str] = []
    model = StreamedModel(checkpoint, config)
    model.visual_tokens(tiles[:1], names.append)
    model.vectors([model.rows([1])], names.append)
    assert names == [
        *("vision.layers.0", "vision.layers.1", "connector"),
        *(f"language.layers.{place}" for place in range(3)),
    ]


def test_nothing_in_gives_nothing_out(checkpoint: Checkpoint, config: ModelConfig) -> None:
    model = StreamedModel(checkpoint, config)
    assert model.visual_tokens([]) == []
    assert model.vectors([]).shape == (0, 48)
    assert model.prefixes([]) == []
