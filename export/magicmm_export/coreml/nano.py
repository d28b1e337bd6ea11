"""The built-in model to a verified bundle of Core ML packages: `image`; `text` and `composed`, a function a bucket."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from magicmm import Bundle, ErrorCode, MagicError
from magicmm_export.coreml.convert import convert_module
from magicmm_export.coreml.export import CoremlOptions
from magicmm_export.coreml.join import join_functions
from magicmm_export.coreml.nano_layers import coded_layers
from magicmm_export.coreml.package import MAIN, save_model
from magicmm_export.coreml.packages import Packages, common_stages, holds_weights
from magicmm_export.coreml.schemes import SCHEMES, CoremlScheme
from magicmm_export.decomposition import Norms
from magicmm_export.nano.encoder_modules import ComposedBucket, ComposedTower, TextBucket, TextTower
from magicmm_export.nano.image import SIDE
from magicmm_export.nano.layers import float_layers
from magicmm_export.nano.lowered import NanoExport, Say
from magicmm_export.nano.modules import VECTOR, VISUAL, ImageTower
from magicmm_export.vision_language import Quality, write_staged


def export_nano(
    bundle: Bundle,
    target: Path,
    options: CoremlOptions | None = None,
    quality: Quality | None = None,
    say: Say | None = None,
) -> Bundle:
    """Write a bundle; `target` is replaced at the very end or left untouched.

    Args:
        bundle: A bundle that the builder of the built-in model wrote in int8: all weights are taken from its graphs.
        target: `NAME.magicmm`.
        options: Scheme, system, units, buckets, name, and how much may stay outside of the accelerator.
        quality: As for `write_staged`.
        say: Called after each step.

    Raises:
        MagicError: `argument_invalid` for another bundle, for a scheme or buckets that do not fit; `runtime_failed`
            without coremltools or for more work outside of the accelerator than allowed; else as `write_staged`.
    """
    given = options or CoremlOptions.of(SCHEMES["int8"])
    given.check()
    _check_scheme(given.scheme)
    return write_staged(target, lambda staged: _NanoPackages(bundle, staged, given, target, say), quality)


def _check_scheme(scheme: CoremlScheme) -> None:
    if scheme.bits < 8:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"{scheme.name} does not fit the built-in model: its weights are in 8 bits already, and groups of "
            f"{scheme.group} do not divide its channels.",
            "Take --recipe int8, float16 or float32.",
        )


class _NanoPackages(NanoExport):
    """Adds the packages."""

    def __init__(self, bundle: Bundle, staged: Path, options: CoremlOptions, target: Path, say: Say | None) -> None:
        super().__init__(bundle, staged, options.buckets, options.bundle_id(target.name), say)
        self._options = options
        self._packages = Packages(staged, self.parts, options, bundle.manifest.id)

    def write(self) -> dict[str, Any]:
        """Write everything but the manifest; packages bear the fingerprint of what it says."""
        manifest = super().write()
        self._packages.seal(manifest)
        return manifest

    def write_graphs(self) -> dict[str, Any]:
        paths = self._packages.begin()
        layers = coded_layers() if self._options.scheme.bits == 8 else float_layers(Norms.HALF)
        tower, student = TextTower(self.text, layers), self.image.student
        image = ImageTower(self.image, tower, layers)
        also = () if student is None else (VISUAL,)
        stages = self._save(image, {"pixels": torch.zeros(2, SIDE, SIDE, 3)}, paths["image"], also)
        self._packages.note("image", stages)
        self._write_buckets("text", tower.bucket, {}, paths["text"])
        if student is not None:
            visual = torch.zeros(1, student.handed, tower.positions.shape[1])
            self._write_buckets("composed", ComposedTower(tower, student).bucket, {VISUAL: visual}, paths["composed"])
        return {**self._packages.planned(), "quantisation": dict.fromkeys(self.parts, self._options.scheme.described)}

    def weight_files(self) -> list[Path]:
        """Leave out the plan, and what gets new identifiers in every package."""
        found = (path for package in self._packages.paths.values() for path in package.rglob("*") if path.is_file())
        return list(filter(holds_weights, found))

    def _write_buckets(
        self,
        part: str,
        bucket_of: Callable[[int], TextBucket | ComposedBucket],
        before: Mapping[str, Tensor],
        path: Path,
    ) -> None:
        """Write a package with a function for each bucket; they take other inputs, then ids and mask."""
        pieces = path.with_name("pieces")
        pieces.mkdir()
        names = {bucket: MAIN if len(self.buckets) == 1 else f"{part}_{bucket}" for bucket in self.buckets}
        saved: dict[str, list[Path]] = {}
        found = []
        for bucket, name in names.items():
            # A tensor each: coremltools takes two names of one for an alias.
            ids = {key: torch.zeros(1, bucket, dtype=torch.int32) for key in ("ids", "mask")}
            saved[name] = [pieces / f"{part}_{bucket}.mlpackage"]
            found.append(self._save(bucket_of(bucket), {**before, **ids}, saved[name][0]))
        join_functions(saved, path)
        shutil.rmtree(pieces)
        self._packages.note(part, common_stages(found), names)

    def _save(
        self, module: nn.Module, inputs: Mapping[str, Tensor], path: Path, also: Sequence[str] = ()
    ) -> Mapping[str, str]:
        """Write one package, and return the values that hold its stages."""
        options = self._options
        converted = convert_module(module.eval(), inputs, VECTOR, options.scheme, options.target, also=also)
        save_model(converted.model, path)
        self.say(f"{path.stem} package")
        return converted.stages
