"""The Kotlin SDK on the JVM against Python in one run: search, opening an index of 100,000 photos, embedding, heap.

Both search the same memory-mapped scan file with the same query and must give the same answer. They take turns in a
random order; the JVM has compiled its loops before. Both embed on the same release of onnxruntime, in processes of
their own; a third row shows Python on the release that is installed.
"""

from __future__ import annotations

import argparse
import base64
import sys
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kotlin_build import BuildError, Runner
from kotlin_cases import python_environment, runtime_version
from magicmm import Bundle
from magicmm.index import Index
from magicmm.quantise import quantise
from magicmm.scan import ScanMatrix, open_scan_file, scan_path
from magicmm.topk import Query, Segment, top_k
from report import CACHE, Report, Sampler, judged, parser, seconds_of, take_turns, timing_cells
from synthetic import filled_index, jpeg_library, many_files, unit_rows

K = 20
FINGERPRINT = "ab" * 32
GOAL = 1.3
HEAP_MB = 24
THREADS = (1, 2)
PHOTO = (1280, 960)
LEAST_COSINE = 0.99999
_WARM_UP_ROUNDS = 300
_EMBED_WARM_UP_ROUNDS = 30


def main() -> int:
    """Run the benchmark."""
    options = build_parser().parse_args()
    if options.quick:
        options.rows, options.seconds = 2000, 0.2
    report = Report("kotlin", options)
    library = CACHE / f"files-{options.rows}"
    index_path = filled_index(
        CACHE / f"gallery-{options.rows}x{options.dim}.db",
        many_files(library, options.rows),
        library,
        FINGERPRINT,
        options.dim,
    )
    try:
        with Runner.of_kotlin("bench", (f"-Xmx{HEAP_MB}m",)) as runner:
            measure(report, runner, index_path, options)
        measure_embedding(report, options)
    except BuildError as error:
        sys.stderr.write(f"There is no Kotlin here: {error}\n")
        return 1
    report.finish()
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    found = parser(__doc__)
    found.add_argument("--rows", type=int, default=100_000, help="photos of the index")
    found.add_argument("--dim", type=int, default=384, help="length of the vectors")
    found.add_argument("--seconds", type=float, default=25.0, help="most seconds for each group of variants")
    found.add_argument("--bundle", type=Path, help="the model to embed with (default: the built-in one)")
    return found


def measure(report: Report, runner: Runner, index_path: Path, options: argparse.Namespace) -> None:
    """Time both languages and compare their answers."""
    codes, scales = quantise(unit_rows(np.random.default_rng(4), 1, options.dim))
    command = {"index": index_path, "codes": codes[0].tolist(), "scale": float(scales[0]), "k": K}
    with closing(Index(index_path)) as index:
        model = index.active_model()
        assert model is not None, "filled_index adds one"  # noqa: S101
        found = open_scan_file(scan_path(index_path), index, model)
        assert found is not None, "filled_index writes one"  # noqa: S101
        segment, query = found.segment, Query(codes[0], float(scales[0]), K)
        measure_open(report, runner, index_path, query, command)
        measure_scan(report, runner, segment, query, command, options.seconds)
    facts = runner.run(verb="heap")
    report.table(
        f"memory of the JVM (Java {facts['java']}), started with -Xmx{HEAP_MB}m",
        ("what", "MB"),
        [
            ["peak of the heap, all of the above", facts["peak_bytes"] / 1e6],
            ["codes in the mapped file", segment.codes.nbytes / 1e6],
        ],
    )


def measure_open(report: Report, runner: Runner, index_path: Path, query: Query, command: dict[str, Any]) -> None:
    """Time opening the index and one search, first in a fresh process and then warm."""
    samples = runner.run(verb="open", rounds=20, **command)["seconds"]

    def opened() -> None:
        with closing(Index(index_path)) as index:
            model = index.active_model()
            assert model is not None  # noqa: S101
            ScanMatrix.load(index, model).search(query)

    python = [seconds_of(opened) for _ in range(20)]
    rows = [
        ["Python", python[0] * 1e3, float(np.median(python[1:])) * 1e3],
        ["Kotlin", samples[0] * 1e3, float(np.median(samples[1:])) * 1e3],
    ]
    report.table(
        f"open an index of {len_of(index_path):,} photos and search once", ("language", "first ms", "median ms"), rows
    )


def len_of(index_path: Path) -> int:
    """Count the photos of an index."""
    with closing(Index(index_path)) as index:
        return index.count_photos()


