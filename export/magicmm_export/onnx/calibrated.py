"""What an export learns from photos and captions: smoothing scales, 4-bit rounding, and which units deserve 8 bits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from magicmm_export.onnx.source import unit_source
from magicmm_export.options import SEED, ExportOptions
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.config import ModelConfig
from magicmm_model.templates import ROLES, PromptBuilder
from magicmm_model.tokenizer import PromptTokenizer
from magicmm_quant.calibration import Hessian, collect, collect_hessians
from magicmm_quant.hadamard import Rotation
from magicmm_quant.ranges import static_scales
from magicmm_quant.recipe import RECIPES, Recipe, bytes_of, recipe_bytes
from magicmm_quant.rounding import round_int4
from magicmm_quant.samples import Samples
from magicmm_quant.schemes import INT4, INT8, Scheme
from magicmm_quant.sensitivity import plan_bits, sensitivity
from magicmm_quant.smoothing import smoothable_units, smoothing_scales
from magicmm_quant.units import unit_shapes
from magicmm_quant.weights import RewrittenWeights

Done = Callable[[str], None]
Options = TypeVar("Options", bound=ExportOptions)
SEARCH_PHOTOS, SEARCH_CAPTIONS = 1, 4
"""Samples of the sensitivity search, whose time grows with the square of the layers."""
_GRAPHS = 8_000_000
"""Bytes of nodes, scales, manifest, golden cases and page alignment (measured: 5 MB at 2B)."""


def calibrated(
    checkpoint: Checkpoint, options: Options, samples: Samples, tokenizer: PromptTokenizer, done: Done | None = None
) -> Options:
    """Return options with smoothing and ranges of the vision tower, and 4-bit units rounded and kept in the cache.

    The language model is rotated instead of smoothed: that spreads its outliers without any data.

    Args:
        checkpoint: The model.
        options: With a cache, when the recipe has 4-bit units.
        samples: Photos and captions.
        tokenizer: The checkpoint's.
        done: Called after each layer with its name.
    """
    config = checkpoint.config.variant(compression=options.compression, image_size=options.image_size)
    rotation = Rotation(config.dim, SEED) if options.rotate else None
    statistics = collect(checkpoint, config, samples, tokenizer, rotation, done)
    plain = RewrittenWeights(checkpoint, config, rotation)
    vision = [unit for unit in smoothable_units(config) if unit.startswith("vision.") and unit in statistics.units]
    smoothing = smoothing_scales(statistics, plain, config, only=vision)
    scales = static_scales(statistics, smoothing)
    found = replace(
        options, smoothing=smoothing, static_scales=scales, calibration=f"{samples.describe()} ({_digest(samples)})"
    )
    schemes = {unit: options.recipe.scheme_for(unit) for unit in plain.unit_names()}
    coarse = {unit: scheme for unit, scheme in schemes.items() if scheme.kind == INT4}
    if not coarse or options.cache is None:
        return found
    weights = RewrittenWeights(checkpoint, config, rotation, smoothing)
    source = unit_source(checkpoint, weights, config, found)

    def keep(unit: str, hessian: Hessian) -> None:
        if not source.has(unit):
            linear = weights.linear(unit)
            source.keep(unit, round_int4(linear.weight, coarse[unit].group or 0, hessian), linear.bias)
        if done:
            done(f"rounding {unit}")

    collect_hessians(checkpoint, config, samples, tokenizer, coarse, keep, rotation, smoothing)
    return found


def _digest(samples: Samples) -> str:
    """Name the content of samples: parts that were made with others must not be taken for these."""
    digest = hashlib.sha256(repr(samples.captions).encode())
    for photo in samples.photos:
        digest.update(photo.read_bytes() if isinstance(photo, Path) else photo.tobytes())
    return digest.hexdigest()[:16]


def fitted_recipe(
    checkpoint: Checkpoint,
    options: ExportOptions,
    samples: Samples,
    tokenizer: PromptTokenizer,
    max_size: int,
    done: Done | None = None,
) -> Recipe:
    """Return the recipe that loses least and whose bundle has at most `max_size` bytes: 4 or 8 bits for each unit.

    Raises:
        MagicError: `argument_invalid` when nothing fits; it names the smallest size.
    """
    config = checkpoint.config.variant(compression=options.compression, image_size=options.image_size)
    base = RECIPES["int8"]
    everything = recipe_bytes(config, base) + _other_bytes(checkpoint, config, tokenizer)
    if everything <= max_size:
        return base
    shapes = unit_shapes(config)
    rotation = Rotation(config.dim, SEED) if options.rotate else None
    weights = RewrittenWeights(checkpoint, config, rotation)
    widths = {unit: shapes[unit][1] for unit in weights.unit_names() if unit.startswith("language.layers.")}
    # Groups of 128 cost a quarter of the multipliers of 32; small models have no inputs to fill them.
    cheap = Scheme(INT4, 128 if all(width % 128 == 0 for width in widths.values()) else 32)
    units = [unit for unit, width in widths.items() if width % (cheap.group or 1) == 0]
    few = replace(samples, photos=samples.photos[:SEARCH_PHOTOS], captions=samples.captions[:SEARCH_CAPTIONS], pairs=())
    scores = sensitivity(checkpoint, weights, config, few, tokenizer, units, cheap, done)
    dear = Scheme(INT8)
    cheap_bytes, dear_bytes = ({unit: bytes_of(shapes[unit], how) for unit in units} for how in (cheap, dear))
    fixed = everything - sum(dear_bytes.values())
    plan = plan_bits(scores, cheap_bytes, dear_bytes, max_size, fixed=fixed, cheap=cheap, dear=dear)
    return Recipe(f"mixed under {max_size:,} bytes", base.with_units(plan).rules)


def _other_bytes(checkpoint: Checkpoint, config: ModelConfig, tokenizer: PromptTokenizer) -> int:
    """Return the bytes of a bundle beside its weights: tokenizer, prefixes, graphs."""
    builder = PromptBuilder(config, tokenizer)
    heads = {builder.role_tokens(role).head for role in ROLES.values()}
    language = config.language
    row = 2 * 4 * language.layers * language.kv_heads * language.head_dim
    return (checkpoint.folder / "tokenizer.json").stat().st_size + row * sum(map(len, heads)) + _GRAPHS
