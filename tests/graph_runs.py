"""Graphs of a tiny model, written by the code under test and run as the SDK runs them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from magicmm.runtime import OnnxSession
from magicmm.saturation import saturates
from magicmm_export import isolated
from magicmm_export.graph import DataFile, GraphWriter
from magicmm_export.onnx.export import OnnxOptions
from magicmm_export.onnx.language import write_language
from magicmm_export.onnx.linear import LinearWriter
from magicmm_export.onnx.source import QuantisingSource
from magicmm_export.onnx.vision import write_vision
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.config import ModelConfig
from magicmm_quant.hadamard import Rotation
from magicmm_quant.recipe import RECIPES, Recipe, Rule
from magicmm_quant.schemes import Scheme
from magicmm_quant.smoothing import smoothable_units
from magicmm_quant.units import unit_shapes
from magicmm_quant.weights import RewrittenWeights

Floats = NDArray[np.float32]

FOUR = Recipe(
    "four bits in groups of 32",
    (
        Rule(r"vision\.patches", Scheme("float32")),
        Rule(r"language\..*", Scheme("int4", 32)),
        Rule(".*", Scheme("int8")),
    ),
)
"""The published recipe's groups of 128 do not divide a tiny model."""
SIDE = 224
"""Of tiles: a quarter of the patches, a sixteenth of their attention."""


def options(recipe: Recipe = RECIPES["int8"], **changes: Any) -> OnnxOptions:
    """Return how the bundles of the tests are lowered."""
    return OnnxOptions(recipe, **{"image_size": SIDE, **changes})


def rotation_of(config: ModelConfig, rotate: bool = True) -> Rotation | None:
    """Return some rotation of the residual stream, or None."""
    return Rotation(config.dim, 3) if rotate else None


def random_smoothing(config: ModelConfig, seed: int = 0) -> dict[str, Floats]:
    """Return scales from 1/4 to 4 for every unit that can be smoothed."""
    rng = np.random.default_rng(seed)
    found = {}
    for unit, feed in smoothable_units(config).items():
        scales = np.exp2(rng.uniform(-2, 2, unit_shapes(config)[unit][1])).astype(np.float32)
        if feed is not None:
            heads = scales.reshape(-1, feed.copies, feed.width)
            scales = np.repeat(heads[:, :1], feed.copies, axis=1).reshape(-1)
        found[unit] = scales
    return found


def write_part(
    folder: Path,
    part: str,
    checkpoint: Checkpoint,
    weights: RewrittenWeights,
    config: ModelConfig,
    recipe: Recipe = RECIPES["float32"],
) -> OnnxSession:
    """Write `vision` or `language` and open it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{part}.onnx"
    data = DataFile(folder / f"{part}.onnx.data")
    graph = GraphWriter(part, data)
    write = write_vision if part == "vision" else write_language
    write(graph, LinearWriter(graph, QuantisingSource(checkpoint, weights, recipe)), weights, config)
    data.close()
    path.write_bytes(graph.model().SerializeToString())
    return OnnxSession(path, 1)


def run_model(graph: GraphWriter, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Run a small graph that holds all of its weights, and return its outputs by name."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if saturates():
        options.add_session_config_entry("session.x64quantprecision", "1")  # as the SDK does
    session = ort.InferenceSession(graph.model().SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(inputs)), strict=True))


def no_prefix(config: ModelConfig) -> dict[str, Floats]:
    """Return keys and values of length 0."""
    language = config.language
    empty = np.zeros((1, language.kv_heads, 0, language.head_dim), np.float32)
    return {f"past_{kind}_{place}": empty for kind in ("key", "value") for place in range(language.layers)}


def cosine(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return the smallest cosine between rows that belong together; a row of zeros has the cosine 0."""
    a, b = (np.asarray(rows, np.float64).reshape(-1, np.shape(rows)[-1]) for rows in (first, second))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / np.maximum(lengths, 1e-30)).min())


def distance(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Return the largest difference, in units of the root mean square of what was wanted."""
    assert found.shape == wanted.shape
    exact = np.asarray(wanted, np.float64)
    return float(np.abs(found - exact).max() / np.sqrt((exact**2).mean()))


def pictures(count: int, side: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return noise: uint8 [count, side, side, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def run_here(verb: str, staged: Path, request: Mapping[str, Any], folder: Path) -> None:
    """Stand in for the child process of an export, at a fraction of its time; requests still pass through JSON."""
    given = json.loads(json.dumps(request))
    (isolated._seal if verb == "seal" else isolated._embed)(staged, folder, given)


def partial_folders(folder: Path) -> Sequence[str]:
    """Name what a stopped export must not leave behind."""
    return sorted(path.name for path in folder.iterdir() if ".partial" in path.name or path.name.endswith(".old"))


def hashes(bundle: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a bundle, by its name in there."""
    return {
        path.relative_to(bundle).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in bundle.rglob("*")
        if path.is_file()
    }


def damaged(tiny: Checkpoint, folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Checkpoint:
    """Copy the checkpoint with other weights; `change` gets them by their stored names."""
    shutil.copytree(tiny.folder, folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    return Checkpoint.open(folder)
