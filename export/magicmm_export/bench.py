"""How fast a bundle is on this machine, and how much memory it takes, in processes of their own.

What a user runs to choose a bundle; the numbers that the project promises come from `benchmarks/`.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from magicmm import Bundle, Embedder, ErrorCode, MagicError
from magicmm.encoders import DualEncoder, VisionLanguageEncoder
from magicmm.runtime import check_runtime
from magicmm_export.children import hand_back, run_module
from magicmm_export.scenes import sample_scene
from magicmm_export.text_table import size_text, text_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from magicmm.runtime import Floats, Session

TEXT = "two people walking along the beach at sunset"
PHOTO, QUERY = "whole photo", "whole text"
_ENLARGED = 16
"""Times that the sample scene is enlarged: 1152 x 1792 pixels, so that resizing counts as it does for photos."""


@dataclass(frozen=True, slots=True)
class Timing:
    """One task with one number of threads.

    Attributes:
        task: A graph ("vision", "language photo", "language query", or "image", "text"), "prepare" (resizing), or
            `PHOTO` or `QUERY`: everything from decoded pixels or words to the vector.
        threads: Of the runtime.
        rounds: How often it was measured, after one run that was not.
        least_ms: The fastest.
        median_ms: Half took longer.
        cpu_ms: Median of what all cores spent.
    """

    task: str
    threads: int
    rounds: int
    least_ms: float
    median_ms: float
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class Loading:
    """What it takes to open a part.

    Attributes:
        part: A graph; "SDK" is what the process takes without any.
        threads: Of the runtime.
        seconds: To open it.
        resident: Bytes that the process has in memory after it has opened the part and run it once; None where the
            system does not say (all but Linux).
    """

    part: str
    threads: int
    seconds: float
    resident: int | None


@dataclass(frozen=True, slots=True)
class Bench:
    """All measurements of a bundle."""

    id: str
    loading: tuple[Loading, ...]
    timings: tuple[Timing, ...]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)

    def table(self) -> str:
        """Return one table of times and one of memory."""
        times = [
            (row.task, str(row.threads), f"{row.least_ms:,.1f}", f"{row.median_ms:,.1f}", f"{row.cpu_ms:,.1f}")
            for row in self.timings
        ]
        parts = [
            (row.part, str(row.threads), f"{row.seconds:.2f}", "?" if row.resident is None else size_text(row.resident))
            for row in self.loading
        ]
        return "\n\n".join(
            (
                self.id,
                text_table(("task", "threads", "least ms", "median ms", "CPU ms"), times),
                text_table(("loaded", "threads", "seconds", "resident"), parts),
            )
        )


def bench_bundle(path: Path, rounds: int = 5, threads: Sequence[int] = (1, 2), runtime: str = "onnx") -> Bench:
    """Measure photo and text, task by task in turns, once for each number of threads.

    Args:
        path: A bundle of either architecture.
        rounds: How often each task is measured.
        threads: Numbers of threads of the runtime, one process after the other.
        runtime: As for `Embedder.open`.

    Raises:
        MagicError: `argument_invalid` for no round or no thread; `bundle_invalid` and `runtime_failed` as the SDK does.
    """
    if rounds < 1 or not threads or min(threads) < 1:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"{rounds} rounds with {', '.join(map(str, threads)) or 'no number of'} threads cannot be measured.",
            "Give at least one round and numbers of threads from 1.",
        )
    bundle = Bundle.load(path)
    check_runtime(bundle, runtime)
    found = [_measured_apart(path, rounds, count, runtime) for count in threads]
    return Bench(
        bundle.manifest.id,
        tuple(Loading(**entry) for one in found for entry in one["loading"]),
        tuple(Timing(**entry) for one in found for entry in one["timings"]),
    )


def _measured_apart(path: Path, rounds: int, threads: int, runtime: str) -> dict[str, Any]:
    said = run_module(
        "magicmm_export.bench",
        str(path),
        str(rounds),
        str(threads),
        runtime,
        what="The measuring process",
        hint="It may have run out of memory.",
    )
    answer: dict[str, Any] = json.loads(said)
    return answer


class _Clock:
    """Wall and CPU time by task."""

    def __init__(self) -> None:
        self.laps: dict[str, list[tuple[float, float]]] = {}
        self.loaded: list[tuple[str, float]] = []
        self.about = ""

    @contextmanager
    def lap(self, task: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.laps.setdefault(task, []).append((time.perf_counter() - wall, time.process_time() - cpu))


class _TimedSession:
    def __init__(self, session: Session, clock: _Clock, part: str) -> None:
        self.input_names = session.input_names
        self._session, self._clock, self._part = session, clock, part

    def run(self, inputs: Mapping[str, NDArray[Any]], output: str | None = None) -> Floats:
        name = f"{self._part} {self._clock.about}" if self._part == "language" else self._part
        with self._clock.lap(name):
            return self._session.run(inputs, output)


class _TimedVisionLanguage(VisionLanguageEncoder):
    def __init__(self, bundle: Bundle, threads: int, runtime: str, clock: _Clock) -> None:
        super().__init__(bundle, threads, runtime)
        self._clock = clock

    def session(self, part: str) -> Session:
        return _timed(super().session, part, self._clock, part in self.loaded())


class _TimedDual(DualEncoder):
    def __init__(self, bundle: Bundle, threads: int, runtime: str, clock: _Clock) -> None:
        super().__init__(bundle, threads, runtime)
        self._clock = clock

    def session(self, part: str) -> Session:
        return _timed(super().session, part, self._clock, part in self.loaded())


def _timed(open_part: Callable[[str], Session], part: str, clock: _Clock, is_open: bool) -> Session:
    start = time.perf_counter()
    session = open_part(part)
    if not is_open:
        clock.loaded.append((part, time.perf_counter() - start))
    return _TimedSession(session, clock, part)


def measure(bundle: Bundle, rounds: int, threads: int, runtime: str = "onnx") -> tuple[list[Loading], list[Timing]]:
    """Measure in this process; memory counts everything else that it has loaded."""
    clock = _Clock()
    kind = _TimedDual if bundle.manifest.architecture == "dual_encoder" else _TimedVisionLanguage
    encoder = kind(bundle, threads, runtime, clock)
    embedder = Embedder(bundle, encoder)
    photo = np.kron(sample_scene(), np.ones((_ENLARGED, _ENLARGED, 1), np.uint8))

    def embed_photo() -> None:
        clock.about = "photo"
        with clock.lap(PHOTO):
            with clock.lap("prepare"):
                pixels = embedder.prepare(photo)
            embedder.embed_pixels([pixels])

    def embed_text() -> None:
        clock.about = "query"
        with clock.lap(QUERY):
            embedder.embed_text(TEXT)

    loading = [Loading("SDK", threads, 0.0, _resident())]
    encode = encoder.prepare(photo, bundle.manifest.roles["photo"])
    first = "image" if kind is _TimedDual else "vision"
    encoder.session(first).run({"pixels": encode})
    loading.append(Loading(first, threads, clock.loaded[-1][1], _resident()))
    embed_photo()
    embed_text()
    loading.append(Loading(clock.loaded[-1][0], threads, clock.loaded[-1][1], _resident()))
    clock.laps.clear()
    for _ in range(rounds):
        embed_photo()
        embed_text()
    return loading, [_timing(task, threads, laps) for task, laps in clock.laps.items()]


def _timing(task: str, threads: int, laps: Sequence[tuple[float, float]]) -> Timing:
    walls, cpus = ([1000 * lap[place] for lap in laps] for place in (0, 1))
    return Timing(task, threads, len(laps), min(walls), statistics.median(walls), statistics.median(cpus))


def _resident() -> int | None:
    """Return the bytes of this process in memory (Linux), files that are mapped included."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS")), None)


def main(path: str, rounds: str, threads: str, runtime: str) -> int:
    """Measure for a parent; results and errors go to stdout as JSON."""
    try:
        loading, timings = measure(Bundle.load(path), int(rounds), int(threads), runtime)
        answer = {
            "loading": [asdict(entry) for entry in loading],
            "timings": [asdict(entry) for entry in timings],
        }
    except MagicError as error:
        return hand_back(error)
    sys.stdout.write(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
