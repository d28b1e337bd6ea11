"""The same model on ONNX Runtime and on ExecuTorch, in one run in which all take turns: time, size, cosine, delegates.

"nano" is the built-in model with its real weights. Those of the others are random, so cosines say how two runtimes
differ, not what a trained model loses. "mid" is a model of 30 M parameters with the real number of patches; "2B-part"
has the vision tower of the real size and two layers of the language model at their real width: it is lowered, and the
peak memory of that process is given.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from lower_2b import lowered
from magicmm import Bundle, Embedder
from magicmm.runtime import Session, open_session
from magicmm_export.planner import read_plans
from magicmm_export.scenes import sample_scene
from model_2b import random_checkpoint
from report import CACHE, Report, Timing, parser, race

ONNX, EXECUTORCH = "onnx", "executorch"
NAMES = {ONNX: "ONNX Runtime", EXECUTORCH: "ExecuTorch"}
RECIPES = ("float32", "int8")
BUCKETS = ("32,96,384", "384")
"""Of the language model's methods: in full, and for a quick run."""
QUERY, PHOTO = 16, 90
"""Tokens behind the prefix: of a query, and of a photo with the prompt around it."""
TIME_COLUMNS = ("case", "recipe", "runtime", "best ms", "median ms", "calm runs", "median / ONNX Runtime")
PLAN_COLUMNS = ("method", "delegates", "GFLOP", "share of work")
NANO_BUCKETS = "16,64"
NANO: dict[str, dict[str, dict[str, Any]]] = {
    "image": {"photo": {"pixels": np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)}},
    "text": {
        f"{length} tokens": {
            "ids": np.random.default_rng(0).integers(1000, 20000, (1, length)),
            "mask": np.ones((1, length), np.int64),
        }
        for length in (8, 48)
    },
    "composed": {
        "photo and 8 tokens": {
            "visual": np.random.default_rng(0).standard_normal((1, 51, 384), np.float32) / np.float32(20),
            "ids": np.random.default_rng(0).integers(1000, 20000, (1, 8)),
            "mask": np.ones((1, 8), np.int64),
        }
    },
}
"""Inputs of the built-in model's parts, as the SDK passes them; one without a composed graph has no such part."""
TEXTS = ("a dog", "two people walking along the beach at sunset", "a printed page of text")


def main() -> int:
    """Run the benchmark."""
    options = build_parser().parse_args()
    if options.quick:
        options.size, options.part, options.rounds, options.seconds, options.threads = "tiny", None, 2, 5.0, [1]
        options.recipes, options.buckets = ["int8"], BUCKETS[1]
    report = Report("runtimes", options)
    place = TemporaryDirectory() if options.quick else nullcontext(str(CACHE / f"runtimes-{options.size}"))
    with place as folder:
        bundles = write_bundles(report, options, Path(folder))
        report_sizes(report, bundles)
        report_cosines(report, bundles)
        report_delegates(report, bundles)
        for threads in options.threads:
            report_times(report, bundles, threads, options)
    if not options.quick:
        report_nano(report, options)
    if options.part:
        report_part(report, options)
    report.finish()
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    found = parser(__doc__)
    found.add_argument("--size", choices=("tiny", "mid", "1B"), default="mid", help="shapes of the random weights")
    found.add_argument("--part", choices=("2B-part",), default="2B-part", help="what is lowered to see its memory")
    found.add_argument("--recipes", nargs="+", default=list(RECIPES), help="recipes of both runtimes")
    found.add_argument("--buckets", default=BUCKETS[0], help="lengths of ExecuTorch's language methods")
    found.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="threads of both runtimes")
    found.add_argument("--rounds", type=int, default=15, help="how often each variant runs")
    found.add_argument("--seconds", type=float, default=240.0, help="most seconds for each number of threads")
    return found


Bundles = dict[tuple[str, str], Bundle]
"""By recipe and runtime."""


