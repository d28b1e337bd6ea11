"""The weights of a graph, quantised by a recipe as the writer asks for them, and kept for the next attempt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from magicmm_export.onnx.linear import PlainWeights, StoredWeights
from magicmm_export.options import SEED, ExportOptions
from magicmm_export.part_cache import PartCache
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.config import ModelConfig
from magicmm_model.naming import tensor_shapes
from magicmm_quant.recipe import Recipe
from magicmm_quant.schemes import Int4Weights, Int8Weights, Scheme, quantise_int4, quantise_int8
from magicmm_quant.units import PATCHES, unit_plans
from magicmm_quant.weights import RewrittenWeights

Floats = NDArray[np.float32]

_QUANTISER = 1
"""Raised whenever rewriting or rounding changes: parts in a cache that an earlier version made are then not taken."""


class QuantisingSource:
    """Reads, rewrites and quantises a unit at a time."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        weights: RewrittenWeights,
        recipe: Recipe,
        cache: PartCache | None = None,
        rewrites: Mapping[str, Any] | None = None,
        done: Callable[[str, int], None] | None = None,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            checkpoint: Where the tensors lie, for the keys of the cache.
            weights: The same, rewritten.
            recipe: Gives each unit its scheme.
            cache: Where finished units are kept, or None.
            rewrites: What the rewriting and rounding depend on beside the checkpoint, as JSON: part of every key.
            done: Called after each unit with its name and the bytes it was read from.
        """
        self._checkpoint = checkpoint
        self._shapes = tensor_shapes(checkpoint.config)
        self._plans = unit_plans(checkpoint.config)
        self._weights = weights
        self._recipe = recipe
        self._cache = cache
        self._rewrites = json.dumps(rewrites or {}, sort_keys=True)
        self._done = done

    def weights(self, unit: str) -> tuple[StoredWeights, Floats | None]:
        """Return weights and bias of a unit in the scheme of the recipe."""
        scheme, names = self._facts(unit)
        key = self._key(unit, scheme, names) if self._cache else ""
        arrays = self._cache.get(key) if self._cache else None
        if arrays is None:
            arrays = self._quantised(unit, scheme)
            if self._cache:
                self._cache.put(key, arrays)
        if self._done:
            self._done(unit, sum(prod(self._shapes[name]) * self._checkpoint.dtype(name).itemsize for name in names))
        return _stored(arrays), arrays.get("bias")

    def has(self, unit: str) -> bool:
        """Say whether the cache holds a unit."""
        return self._cache is not None and self._cache.has(self._key(unit, *self._facts(unit)))

    def keep(self, unit: str, four: Int4Weights, bias: Floats | None) -> None:
        """Put a 4-bit unit that calibration rounded into the cache, where `weights` finds it."""
        if self._cache is None:
            raise ValueError("Calibrated units are handed over in a cache.")
        arrays = _arrays(four) if bias is None else {**_arrays(four), "bias": bias}
        self._cache.put(self._key(unit, *self._facts(unit)), arrays)

    def _facts(self, unit: str) -> tuple[Scheme, tuple[str, ...]]:
        return self._recipe.scheme_for(unit), self._tensors(unit)

    def _quantised(self, unit: str, scheme: Scheme) -> dict[str, NDArray[Any]]:
        linear = self._weights.linear(unit)
        arrays: dict[str, NDArray[Any]] = {} if linear.bias is None else {"bias": linear.bias}
        if scheme.kind == "float32":
            return {**arrays, "weight": linear.weight}
        if scheme.kind == "int8":
            eight = quantise_int8(linear.weight)
            return {**arrays, "codes": eight.codes, "scales": eight.scales}
        return {**arrays, **_arrays(quantise_int4(linear.weight, scheme.group or 0))}

    def _tensors(self, unit: str) -> tuple[str, ...]:
        """Return the stored tensors that a unit is made of."""
        if unit == PATCHES:
            return ("vision.patch_embedding.weight",)
        plan = self._plans[unit]
        modules = (*plan.parts, *([plan.norm] if plan.norm else []))
        names = [f"{module}.{kind}" for module in modules for kind in ("weight", "bias")]
        return (*(name for name in names if name in self._shapes), *([plan.layer_scale] if plan.layer_scale else []))

    def _key(self, unit: str, scheme: Scheme, names: tuple[str, ...]) -> str:
        """Hash what the result depends on: the stored bytes, the scheme, the rewrites."""
        digest = hashlib.blake2b(digest_size=20)
        for name in names:
            tensor = self._checkpoint.read(name)
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        digest.update(f"{unit} {scheme} {self._rewrites}".encode())
        return digest.hexdigest()


def unit_source(
    checkpoint: Checkpoint,
    weights: RewrittenWeights,
    config: ModelConfig,
    options: ExportOptions,
    done: Callable[[str, int], None] | None = None,
) -> QuantisingSource:
    """Return the units of a model as these options quantise them."""
    rewrites = {
        "quantiser": _QUANTISER,
        "rotation": SEED if options.rotate else None,
        "smoothing": _smoothing_digest(options.smoothing or {}),
        "calibration": options.calibration,
        "image_size": config.vision.image_size,
        "compression": config.compression if options.calibration else None,  # it decides what the samples show
    }
    return QuantisingSource(checkpoint, weights, options.recipe, options.cache, rewrites, done)


def _smoothing_digest(smoothing: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for unit in sorted(smoothing):
        digest.update(unit.encode() + np.ascontiguousarray(smoothing[unit], np.float32).tobytes())
    return digest.hexdigest()


def _arrays(four: Int4Weights) -> dict[str, NDArray[Any]]:
    return {"codes": four.codes, "multipliers": four.multipliers, "scales": four.scales}


def _stored(arrays: Mapping[str, NDArray[Any]]) -> StoredWeights:
    if "weight" in arrays:
        return PlainWeights(arrays["weight"])
    if "multipliers" in arrays:
        return Int4Weights(arrays["codes"], arrays["multipliers"], arrays["scales"])
    return Int8Weights(arrays["codes"], arrays["scales"])