def measure_scan(
    report: Report, runner: Runner, segment: Segment, query: Query, command: dict[str, Any], seconds: float
) -> None:
    """Time top-k with each number of threads."""
    samplers: dict[str, Sampler] = {}
    expected = top_k(segment, query, None, 1)
    for threads in THREADS:
        answer = runner.run(verb="scan", threads=threads, rounds=_WARM_UP_ROUNDS, **command)
        assert answer["ids"] == expected[1].tolist(), "the languages find other photos"  # noqa: S101
        assert answer["scores"] == expected[0].tolist(), "the languages give other scores"  # noqa: S101
        samplers[f"Python, {threads}T"] = python_sampler(segment, query, threads)
        samplers[f"Kotlin, {threads}T"] = kotlin_sampler(runner, command, threads)
    timings = take_turns(samplers, sys.maxsize, seconds)
    rows = []
    for name, timing in timings.items():
        base = timings[f"Python, {name[-2:]}"]
        rows.append([name, *timing_cells(timing), timing.best / base.best, timing.median / base.median])
    count, dim = segment.codes.shape
    columns = ("variant", "min ms", "median ms", "calm/runs", "min / Python", "median / Python")
    report.table(f"top-{K} of {count:,} x {dim} int8", columns, rows)
    for threads in THREADS:
        ratio = timings[f"Kotlin, {threads}T"].median / timings[f"Python, {threads}T"].median
        report.goal(
            f"top-{K} of {count:,}, {threads} threads", f"<= {GOAL} x Python", f"{ratio:.2f}x median", ratio <= GOAL
        )


def measure_embedding(report: Report, options: argparse.Namespace) -> None:
    """Time one text and one decoded photo with one thread, and compare the vectors."""
    bundle = Bundle.load(options.bundle) if options.bundle else Bundle.default()
    worker = [sys.executable, str(Path(__file__).with_name("embed_worker.py"))]
    (path,) = jpeg_library(CACHE / f"photo-{PHOTO[0]}x{PHOTO[1]}", 1, PHOTO)
    photo = np.asarray(Image.open(path).convert("RGB"))
    pixels = base64.b64encode(photo.tobytes()).decode()
    queries: dict[str, dict[str, Any]] = {
        "text": {"text": "two people walking along the beach at sunset"},
        "photo": {"image": {"width": photo.shape[1], "height": photo.shape[0], "channels": 3, "pixels": pixels}},
    }
    with (
        Runner(worker, python_environment()) as python,
        Runner.of_kotlin("bench") as kotlin,
        Runner(worker) as newest,
    ):
        release, installed = runtime_version(), metadata.version("onnxruntime")
        runners = {f"Python, {release}": python, f"Kotlin, {release}": kotlin, f"Python, {installed}": newest}
        rows = []
        for kind, query in queries.items():
            command = {"verb": "embed", "bundle": bundle.path, "threads": 1, **query}
            # The first calls load graphs, and the JVM compiles what comes around them.
            answers = [runner.run(rounds=_EMBED_WARM_UP_ROUNDS, **command) for runner in (python, kotlin, newest)]
            cosine = float(np.dot(answers[0]["vector"], answers[1]["vector"]))
            assert cosine >= LEAST_COSINE, f"the languages give other vectors: cosine {cosine}"  # noqa: S101
            timings = take_turns(
                {name: runner_sampler(runner, command) for name, runner in runners.items()},
                sys.maxsize,
                options.seconds,
            )
            base, ours = (timings[f"{language}, {release}"] for language in ("Python", "Kotlin"))
            rows += [
                [kind, name, *timing_cells(found), found.best / base.best, found.median / base.median]
                for name, found in timings.items()
            ]
            ratio = ours.median / base.median
            report.goal(f"embed a {kind}", f"<= {GOAL} x Python", f"{ratio:.2f}x median", ratio <= GOAL)
    columns = ("of", "variant, onnxruntime", "min ms", "median ms", "calm/runs", "min / Python", "median / Python")
    title = f"embed with {bundle.manifest.id}, 1 thread; a photo is {PHOTO[0]} x {PHOTO[1]} pixels of RGB"
    report.table(title, columns, rows)


def python_sampler(segment: Segment, query: Query, threads: int) -> Sampler:
    """Return a sampler of `top_k`."""
    return lambda: judged(lambda: seconds_of(lambda: top_k(segment, query, None, threads)))


def kotlin_sampler(runner: Runner, command: dict[str, Any], threads: int) -> Sampler:
    """Return a sampler of the same in the JVM."""
    return runner_sampler(runner, {"verb": "scan", "threads": threads, **command})


def runner_sampler(runner: Runner, command: dict[str, Any]) -> Sampler:
    """Return a sampler of a command that says how long it took."""
    return lambda: judged(lambda: float(runner.run(rounds=1, **command)["seconds"][0]), runner.pid)


if __name__ == "__main__":
    sys.exit(main())
