"""A checkpoint to a verified vision-language bundle for onnxruntime, in the memory of its largest tensor."""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from magicmm import Bundle, ErrorCode, MagicError
from magicmm.openvino_runtime import require_openvino
from magicmm_export.bundle_writer import GoldenInput, weights_identity
from magicmm_export.graph import DataFile, GraphWriter
from magicmm_export.isolated import seal_bundle
from magicmm_export.memory import return_freed_memory
from magicmm_export.onnx.language import write_language
from magicmm_export.onnx.linear import LinearWriter
from magicmm_export.onnx.source import QuantisingSource
from magicmm_export.onnx.static import check_static, no_ranges, static_vision
from magicmm_export.onnx.tables import write_prefixes, write_tokens
from magicmm_export.onnx.vision import write_vision
from magicmm_export.packed_file import PackedFile
from magicmm_export.part_cache import PartCache
from magicmm_export.scenes import sample_scene
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.config import Head, ModelConfig
from magicmm_model.naming import tensor_shapes
from magicmm_model.templates import ROLES, PromptBuilder
from magicmm_model.tokenizer import PromptTokenizer
from magicmm_quant.hadamard import Rotation
from magicmm_quant.recipe import RECIPES, Recipe
from magicmm_quant.streaming import StreamedModel
from magicmm_quant.weights import RewrittenWeights

SEED = 0
"""Of the rotation's signs: the same checkpoint gives the same bundle."""
OPENVINO_VISION = "onnx/vision.openvino.onnx"
"""In the folder of the data file that it shares with the `vision` graph."""

_UNCOUNTED = (
    "vision.class_embedding",
    "vision.patch_embedding.bias",
    "vision.position_embedding",
    "language.norm.weight",
)
"""Small tensors of no unit; progress does not count them."""
_QUANTISER = 1
"""Raised whenever rewriting or rounding changes: parts in a cache that an earlier version made are then not taken."""


@dataclass(frozen=True)
class OnnxOptions:
    """How a checkpoint is lowered.

    Attributes:
        recipe: Scheme of every unit.
        rotate: Rotate the language model's residual stream, which spreads outliers over all channels.
        low_memory: Keep 4-bit weights 4 bits wide at run time: less memory, slower.
        compression: 2 = 64 visual tokens a tile, 1 = 256; None = what the checkpoint says.
        image_size: Side of a tile; None = what the checkpoint says.
        model_id: Name of the bundle; None = that of the checkpoint's folder.
        smoothing: Scales by unit (SmoothQuant), from calibration.
        openvino: Write a second vision graph for OpenVINO; needs calibration and a vision tower without 4-bit weights.
        static_scales: Scales of what the vision units read, from calibration; only `openvino` uses them.
        calibration: What smoothing and rounding were computed from, in words; part of the cache's keys.
        cache: Where finished parts are kept between attempts.
    """

    recipe: Recipe = RECIPES["int8"]
    rotate: bool = True
    low_memory: bool = False
    compression: int | None = None
    image_size: int | None = None
    model_id: str | None = None
    smoothing: Mapping[str, Any] | None = None
    openvino: bool = False
    static_scales: Mapping[str, float] | None = None
    calibration: str = ""
    cache: PartCache | None = None


@dataclass(frozen=True)
class Progress:
    """How far an export is: bytes of the checkpoint that were read, of how many, and what is being done."""

    done: int
    total: int
    what: str


