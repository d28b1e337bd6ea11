"""A checkpoint to a verified vision-language bundle of Core ML packages."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from magicmm import ErrorCode, MagicError
from magicmm_export.coreml.compress import compress
from magicmm_export.coreml.convert import convert_module
from magicmm_export.coreml.join import GIVES, TAKES, join_functions, value_name
from magicmm_export.coreml.model import language_model, vision_model
from magicmm_export.coreml.package import MAIN, require_coremltools, save_model
from magicmm_export.coreml.packages import PLAN, Packages, common_stages, holds_weights
from magicmm_export.coreml.schemes import SCHEMES, CoremlScheme, Target, Units
from magicmm_export.decomposition import LanguageBlocks, Norms, VisionEncoder
from magicmm_export.memory import return_freed_memory
from magicmm_export.observed import OUTPUTS
from magicmm_export.options import ExportOptions, Progress
from magicmm_export.vision_language import Quality, VisionLanguageExport, write_staged
from magicmm_model.naming import tensor_shapes
from magicmm_quant.recipe import RECIPES

if TYPE_CHECKING:
    from torch import nn

    from magicmm import Bundle
    from magicmm_export.coreml.convert import Converted
    from magicmm_model.checkpoint import Checkpoint
    from magicmm_model.config import ModelConfig

_WEIGHTS_AT_ONCE = 200_000_000
"""Weights of a piece; coremltools takes up to about 12 bytes for each while it converts them."""


@dataclass(frozen=True)
class CoremlOptions(ExportOptions):
    """How a checkpoint is lowered to Core ML.

    The recipe rounds nothing and bears the name of the scheme; calibration has no part in it.

    Attributes:
        scheme: How weights are stored.
        target: The oldest system that shall read the packages.
        units: Where apps will let them run.
        buckets: Lengths of the language package's functions; None = as `choose_buckets`.
        most_outside: The largest share of a part's work that may stay outside the accelerator.
        layers_at_once: Language layers that are converted together; None = as many as have 200 million weights.
    """

    scheme: CoremlScheme = SCHEMES["int8"]
    target: Target = Target.IOS18
    units: Units = Units.ALL
    buckets: tuple[int, ...] | None = None
    most_outside: float = 0.05
    layers_at_once: int | None = None

    @classmethod
    def of(cls, scheme: CoremlScheme, **others: Any) -> CoremlOptions:
        """Return options with a scheme, and the recipe that goes with it."""
        return cls(recipe=replace(RECIPES["float32"], name=scheme.name), scheme=scheme, **others)

    def check(self) -> None:
        """Refuse what the target or its units cannot run, before hours of work.

        Raises:
            MagicError: `argument_invalid`; `runtime_failed` without coremltools.
        """
        require_coremltools()
        self.scheme.check(self.target, self.units)
        if self.target is Target.IOS17 and (self.buckets is None or len(self.buckets) != 1):
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                "A package for iOS17 has one function only, so it cannot hold several buckets over the same weights.",
                "Take --system iOS18, or one bucket: --buckets 384.",
            )


def export_coreml(
    checkpoint: Checkpoint,
    target: Path,
    options: CoremlOptions | None = None,
    quality: Quality | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Bundle:
    """Write a bundle; `target` is replaced at the very end or left untouched.

    What was saved is read again and run by the interpreter; Core ML itself runs on Apple's systems only.

    Args:
        checkpoint: The model.
        target: `NAME.magicmm`.
        options: How to lower it.
        quality: As for `write_staged`.
        progress: Called after each step.

    Raises:
        MagicError: `argument_invalid` for options that the target cannot run, `runtime_failed` without coremltools or
            for an operator that does not lower; else as `write_staged`.
    """
    given = options or CoremlOptions.of(SCHEMES["int8"])
    given.check()
    return write_staged(target, lambda staged: _CoremlExport(checkpoint, staged, given, progress, target.name), quality)


class _CoremlExport(VisionLanguageExport):
    """Adds the packages."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        staged: Path,
        options: CoremlOptions,
        progress: Callable[[Progress], None] | None,
        name: str,
    ) -> None:
        super().__init__(checkpoint, staged, options, progress, name)
        self._lowering = options
        self._packages = Packages(staged, OUTPUTS, options, checkpoint.folder.name)

    def write(self) -> dict[str, Any]:
        """Write everything but the manifest; packages bear the fingerprint of what it says."""
        manifest = super().write()
        self._packages.seal(manifest)
        return manifest

    def write_graphs(self, roles: Mapping[str, Any]) -> dict[str, Any]:
        buckets = self.fit_buckets(roles, self._lowering.buckets)
        paths = self._packages.begin()
        self._vision(paths["vision"])
        return_freed_memory()
        self._language(paths["language"], roles, buckets)
        return_freed_memory()
        words = self._lowering.scheme.described
        quantisation = {"vision": words, "language": words, "tokens": "int8 rows"}
        return {**self._packages.planned(), "quantisation": quantisation}

    def weight_files(self) -> list[Path]:
        """Leave out the plan, and what gets new identifiers in every package."""
        return [path for path in super().weight_files() if path != self.staged / PLAN and holds_weights(path)]

    def _vision(self, path: Path) -> None:
        side = self.config.vision.image_size
        module = VisionEncoder(vision_model(self.checkpoint, self.config, self.weights), Norms.HALF)
        converted = self._convert(module, {"pixels": torch.zeros(1, side, side, 3)}, OUTPUTS["vision"])
        save_model(compress(converted.model, self._lowering.scheme), path)
        self._packages.note("vision", converted.stages)
        self.step(self._stored("vision.layers.", "vision.patch_embedding.weight", "connector."), "vision package")

    def _language(self, path: Path, roles: Mapping[str, Any], lengths: Sequence[int]) -> None:
        prefix = max(len(role["head"]) for role in roles.values())
        folder = path.with_name("pieces")
        folder.mkdir()
        pieces = layer_pieces(self.config, self._lowering.layers_at_once)
        saved: dict[int, list[Path]] = {bucket: [] for bucket in lengths}
        stages: dict[str, str] = {}
        for place, layers in enumerate(pieces):
            found = self._language_piece(folder, layers, prefix, saved)
            joined = {name: value_name(place, value) for name, value in found.items() if name != "vector"}
            stages |= found if len(pieces) == 1 else joined | {"vector": OUTPUTS["language"]}
            return_freed_memory()
        names = {bucket: MAIN if len(lengths) == 1 else f"language_{bucket}" for bucket in lengths}
        join_functions({names[bucket]: saved[bucket] for bucket in lengths}, path)
        shutil.rmtree(folder)
        self._packages.note("language", stages, names, prefix, tuple(roles))

    def _language_piece(
        self, folder: Path, layers: range, prefix: int, saved: Mapping[int, list[Path]]
    ) -> Mapping[str, str]:
        """Save some layers for every bucket, and return the stages that all of these packages name alike."""
        model, closing = language_model(self.config, self.weights, layers)
        is_end = layers.stop == self.config.language.layers
        output, found = OUTPUTS["language"] if is_end else GIVES, []
        for bucket, packages in saved.items():
            module = LanguageBlocks(model, bucket, prefix, Norms.HALF, closing, layers)
            converted = self._convert(module, self._example(bucket, prefix, layers), output)
            packages.append(folder / f"{bucket}_{layers.start}.mlpackage")
            save_model(compress(converted.model, self._lowering.scheme), packages[-1])
            found.append(converted.stages)
            size = self._stored(*(f"language.layers.{place}." for place in layers)) // len(saved)
            self.step(size, f"language.layers.{layers.start} to {layers.stop - 1} for {bucket} tokens")
        return common_stages(found)

    def _stored(self, *prefixes: str) -> int:
        """Return the bytes that tensors of some names take in the checkpoint."""
        shapes = tensor_shapes(self.config).items()
        return sum(
            prod(shape) * self.checkpoint.dtype(name).itemsize for name, shape in shapes if name.startswith(prefixes)
        )

    def _example(self, bucket: int, prefix: int, layers: range) -> dict[str, Tensor]:
        """Return zeros; each input is a tensor of its own, for coremltools takes two names of one for an alias."""
        language = self.config.language
        rows = {"embeds" if layers.start == 0 else TAKES: torch.zeros(1, bucket, self.config.dim)}
        own = rows | {"last": torch.zeros(1, dtype=torch.int32)}
        shape = (1, language.kv_heads, prefix, language.head_dim)
        names = [f"past_{kind}_{place}" for place in layers for kind in ("key", "value")]
        past = {"before": torch.zeros(1, dtype=torch.int32)} | {name: torch.zeros(shape) for name in names}
        return own | (past if prefix else {})

    def _convert(self, module: nn.Module, inputs: Mapping[str, Tensor], output: str) -> Converted:
        options = self._lowering
        return convert_module(module.eval(), inputs, output, options.scheme, options.target, (TAKES, GIVES))


def layer_pieces(config: ModelConfig, layers_at_once: int | None = None) -> list[range]:
    """Return which language layers are converted together.

    Args:
        config: The variant that is exported.
        layers_at_once: How many; None = as many as have 200 million weights.
    """
    language = config.language
    prefix = "language.layers.0."
    weights = sum(prod(shape) for name, shape in tensor_shapes(config).items() if name.startswith(prefix))
    size = layers_at_once or max(1, _WEIGHTS_AT_ONCE // weights)
    return [range(start, min(start + size, language.layers)) for start in range(0, language.layers, size)]