def write_bundles(report: Report, options: argparse.Namespace, folder: Path) -> Bundles:
    """Export the checkpoint for both runtimes by each recipe, each in a process of its own."""
    checkpoint, bundles, rows = random_checkpoint(options.size), {}, []
    for recipe in options.recipes:
        for runtime in NAMES:
            target = folder / f"{recipe}-{runtime}.magicmm"
            seconds, peak = write_bundle(checkpoint, target, recipe, runtime, options.buckets)
            bundles[recipe, runtime] = Bundle.load(target)
            rows.append([f"{NAMES[runtime]}, {recipe}", seconds, peak / 1e6])
    report.table(f"exporting {options.size}, golden cases and quality included", ("bundle", "s", "peak MB"), rows)
    return bundles


def write_bundle(checkpoint: Path, target: Path, recipe: str, runtime: str, lengths: str) -> tuple[float, float]:
    """Export anew; return seconds and the peak of resident bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    buckets = ["--buckets", lengths] if runtime == EXECUTORCH else []
    arguments: list[str | Path] = [checkpoint, target, "--recipe", recipe, "--runtime", runtime, *buckets]
    _, facts = lowered("command", *arguments)
    return facts["seconds"], max(facts["own_peak"], facts["child_peak"])


def report_sizes(report: Report, bundles: Bundles) -> None:
    """Say how large graphs and whole bundles are."""
    rows = []
    for (recipe, runtime), bundle in bundles.items():
        graphs = sum(
            entry.bytes for name, entry in bundle.manifest.files.items() if name.startswith((f"{runtime}/", "onnx/"))
        )
        rows.append([f"{NAMES[runtime]}, {recipe}", graphs / 1e6, bundle.total_bytes / 1e6])
    report.table("size", ("bundle", "graphs MB", "bundle MB"), rows)


def report_cosines(report: Report, bundles: Bundles) -> None:
    """Compare the vectors of all bundles with those of the first recipe on ONNX Runtime."""
    found = {key: _vectors(bundle, key[1]) for key, bundle in bundles.items()}
    first = next(iter(found))
    kinds = ("text", "photo", "photo and text")
    rows = [
        [f"{NAMES[runtime]}, {recipe}", *(f"{cosine:.6f}" for cosine in _cosines(vectors, found[first]))]
        for (recipe, runtime), vectors in found.items()
    ]
    report.table(f"least cosine to {NAMES[first[1]]}, {first[0]} (random weights)", ("bundle", *kinds), rows)


def report_delegates(report: Report, bundles: Bundles) -> None:
    """Say how much of each method XNNPACK takes."""
    rows = [
        [recipe, *row]
        for (recipe, runtime), bundle in bundles.items()
        if runtime == EXECUTORCH
        for row in _plan_rows(bundle)
    ]
    report.table("ExecuTorch: what XNNPACK takes", ("recipe", *PLAN_COLUMNS), rows)
    least = min(1 - read_plans(bundle)[0].outside_share for (_, kind), bundle in bundles.items() if kind == EXECUTORCH)
    report.goal("work that XNNPACK takes, least of all methods", ">= 99 %", f"{least:.2%}", least >= 0.99)


def report_times(report: Report, bundles: Bundles, threads: int, options: argparse.Namespace) -> None:
    """Let all variants take turns, part by part."""
    for part in ("vision", "language"):
        calls: dict[str, Callable[[], object]] = {}
        for (recipe, runtime), bundle in bundles.items():
            session = open_session(bundle, part, threads, runtime)
            for case, inputs in _cases(bundle, part).items():
                calls[f"{case}; {recipe}; {runtime}"] = _call(session, inputs)
        _report_race(report, part, calls, threads, options)


def report_nano(report: Report, options: argparse.Namespace) -> None:
    """Lower the built-in model, and let both runtimes take turns on a photo and on texts."""
    with TemporaryDirectory() as folder:
        target = Path(folder, "nano.magicmm")
        seconds, peak = write_bundle(Bundle.default().path, target, "int8", EXECUTORCH, NANO_BUCKETS)
        bundles = {ONNX: Bundle.default(), EXECUTORCH: Bundle.load(target)}
        sizes = [[NAMES[runtime], bundle.total_bytes / 1e6] for runtime, bundle in bundles.items()]
        report.table(f"nano: size (lowered in {seconds:.0f} s, peak {peak / 1e6:.0f} MB)", ("bundle", "MB"), sizes)
        first, second = (_vectors(bundle, runtime) for runtime, bundle in bundles.items())
        cosines = [[f"{cosine:.6f}" for cosine in _cosines(second, first)]]
        report.table("nano: least cosine of ExecuTorch to ONNX Runtime", ("text", "photo", "photo and text"), cosines)
        report.table("nano: what XNNPACK takes", PLAN_COLUMNS, _plan_rows(bundles[EXECUTORCH]))
        for threads in options.threads:
            parts = [part for part in NANO if part in bundles[ONNX].manifest.graphs[ONNX]]
            sessions = {(part, run): open_session(bundles[run], part, threads, run) for part in parts for run in NAMES}
            calls = {
                f"{name}; int8; {run}": _call(sessions[part, run], inputs)
                for part in parts
                for name, inputs in NANO[part].items()
                for run in NAMES
            }
            _report_race(report, "nano", calls, threads, options)


def report_part(report: Report, options: argparse.Namespace) -> None:
    """Lower a part of the real size."""
    checkpoint, rows = random_checkpoint(options.part), []
    for recipe in options.recipes:
        with TemporaryDirectory(dir=CACHE) as folder:
            target = Path(folder, "part.magicmm")
            seconds, peak = write_bundle(checkpoint, target, recipe, EXECUTORCH, options.buckets)
            rows.append([recipe, seconds, peak / 1e6, Bundle.load(target).total_bytes / 1e6])
    columns = ("recipe", "s", "peak MB", "bundle MB")
    report.table(f"ExecuTorch: lowering {options.part} (vision as it is, 2 layers of language)", columns, rows)


def _vectors(bundle: Bundle, runtime: str) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    """Return vectors of texts, of a photo, and of the photo with each text."""
    embedder = Embedder.open(bundle, runtime=runtime)
    scene = sample_scene()
    found = [
        np.stack([embedder.embed_text(text) for text in TEXTS]),
        embedder.embed_image(scene)[None],
        np.stack([embedder.embed_query(text, scene) for text in TEXTS]),
    ]
    embedder.release()
    return found


def _cosines(found: list[Any], wanted: list[Any]) -> list[float]:
    return [float((ours * theirs).sum(1).min()) for ours, theirs in zip(found, wanted, strict=True)]


def _cases(bundle: Bundle, part: str) -> dict[str, dict[str, Any]]:
    """Return inputs of a part, as the SDK passes them."""
    from safetensors.numpy import load_file

    rng, manifest = np.random.default_rng(0), bundle.manifest
    if part == "vision":
        side = manifest.image.side
        return {"tile": {"pixels": rng.integers(0, 256, (1, side, side, 3), dtype=np.uint8)}}
    prefix = load_file(bundle.file(str(manifest.roles["query"].prefix)))
    return {
        f"{length} tokens": {
            "embeds": rng.standard_normal((1, length, manifest.dim), np.float32),
            "last": np.array([length - 1]),
            **prefix,
        }
        for length in (QUERY, PHOTO)
    }


def _plan_rows(bundle: Bundle) -> list[list[object]]:
    """Return a row for each method of a program, for `PLAN_COLUMNS`."""
    parts = read_plans(bundle)[0].parts
    return [[part.name, part.pieces, part.work / 1e9, f"{1 - part.outside_share:.4%}"] for part in parts]


def _report_race(
    report: Report, what: str, calls: dict[str, Callable[[], object]], threads: int, options: argparse.Namespace
) -> None:
    timings = race(calls, options.rounds, options.seconds)
    title = f"{what}, {threads} thread{'s' if threads > 1 else ''}"
    report.table(title, TIME_COLUMNS, [_time_row(name, timings) for name in timings])


def _call(session: Session, inputs: dict[str, Any]) -> Callable[[], object]:
    return lambda: session.run(inputs)


def _time_row(name: str, timings: dict[str, Timing]) -> list[object]:
    case, recipe, runtime = name.split("; ")
    timing, base = timings[name], timings[f"{case}; {recipe}; {ONNX}"]
    milliseconds = (1000 * timing.best, 1000 * timing.median)
    calm = f"{timing.calm} of {timing.runs}"
    return [case, recipe, NAMES[runtime], *milliseconds, calm, f"{timing.median / base.median:.2f}"]


if __name__ == "__main__":
    sys.exit(main())