def export_onnx(
    checkpoint: Checkpoint,
    target: Path,
    options: OnnxOptions | None = None,
    quality: Callable[[Path, Mapping[str, Any]], Mapping[str, Any]] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Bundle:
    """Write a bundle; `target` is replaced at the very end or left untouched.

    Args:
        checkpoint: The model.
        target: `NAME.magicmm`.
        options: How to lower it.
        quality: Called with the staged bundle and what its manifest will say; its answer goes into the manifest as
            `quality`, and an error that it raises stops the export.
        progress: Called after each step.

    Raises:
        MagicError: `checkpoint_invalid` for NaN or infinity in a tensor, `storage_failed` for a full disk,
            `bundle_invalid` when the finished bundle does not verify.
    """
    return_freed_memory()
    options = options or OnnxOptions()
    staged = target.with_name(f"{target.name}.partial-{os.getpid()}")
    try:
        _remove_abandoned(target)
        staged.mkdir(parents=True)
        manifest = _Exporter(checkpoint, staged, options, progress, target.name).write()
        if quality:
            manifest["quality"] = dict(quality(staged, manifest))
        return seal_bundle(staged, target, manifest, _golden())
    except OSError as error:
        raise MagicError(
            ErrorCode.STORAGE_FAILED,
            f"{target} cannot be written: {error.strerror or error}.",
            "Free some space or choose another folder; finished parts are kept and found again.",
        ) from None
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _remove_abandoned(target: Path) -> None:
    """Delete what killed exports to the same target left, which may be gigabytes; another one at work keeps its own.

    Windows has no call that asks for a process without touching it, so there they stay.
    """
    for folder in target.parent.glob(f"{glob.escape(target.name)}.partial-*") if os.name == "posix" else ():
        number = folder.name.rpartition("-")[2]
        try:
            if number.isdecimal():
                os.kill(int(number), 0)  # no signal: only asks
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except PermissionError:  # it is at work, for somebody else
            continue


def unit_source(
    checkpoint: Checkpoint,
    weights: RewrittenWeights,
    config: ModelConfig,
    options: OnnxOptions,
    done: Callable[[str, int], None] | None = None,
) -> QuantisingSource:
    """Return the units of a model as these options quantise them."""
    rewrites = {
        "quantiser": _QUANTISER,
        "rotation": SEED if options.rotate else None,
        "smoothing": _digest(options.smoothing or {}),
        "calibration": options.calibration,
        "image_size": config.vision.image_size,
        "compression": config.compression if options.calibration else None,  # it decides what the samples show
    }
    return QuantisingSource(checkpoint, weights, options.recipe, options.cache, rewrites, done)


def _digest(smoothing: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for unit in sorted(smoothing):
        digest.update(unit.encode() + np.ascontiguousarray(smoothing[unit], np.float32).tobytes())
    return digest.hexdigest()


class _Exporter:
    """The steps of one export, in the order in which their files are written."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        staged: Path,
        options: OnnxOptions,
        progress: Callable[[Progress], None] | None,
        name: str,
    ) -> None:
        self.checkpoint, self.staged, self.options = checkpoint, staged, options
        self.config: ModelConfig = checkpoint.config.variant(
            compression=options.compression, image_size=options.image_size
        )
        rotation = Rotation(self.config.dim, SEED) if options.rotate else None
        self.weights = RewrittenWeights(checkpoint, self.config, rotation, options.smoothing or {})
        self.tokenizer = PromptTokenizer(checkpoint.folder / "tokenizer.json", self.config.language.vocab_size)
        self._progress, self._done = progress, 0
        counted = tensor_shapes(checkpoint.config.variant(head=Head.NONE)).items()
        self._total = sum(
            prod(shape) * checkpoint.dtype(name).itemsize for name, shape in counted if name not in _UNCOUNTED
        )
        self._packed: dict[str, str] = {}
        if options.openvino:
            require_openvino()
            check_static(options.recipe, self.weights)
        self.model_id = options.model_id or name.removesuffix(".magicmm")

    def write(self) -> dict[str, Any]:
        """Write everything but the manifest, and return what it has to say."""
        (self.staged / "onnx").mkdir()
        shutil.copyfile(self.checkpoint.folder / "tokenizer.json", self.staged / "tokenizer.json")
        roles = self._roles()  # first: it needs the most memory, and none is in use yet
        vision = self._graph("vision", write_vision)
        if self.options.openvino:
            self._openvino_graph(vision)
        self._graph("language", write_language)
        rows, dim = self.config.language.vocab_size, self.config.dim
        row_bytes = dim * self.checkpoint.dtype("language.embed_tokens.weight").itemsize
        write_tokens(
            self.staged / "tokens.bin", self.weights, rows, lambda count: self._step(count * row_bytes, "token table")
        )
        return self._manifest(roles)

    def _graph(self, part: str, write: Callable[..., None]) -> ModelProto:
        options = self.options
        source = unit_source(
            self.checkpoint, self.weights, self.config, options, lambda unit, size: self._step(size, unit)
        )
        path = self.staged / "onnx" / f"{part}.onnx"
        data, packed = DataFile(path.with_name(f"{path.name}.data")), PackedFile(path.with_name(f"{part}.q4"))
        graph = GraphWriter(part, data, packed)
        write(graph, LinearWriter(graph, source, options.low_memory), self.weights, self.config)
        data.close()
        if not data.path.stat().st_size:
            data.path.unlink()
        if packed.close():
            self._packed[part] = f"onnx/{part}.q4"
        model = graph.model()
        path.write_bytes(model.SerializeToString(deterministic=True))
        return model

    def _openvino_graph(self, vision: ModelProto) -> None:
        scales = self.options.static_scales
        if scales is None:
            raise no_ranges()
        model = static_vision(vision, scales, self.weights, self.config)
        (self.staged / OPENVINO_VISION).write_bytes(model.SerializeToString(deterministic=True))

    def _roles(self) -> dict[str, Any]:
        builder = PromptBuilder(self.config, self.tokenizer)
        tokens = {name: builder.role_tokens(role) for name, role in ROLES.items()}
        # Of all rewrites, only smoothing the values changes what a prefix holds; the checkpoint itself is lighter.
        smoothed = any(unit.endswith(".o") for unit in self.options.smoothing or ())
        model = StreamedModel(self.checkpoint, self.config, weights=self.weights if smoothed else None)
        files = write_prefixes(
            self.staged,
            model,
            {name: parts.head for name, parts in tokens.items()},
            lambda layer: self._step(0, f"prefixes: {layer}"),
        )
        return {
            name: {
                "head": list(parts.head),
                "image_before": list(parts.image_before),
                "image_after": list(parts.image_after),
                "text": parts.text,
                "tail": list(parts.tail),
                "prefix": files[name],
                "max_tiles": ROLES[name].max_tiles,
            }
            for name, parts in tokens.items()
        }

    def _manifest(self, roles: dict[str, Any]) -> dict[str, Any]:
        config = self.config
        graphs = {part: f"onnx/{part}.onnx" for part in ("vision", "language")}
        others = {self.staged / "tokenizer.json", self.staged / OPENVINO_VISION}  # no weights of their own
        weights = sorted(path for path in self.staged.rglob("*") if path.is_file() and path not in others)
        return {
            "id": self.model_id,
            "title": f"Magic-MM-Embedding from {self.checkpoint.folder.name}",
            "architecture": "vision_language",
            "dim": config.dim,
            "matryoshka_dims": [],
            "weights": weights_identity(weights),
            "pooling": "hidden state of the last token",
            "image": {"side": config.vision.image_size, "views": ["squash"], "resample": "bicubic"},
            "text": {
                "tokenizer": "tokenizer.json",
                "max_tokens": config.max_tokens,
                "pad_id": self.tokenizer.special.end,
            },
            "tokens": {"file": "tokens.bin", "rows": config.language.vocab_size, "dim": config.dim},
            "roles": roles,
            "graphs": {"onnx": graphs},
            **({"packed": {"onnx": self._packed}} if self._packed else {}),
            **({"alternatives": {"openvino": {"vision": OPENVINO_VISION}}} if self.options.openvino else {}),
            "quantisation": {
                "vision": self._describe("vision"),
                "language": self._describe("language"),
                "tokens": "int8 rows",
            },
            "source": {
                "checkpoint": self.checkpoint.folder.name,
                "compression": config.compression,
                "rotation": self.options.rotate,
                "calibration": self.options.calibration or "none",
            },
        }

    def _describe(self, part: str) -> str:
        """Say which schemes a part mixes, and how many units have each."""
        recipe = self.options.recipe
        owned = ("vision.", "connector.") if part == "vision" else ("language.",)
        schemes = (recipe.scheme_for(unit) for unit in self.weights.unit_names() if unit.startswith(owned))
        names = (f"{how.kind} in groups of {how.group}" if how.group else how.kind for how in schemes)
        counts = Counter(names)
        return ", ".join(f"{count} x {name}" for name, count in counts.items()) + f" (recipe {recipe.name})"

    def _step(self, size: int, what: str) -> None:
        self._done += size
        if self._progress:
            self._progress(Progress(self._done, self._total, what))


def _golden() -> list[GoldenInput]:
    scene = sample_scene()
    return [
        GoldenInput("short", text="a dog"),
        GoldenInput("sentence", text="two people walking along the beach at sunset"),
        GoldenInput("accents", text="Café in Zürich, naïve façade"),
        GoldenInput("landscape", rgb=scene),
        GoldenInput("composed", text="at night", rgb=scene),
    ]
