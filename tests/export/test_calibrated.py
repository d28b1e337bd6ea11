"""What calibration changes: smoothing of the vision tower, 4-bit rounding, and which units get which bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graph_runs import FOUR, options
from magicmm import Bundle, ErrorCode, MagicError
from magicmm.packed import read_packed
from magicmm_export.onnx import calibrated as module
from magicmm_export.onnx.calibrated import calibrated, fitted_recipe
from magicmm_export.onnx.export import OnnxOptions, export_onnx
from magicmm_export.onnx.source import unit_source
from magicmm_export.part_cache import PartCache
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.config import ModelConfig
from magicmm_model.tokenizer import PromptTokenizer
from magicmm_quant.calibration import Hessian, collect_hessians
from magicmm_quant.hadamard import Rotation
from magicmm_quant.recipe import RECIPES, recipe_bytes
from magicmm_quant.samples import Samples, synthetic_samples
from magicmm_quant.schemes import Int4Weights, dequantise, quantise_int4
from magicmm_quant.units import unit_plans
from magicmm_quant.weights import RewrittenWeights

SAMPLES = synthetic_samples(2, side=64)


@pytest.fixture(scope="module")
def learnt(
    tiny: Checkpoint, tokenizer: PromptTokenizer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[OnnxOptions, list[str]]:
    steps: list[str] = []
    cache = PartCache(tmp_path_factory.mktemp("calibrated") / "parts")
    return calibrated(tiny, options(FOUR, cache=cache), SAMPLES, tokenizer, steps.append), steps


def config_of(tiny: Checkpoint) -> ModelConfig:
    return tiny.config.variant(image_size=options().image_size)


def four_bit_units(tiny: Checkpoint) -> list[str]:
    return [unit for unit in unit_plans(tiny.config) if unit.startswith("language.")]


def test_only_the_vision_tower_is_smoothed(learnt: tuple[OnnxOptions, list[str]]) -> None:
    found = learnt[0]
    assert found.smoothing is not None
    kinds = ("qkv", "proj", "fc1")
    assert set(found.smoothing) == {f"vision.layers.{layer}.{kind}" for layer in (0, 1) for kind in kinds}
    assert all((scales > 0).all() and np.ptp(scales) > 0 for scales in found.smoothing.values())
    assert "SYNTHETIC" in found.calibration and "2 photos" in found.calibration


def test_every_4_bit_unit_is_rounded_once_and_kept(
    tiny: Checkpoint, tokenizer: PromptTokenizer, learnt: tuple[OnnxOptions, list[str]]
) -> None:
    found, steps = learnt
    assert found.cache is not None
    wanted = [f"rounding {unit}" for unit in four_bit_units(tiny)]
    assert [step for step in steps if step.startswith("rounding")] == wanted
    assert len(list(found.cache.folder.iterdir())) == len(wanted)
    made = PartCache(found.cache.folder)
    calibrated(tiny, options(FOUR, cache=made), SAMPLES, tokenizer)
    assert made.made == 0, "what was rounded before was rounded again"


def test_other_samples_have_other_parts(tiny: Checkpoint, tokenizer: PromptTokenizer, tmp_path: Path) -> None:
    cache, units = PartCache(tmp_path / "parts"), len(four_bit_units(tiny))
    photo = tmp_path / "photo.png"
    for colour, made in ((10, units), (10, units), (11, 2 * units)):
        from PIL import Image

        Image.new("RGB", (40, 40), (colour, 200, 30)).save(photo)
        calibrated(tiny, options(FOUR, cache=cache), Samples((photo,), ("a dog",)), tokenizer)
        assert cache.made == made


def test_the_bundle_holds_what_was_rounded_which_is_closer_than_plain_rounding(
    tiny: Checkpoint,
    tokenizer: PromptTokenizer,
    learnt: tuple[OnnxOptions, list[str]],
    tmp_path: Path,
    in_process: None,
) -> None:
    found, config = learnt[0], config_of(tiny)
    rotation = Rotation(config.dim, 0)
    weights = RewrittenWeights(tiny, config, rotation, found.smoothing or {})
    source = unit_source(tiny, weights, config, found)
    bundle = export_onnx(tiny, tmp_path / "tiny.magicmm", found)
    assert bundle.manifest.raw["source"]["calibration"] == found.calibration
    errors: dict[str, tuple[float, float]] = {}

    def compare(unit: str, hessian: Hessian) -> None:
        weight = weights.linear(unit).weight
        stored = source.weights(unit)[0]
        assert isinstance(stored, Int4Weights)
        plain = quantise_int4(weight, 32)
        assert not np.array_equal(stored.codes, plain.codes)
        errors[unit] = missed(weight, dequantise(stored), hessian), missed(weight, dequantise(plain), hessian)
        parts = [("", slice(None))]
        if unit == f"language.layers.{config.language.layers - 1}.qkv":
            parts = [(".first", slice(0, config.dim)), (".second", slice(config.dim, None))]
        for name, rows in parts:
            written[f"{unit}{name}.weight"] = stored.as_int8().codes[rows].T

    written: dict[str, Any] = {}
    schemes = {unit: FOUR.scheme_for(unit) for unit in four_bit_units(tiny)}
    collect_hessians(tiny, config, SAMPLES, tokenizer, schemes, compare, rotation, found.smoothing or {})
    assert errors.keys() == schemes.keys()
    assert all(ours < plain for ours, plain in errors.values())
    assert sum(ours for ours, _ in errors.values()) < 0.8 * sum(plain for _, plain in errors.values())
    packed = Bundle.load(bundle.path).file(bundle.manifest.packed["onnx"]["language"])
    unpacked = read_packed(packed, {name: codes.shape for name, codes in written.items()})
    assert all(np.array_equal(unpacked[name], codes) for name, codes in written.items())


def missed(weight: Any, rounded: Any, hessian: Hessian) -> float:
    """Return the squared error of the products with the samples' inputs, as a share of the products'."""
    start, error, whole = 0, 0.0, 0.0
    for block in hessian.blocks:
        columns = slice(start, start + len(block))
        wrong, exact = (torch.from_numpy(np.ascontiguousarray(part[:, columns])) for part in (weight - rounded, weight))
        error += float(((wrong @ block.float()) * wrong).sum())
        whole += float(((exact @ block.float()) * exact).sum())
        start += len(block)
    return error / whole


def test_without_4_bits_or_a_cache_nothing_is_rounded(tiny: Checkpoint, tokenizer: PromptTokenizer) -> None:
    steps: list[str] = []
    found = calibrated(tiny, options(), SAMPLES, tokenizer, steps.append)
    assert found.smoothing and found.cache is None
    assert not any("rounding" in step for step in steps)


def size_of(bundle: Path) -> int:
    return sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_fitted_bundle_is_no_larger_than_asked(
    tiny: Checkpoint,
    tokenizer: PromptTokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    in_process: None,
    int8_bundle: Path,
    share: float,
) -> None:
    config = config_of(tiny)
    large, small = (recipe_bytes(config, recipe) for recipe in (RECIPES["int8"], FOUR))
    tokens = (tiny.folder / "tokenizer.json").stat().st_size
    own = size_of(int8_bundle) - large - tokens + 20_000  # graphs and prefixes of a tiny model, and some air
    monkeypatch.setattr(module, "_other_bytes", lambda *_: tokens + own)
    limit = int(small + share * (large - small)) + tokens + own
    recipe = fitted_recipe(tiny, options(), SAMPLES, tokenizer, limit)
    kinds = [recipe.scheme_for(unit).kind for unit in four_bit_units(tiny)]
    assert {"int4", "int8"} == set(kinds)
    assert all(
        recipe.scheme_for(unit).kind == "int8" for unit in unit_plans(config) if unit.startswith("vision.layers")
    )
    assert recipe_bytes(config, recipe) + tokens + own <= limit
    bundle = export_onnx(tiny, tmp_path / "tiny.magicmm", options(recipe))
    assert limit - 60_000 < size_of(bundle.path) <= limit


def test_with_room_for_all_the_recipe_is_int8(tiny: Checkpoint, tokenizer: PromptTokenizer) -> None:
    assert fitted_recipe(tiny, options(), SAMPLES, tokenizer, 10**9) is RECIPES["int8"]


def test_an_impossible_size_names_the_smallest(tiny: Checkpoint, tokenizer: PromptTokenizer) -> None:
    with pytest.raises(MagicError) as caught:
        fitted_recipe(tiny, options(), SAMPLES, tokenizer, 1000)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
    least = int("".join(filter(str.isdecimal, caught.value.remedy)))
    assert f"{least:,} bytes" in caught.value.message
    recipe = fitted_recipe(tiny, options(), SAMPLES, tokenizer, least)
    assert {recipe.scheme_for(unit).kind for unit in four_bit_units(tiny)} == {"int4"}
    with pytest.raises(MagicError):
        fitted_recipe(tiny, options(), SAMPLES, tokenizer, least - 1)
