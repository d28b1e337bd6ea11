"""The Kotlin SDK on the JVM against Python in one run: exact search, opening an index of 100,000 photos, peak heap.

Both search the same memory-mapped scan file with the same query and must give the same answer. They take turns in a
random order; the JVM has compiled its loops before.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from kotlin_build import BuildError, Runner
from magicmm.index import Index
from magicmm.quantise import quantise
from magicmm.scan import ScanMatrix, open_scan_file, scan_path
from magicmm.topk import Query, Segment, top_k
from report import CACHE, Report, Timing, parser, timing_cells
from synthetic import filled_index, many_files, unit_rows

K = 20
FINGERPRINT = "ab" * 32
GOAL = 1.3
HEAP_MB = 24
THREADS = (1, 2)
_CALM_SHARE = 0.1
_WARM_UP_ROUNDS = 300

Sampler = Callable[[], tuple[float, bool]]
"""Returns the seconds of one search, and whether its threads waited less than 10 % of that for a core."""


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
        with Runner("bench", (f"-Xmx{HEAP_MB}m",)) as runner:
            measure(report, runner, index_path, options)
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
    found.add_argument("--seconds", type=float, default=25.0, help="most seconds for the searches")
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

    python = seconds_of(opened, 20)
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
    timings = take_turns(samplers, seconds)
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


def python_sampler(segment: Segment, query: Query, threads: int) -> Sampler:
    """Return a sampler of `top_k`."""
    return lambda: judged(os.getpid(), lambda: seconds_of(lambda: top_k(segment, query, None, threads), 1)[0])


def kotlin_sampler(runner: Runner, command: dict[str, Any], threads: int) -> Sampler:
    """Return a sampler of the same in the JVM."""

    def search() -> float:
        return float(runner.run(verb="scan", threads=threads, rounds=1, **command)["seconds"][0])

    return lambda: judged(runner.pid, search)


def judged(process: int, search: Callable[[], float]) -> tuple[float, bool]:
    """Return the seconds that a search says it took, and whether it was calm (always, where nobody tells)."""
    before = waited(process)
    taken = search()
    return taken, waited(process) - before < _CALM_SHARE * taken


def waited(process: int) -> float:
    """Return for how many seconds a process's threads were ready but had no core (0 where nobody tells)."""
    total = 0
    for path in Path(f"/proc/{process}/task").glob("*/schedstat"):
        try:
            total += int(path.read_text().split()[1])
        except (OSError, IndexError):
            continue
    return total / 1e9


def take_turns(samplers: dict[str, Sampler], seconds: float) -> dict[str, Timing]:
    """Let the variants take turns in a random order until the time is used up."""
    rng = np.random.default_rng(0)
    names = list(samplers)
    samples: dict[str, list[tuple[float, bool]]] = {name: [] for name in names}
    end = time.monotonic() + seconds
    while not samples[names[0]] or time.monotonic() < end:
        for place in rng.permutation(len(names)):
            samples[names[place]].append(samplers[names[place]]())
    return {name: Timing.of(found) for name, found in samples.items()}


def seconds_of(call: Callable[[], object], rounds: int) -> list[float]:
    """Return the seconds of each of some calls."""
    found = []
    for _ in range(rounds):
        begun = time.perf_counter()
        call()
        found.append(time.perf_counter() - begun)
    return found


if __name__ == "__main__":
    sys.exit(main())
