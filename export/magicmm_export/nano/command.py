"""`magicmm-export BUNDLE OUT.magicmm --runtime executorch|coreml`: what the command line says, as one more export."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from magicmm import Bundle, ErrorCode, MagicError
from magicmm.executorch_runtime import require_executorch
from magicmm.runtime import COREML, EXECUTORCH
from magicmm_export.nano.lowered import Say, measure_nano
from magicmm_export.options import refuse_foreign
from magicmm_export.vision_language import Quality
from magicmm_quant.quality import QualityReport
from magicmm_quant.recipe import RECIPES, Recipe
from magicmm_quant.samples import Samples

_LEAST_ROUNDED = 0.9
"""Least mean cosine to float32 where activations are rounded to the bundle's own grids: on made-up pictures, which say
nothing of photos, the bundle's ONNX graphs are as far away."""


def is_bundle(path: Path) -> bool:
    """Say whether a folder is a bundle, and no checkpoint."""
    return (path / "manifest.json").is_file()


def lower_bundle(
    options: argparse.Namespace, samples: Samples, gates: Mapping[str, float], say: Say
) -> tuple[Bundle, QualityReport]:
    """Lower the built-in model's weights out of its bundle, and measure what comes out before it is written.

    Args:
        options: Of the command line.
        samples: What quality is measured on.
        gates: Least mean cosine to the same weights without rounded activations, by recipe.
        say: Called after each step.

    Raises:
        MagicError: `argument_invalid` for another runtime, options that mean nothing here, another bundle and quality
            below the gate; else as the exporters.
    """
    _check(options)
    name = options.recipe or "int8"
    source = Bundle.load(options.checkpoint)
    reports: list[QualityReport] = []

    def quality(staged: Path, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
        report = measure_nano(source, samples, staged, manifest, name, options.runtime)
        least = _LEAST_ROUNDED if options.runtime == EXECUTORCH and name == "int8" else gates[name]
        report.check(least if options.min_cosine is None else options.min_cosine)
        reports.append(report)
        return report.to_json()

    export = _to_executorch if options.runtime == EXECUTORCH else _to_coreml
    return export(source, options, quality, say), reports[0]


def _to_executorch(source: Bundle, options: argparse.Namespace, quality: Quality, say: Say) -> Bundle:
    require_executorch()
    from magicmm_export.executorch.export import ExecutorchOptions  # takes seconds to import
    from magicmm_export.executorch.nano import export_nano

    # A recipe of another name is refused by it, by its name.
    recipe = RECIPES.get(options.recipe or "int8") or Recipe(options.recipe, ())
    lowering = ExecutorchOptions(recipe, model_id=options.id, buckets=options.buckets, most_outside=options.max_outside)
    return export_nano(source, options.target, lowering, quality, say)


def _to_coreml(source: Bundle, options: argparse.Namespace, quality: Quality, say: Say) -> Bundle:
    from magicmm_export.coreml.command import coreml_options  # it needs torch
    from magicmm_export.coreml.nano import export_nano

    return export_nano(source, options.target, coreml_options(options), quality, say)


def _check(options: argparse.Namespace) -> None:
    if options.runtime not in (EXECUTORCH, COREML):
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"{options.checkpoint} is a bundle already; it can be lowered for executorch and coreml alone.",
            "Add --runtime executorch or coreml, or give a checkpoint.",
        )
    foreign = {
        "--openvino": options.openvino,
        "--low-memory": options.low_memory,
        "--max-size": options.max_size,
        "--also": options.also,
        "--no-rotation": options.no_rotation,
        "--compression": options.compression,
        "--image-size": options.image_size,
        "--cache": options.cache,
    }
    refuse_foreign(foreign, "a bundle that is lowered", "Leave it out.")
