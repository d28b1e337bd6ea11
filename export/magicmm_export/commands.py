"""What each verb of `magicmm-export` does. Every one returns an answer (`to_json`, `table`) and an exit code."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from magicmm import Bundle, ErrorCode, MagicError
from magicmm_export.ladder import check_bundle
from magicmm_export.ladder_report import LadderReport
from magicmm_export.memory import return_freed_memory
from magicmm_export.onnx.calibrated import calibrated, fitted_recipe
from magicmm_export.onnx.export import OnnxOptions, Progress, export_onnx
from magicmm_export.onnx.measured import measure_quality
from magicmm_export.part_cache import PartCache
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.tokenizer import PromptTokenizer
from magicmm_quant.quality import QualityReport
from magicmm_quant.quality_plot import plot
from magicmm_quant.recipe import RECIPES, Recipe
from magicmm_quant.samples import Samples, read_samples, synthetic_samples

GATES = {"float32": 0.999, "int8": 0.95, "int4": 0.8}
"""Least mean cosine to float32 by recipe. Trained weights reach more; these only stop what is broken."""
SYNTHETIC = 2
"""Photos and sentences that are made up when none are given: enough to notice a broken bundle."""
DUAL_FAMILIES = ("clip", "siglip")


@dataclass(frozen=True)
class Written:
    """What an export gave: the bundle, its size and its quality."""

    bundle: Path
    size: int
    seconds: float
    quality: Mapping[str, Any]
    text: str

    def to_json(self) -> dict[str, Any]:
        """Return the facts."""
        return {
            "bundle": str(self.bundle),
            "bytes": self.size,
            "seconds": round(self.seconds, 1),
            "quality": dict(self.quality),
        }

    def table(self) -> str:
        """Return them as text."""
        return f"{self.text}\n{self.bundle}: {self.size / 1e9:.3f} GB in {self.seconds:.0f} s; it verifies."


def run_export(options: argparse.Namespace) -> tuple[Written, int]:
    """Export a checkpoint of any family that is supported."""
    begun = time.monotonic()
    return_freed_memory()
    if options.runtime != "onnx":
        raise MagicError(ErrorCode.ARGUMENT_INVALID, f"There is no runtime {options.runtime!r}.", "Export for onnx.")
    if _family(options.checkpoint) in DUAL_FAMILIES:
        from magicmm_export.dual.export import export_dual_encoder

        export_dual_encoder(options.checkpoint, options.target, model_id=options.id)
        bundle = Bundle.load(options.target)
        return _written(bundle, begun, bundle.manifest.raw.get("quality", {}), "dual encoder"), 0
    checkpoint = Checkpoint.open(options.checkpoint)
    tokenizer = PromptTokenizer(checkpoint.folder / "tokenizer.json", checkpoint.config.language.vocab_size)
    samples = read_samples(options.calibrate, options.samples) if options.calibrate else synthetic_samples(SYNTHETIC)
    reports: list[QualityReport] = []
    with _Bar() as bar:
        lowering = _lowering(checkpoint, options, samples, tokenizer, bar.say)
        config = checkpoint.config.variant(compression=options.compression, image_size=options.image_size)

        def quality(staged: Path, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
            report = measure_quality(
                checkpoint, config, samples, tokenizer, staged, manifest, lowering.recipe.name, bar.say
            )
            reports.append(report)
            report.check(_gate(lowering.recipe) if options.min_cosine is None else options.min_cosine)
            return report.to_json()

        bundle = export_onnx(checkpoint, options.target, lowering, quality, bar.show)
    if lowering.cache and not options.cache:
        lowering.cache.remove()  # it was there for an export that is stopped
    if options.report:
        stem = options.target.with_suffix("")
        stem.with_name(f"{stem.name}.report.json").write_text(json.dumps(reports[0].to_json(), indent=2) + "\n")
        stem.with_name(f"{stem.name}.report.html").write_text(plot(reports[0]))
    return _written(bundle, begun, reports[0].to_json(), reports[0].table()), 0


def run_check(options: argparse.Namespace) -> tuple[LadderReport, int]:
    """Climb the parity ladder; exit code 1 when a stage is out of tolerance."""
    return_freed_memory()
    with _Bar() as bar:
        report = check_bundle(Checkpoint.open(options.checkpoint), options.bundle, progress=bar.say)
    return report, int(report.first_failure is not None)


def run_inspect(options: argparse.Namespace) -> tuple[Any, int]:
    """Say what a bundle is made of."""
    from magicmm_export.inspection import inspect_bundle

    return inspect_bundle(options.bundle), 0


def run_bench(options: argparse.Namespace) -> tuple[Any, int]:
    """Time a bundle."""
    from magicmm_export.bench import bench_bundle

    return bench_bundle(options.bundle, rounds=options.rounds), 0


def _lowering(
    checkpoint: Checkpoint,
    options: argparse.Namespace,
    samples: Samples,
    tokenizer: PromptTokenizer,
    say: Callable[[str], None],
) -> OnnxOptions:
    """Return how to lower: recipe, size, calibration."""
    folder = options.cache or options.target.with_name(f"{options.target.name}.parts")
    lowering = OnnxOptions(
        recipe=RECIPES["int8"] if options.recipe in (None, "mixed") else _recipe(options.recipe),
        rotate=not options.no_rotation,
        low_memory=options.low_memory,
        compression=options.compression,
        image_size=options.image_size,
        model_id=options.id,
        cache=None if options.no_cache else PartCache(folder),
    )
    if (options.recipe == "mixed") > bool(options.max_size):
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID, "The recipe mixed has no size to aim at.", "Add --max-size, such as 1.3GB."
        )
    if options.max_size and options.recipe not in (None, "mixed"):
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"--max-size chooses bits by itself, and the recipe {options.recipe} has chosen already.",
            "Leave out --recipe, or --max-size.",
        )
    if options.max_size:
        recipe = fitted_recipe(checkpoint, lowering, samples, tokenizer, options.max_size, say)
        lowering = replace(lowering, recipe=recipe)
    return calibrated(checkpoint, lowering, samples, tokenizer, say) if options.calibrate else lowering


def _recipe(name: str) -> Recipe:
    if name in RECIPES:
        return RECIPES[name]
    try:
        return Recipe.from_json(Path(name).read_text(encoding="utf-8"))
    except OSError:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"There is no recipe {name!r}.",
            f"Choose {', '.join(RECIPES)}, mixed, or give a JSON file.",
        ) from None


def _gate(recipe: Recipe) -> float:
    return GATES.get(recipe.name, GATES["int4"])


def _family(folder: Path) -> str:
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return ""
    return str(kind)


def _written(bundle: Bundle, begun: float, quality: Mapping[str, Any], text: str) -> Written:
    size = sum(path.stat().st_size for path in bundle.path.rglob("*") if path.is_file())
    return Written(bundle.path, size, time.monotonic() - begun, quality, text)


class _Bar:
    """Progress on stderr: bytes and time left while somebody watches."""

    def __enter__(self) -> _Bar:
        self._bar = tqdm(
            unit="B", unit_scale=True, file=sys.stderr, dynamic_ncols=True, disable=not sys.stderr.isatty()
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, progress: Progress) -> None:
        """Show how many bytes of the checkpoint are done."""
        self._bar.total = progress.total
        self._bar.set_description(progress.what, refresh=False)
        self._bar.update(progress.done - self._bar.n)

    def say(self, what: str) -> None:
        """Show what is being done."""
        self._bar.set_description(what)
