"""What each verb of `magicmm-export` does. Every one returns an answer (`to_json`, `table`) and an exit code."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from magicmm import Bundle, ErrorCode, MagicError
from magicmm.executorch_runtime import require_executorch
from magicmm.openvino_runtime import require_openvino
from magicmm.runtime import COREML, EXECUTORCH
from magicmm_export.ladder import check_bundle
from magicmm_export.ladder_report import LadderReport
from magicmm_export.memory import return_freed_memory
from magicmm_export.nano.command import is_bundle, lower_bundle
from magicmm_export.onnx.calibrated import calibrated, fitted_recipe
from magicmm_export.onnx.export import OnnxOptions, export_onnx
from magicmm_export.onnx.measured import measure_quality
from magicmm_export.onnx.static import no_ranges
from magicmm_export.options import ExportOptions, Progress, refuse_foreign
from magicmm_export.part_cache import PartCache
from magicmm_export.vision_language import Quality
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.tokenizer import PromptTokenizer
from magicmm_quant.quality import QualityReport
from magicmm_quant.quality_plot import plot
from magicmm_quant.recipe import RECIPES, Recipe
from magicmm_quant.samples import Samples, read_samples, synthetic_samples

GATES = {"float32": 0.999, "float16": 0.999, "int8": 0.95, "int4": 0.8}
"""Least mean cosine to float32 by recipe. Trained weights reach more; these only stop what is broken."""
SYNTHETIC = 2
"""Photos and sentences that are made up when none are given: enough to notice a broken bundle."""
NOTE_EVERY = 30.0
"""Seconds between two lines of progress where no bar can be drawn."""
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
    if is_bundle(options.checkpoint):
        return _run_lowering(options, begun), 0
    _check_openvino(options)
    _check_runtime(options)
    if _family(options.checkpoint) in DUAL_FAMILIES:
        from magicmm_export.dual.export import export_dual_encoder

        export_dual_encoder(options.checkpoint, options.target, model_id=options.id)
        bundle = Bundle.load(options.target)
        return _written(bundle, begun, bundle.manifest.raw.get("quality", {}), "dual encoder"), 0
    checkpoint = Checkpoint.open(options.checkpoint)
    tokenizer = PromptTokenizer(checkpoint.folder / "tokenizer.json", checkpoint.config.language.vocab_size)
    samples = _samples(options)
    reports: list[QualityReport] = []
    with _Bar() as bar:
        lowering = _lowering(checkpoint, options, samples, tokenizer, bar.say)
        config = checkpoint.config.variant(compression=options.compression, image_size=options.image_size)

        def quality(staged: Path, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
            runtimes, name = (options.runtime, *manifest.get("alternatives", ())), lowering.recipe.name
            reports.extend(
                measure_quality(checkpoint, config, samples, tokenizer, staged, manifest, name, bar.say, runtimes)
            )
            for report in reports:
                report.check(_gate(lowering.recipe) if options.min_cosine is None else options.min_cosine)
            return _noted(reports, runtimes)

        bundle = _export(checkpoint, options.target, lowering, quality, bar.show)
    if lowering.cache and not options.cache:
        lowering.cache.remove()  # it was there for an export that is stopped
    if options.report:
        _write_report(options.target, bundle, reports[0])
    tables = "\n\n".join(report.table() for report in reports)
    return _written(bundle, begun, bundle.manifest.raw["quality"], tables), 0


def _run_lowering(options: argparse.Namespace, begun: float) -> Written:
    """Lower a bundle of the built-in model for another runtime."""
    samples = _samples(options)
    with _Bar() as bar:
        bundle, report = lower_bundle(options, samples, GATES, bar.say)
    if options.report:
        _write_report(options.target, bundle, report)
    return _written(bundle, begun, bundle.manifest.raw["quality"], report.table())


def _samples(options: argparse.Namespace) -> Samples:
    """Return the photos that quality is measured on, or made-up ones."""
    return read_samples(options.calibrate, options.samples) if options.calibrate else synthetic_samples(SYNTHETIC)


def _write_report(target: Path, bundle: Bundle, report: QualityReport) -> None:
    """Write what was measured beside the bundle, as JSON and as a page with plots."""
    stem = target.with_suffix("")
    noted = json.dumps(bundle.manifest.raw["quality"], indent=2)
    stem.with_name(f"{stem.name}.report.json").write_text(noted + "\n")
    stem.with_name(f"{stem.name}.report.html").write_text(plot(report))


def run_check(options: argparse.Namespace) -> tuple[LadderReport, int]:
    """Climb the parity ladder; exit code 1 when a stage is out of tolerance."""
    return_freed_memory()
    with _Bar() as bar:
        report = check_bundle(
            Checkpoint.open(options.checkpoint), options.bundle, progress=bar.say, runtime=options.runtime
        )
    return report, int(report.first_failure is not None)


def run_inspect(options: argparse.Namespace) -> tuple[Any, int]:
    """Say what a bundle is made of; exit code 1 when a plan leaves out more than allowed."""
    most = 1.0 if options.max_outside is None else options.max_outside
    bundle = Bundle.load(options.bundle)
    if COREML in bundle.manifest.graphs:
        from magicmm_export.coreml.inspection import inspect_packages

        packages = inspect_packages(bundle)
        return packages, int(packages.plan.outside_share > most)
    from magicmm_export.inspection import inspect_bundle

    found = inspect_bundle(options.bundle)
    return found, int(any(plan.outside_share > most for plan in found.plans))


def run_bench(options: argparse.Namespace) -> tuple[Any, int]:
    """Time a bundle."""
    from magicmm_export.bench import bench_bundle

    return bench_bundle(options.bundle, rounds=options.rounds, runtime=options.runtime), 0


def _check_openvino(options: argparse.Namespace) -> None:
    """Say before hours of work what a graph for OpenVINO lacks; it is run before the bundle is written."""
    if not options.openvino:
        return
    if _family(options.checkpoint) in DUAL_FAMILIES:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            "Only bundles of InternVL3 checkpoints have a graph for OpenVINO.",
            "Leave out --openvino.",
        )
    if not options.calibrate:
        raise no_ranges()
    require_openvino()


def _check_runtime(options: argparse.Namespace) -> None:
    """Refuse an unknown runtime, and options that another one has."""
    if options.runtime not in ("onnx", EXECUTORCH, COREML):
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"There is no runtime {options.runtime!r}.",
            "Export for onnx, executorch or coreml.",
        )
    of_onnx = {
        "--openvino": options.openvino,
        "--low-memory": options.low_memory,
        "--max-size": options.max_size,  # counts what an ONNX bundle takes
    }
    foreign = {
        "onnx": {"--buckets": options.buckets, "--also": options.also},
        EXECUTORCH: of_onnx,
        COREML: {**of_onnx, "--also": options.also},
    }[options.runtime]
    refuse_foreign(foreign, f"the runtime {options.runtime}", "Leave it out, or take another --runtime.")
    if options.runtime != "onnx":
        if _family(options.checkpoint) in DUAL_FAMILIES:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                "CLIP and SigLIP checkpoints are exported for onnx alone.",
                "Leave out --runtime.",
            )
        if options.runtime == EXECUTORCH:
            require_executorch()


def _export(
    checkpoint: Checkpoint,
    target: Path,
    lowering: ExportOptions,
    quality: Quality,
    progress: Callable[[Progress], None],
) -> Bundle:
    """Export by the exporter that the options belong to."""
    if isinstance(lowering, OnnxOptions):
        return export_onnx(checkpoint, target, lowering, quality, progress)
    from magicmm_export.coreml.export import CoremlOptions, export_coreml

    if isinstance(lowering, CoremlOptions):
        return export_coreml(checkpoint, target, lowering, quality, progress)
    from magicmm_export.executorch.export import ExecutorchOptions, export_executorch  # takes seconds to import

    assert isinstance(lowering, ExecutorchOptions)  # noqa: S101 - there is no fourth kind
    return export_executorch(checkpoint, target, lowering, quality, progress)


def _lowering(
    checkpoint: Checkpoint,
    options: argparse.Namespace,
    samples: Samples,
    tokenizer: PromptTokenizer,
    say: Callable[[str], None],
) -> ExportOptions:
    """Return how to lower: recipe, size, calibration."""
    if options.runtime == COREML:  # its weights are rounded by coremltools; photos only measure what that loses
        from magicmm_export.coreml.command import coreml_options

        return coreml_options(options)
    folder = options.cache or options.target.with_name(f"{options.target.name}.parts")
    shared = ExportOptions(
        recipe=RECIPES["int8"] if options.recipe in (None, "mixed") else _recipe(options.recipe),
        rotate=not options.no_rotation,
        compression=options.compression,
        image_size=options.image_size,
        model_id=options.id,
        cache=None if options.no_cache else PartCache(folder),
    )
    lowering = _for_runtime(shared, checkpoint, options)
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


def _for_runtime(shared: ExportOptions, checkpoint: Checkpoint, options: argparse.Namespace) -> ExportOptions:
    """Return the same options as those of the chosen runtime, which are checked before anything takes hours."""
    given = {field.name: getattr(shared, field.name) for field in fields(shared)}
    if options.runtime != EXECUTORCH:
        return OnnxOptions(**given, low_memory=options.low_memory, openvino=options.openvino)
    from magicmm_export.executorch.export import ExecutorchOptions, check_targets

    lowering = ExecutorchOptions(**given, buckets=options.buckets, also=options.also, most_outside=options.max_outside)
    check_targets(lowering, checkpoint.config)
    return lowering


def _noted(reports: Sequence[QualityReport], runtimes: Sequence[str]) -> dict[str, Any]:
    """Return what a manifest says of quality: that on the bundle's runtime, beside it each alternative's."""
    found = dict(zip(runtimes, (report.to_json() for report in reports), strict=True))
    return found.pop(runtimes[0]) | ({"alternatives": found} if found else {})


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
    """Progress on stderr: bytes and time left while somebody watches; in a file, a line now and then."""

    def __enter__(self) -> _Bar:
        self._is_watched = sys.stderr.isatty()
        self._bar = tqdm(unit="B", unit_scale=True, file=sys.stderr, dynamic_ncols=True, disable=not self._is_watched)
        self._noted = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, progress: Progress) -> None:
        """Show how many bytes of the checkpoint are done."""
        self._bar.total = progress.total
        self._bar.set_description(progress.what, refresh=False)
        self._bar.update(progress.done - self._bar.n)
        self._note(f"{progress.what} ({progress.done / progress.total:.0%} of the checkpoint)")

    def say(self, what: str) -> None:
        """Show what is being done."""
        self._bar.set_description(what)
        self._note(what)

    def _note(self, what: str) -> None:
        if not self._is_watched and time.monotonic() - self._noted >= NOTE_EVERY:
            self._noted = time.monotonic()
            sys.stderr.write(f"magicmm-export: {what}\n")
