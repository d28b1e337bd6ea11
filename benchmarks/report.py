"""What every benchmark shares: facts about the machine, interleaved timing, a table on stdout, a JSON file."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "build" / "bench"
RESULTS = Path(__file__).resolve().parent / "results"
_CALM_SHARE = 0.1
_PACKAGES = ("numpy", "onnxruntime", "tokenizers", "pillow", "simsimd", "usearch", "faiss-cpu")


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one variant; of its samples only the calm ones count, as long as there are three.

    Attributes:
        best: Minimum.
        median: Median.
        calm: Samples whose threads waited less than 10 % of the time for a core.
        runs: All samples.
    """

    best: float
    median: float
    calm: int
    runs: int

    @classmethod
    def of(cls, samples: Sequence[tuple[float, bool]]) -> Timing:
        """Reduce (seconds, is calm) pairs."""
        calm = [seconds for seconds, is_calm in samples if is_calm]
        used = calm if len(calm) >= 3 else [seconds for seconds, _ in samples]
        return cls(min(used), float(np.median(used)), len(calm), len(samples))


Sampler = Callable[[], tuple[float, bool]]
"""Returns the seconds of one run, and whether it was calm."""


def race(variants: Mapping[str, Callable[[], object]], rounds: int, seconds: float) -> dict[str, Timing]:
    """Time all variants, after one run of each that does not count; see `take_turns`."""
    for call in variants.values():
        call()
    samplers = {name: partial(judged, partial(seconds_of, call)) for name, call in variants.items()}
    return take_turns(samplers, rounds, seconds)


def take_turns(samplers: Mapping[str, Sampler], rounds: int, seconds: float) -> dict[str, Timing]:
    """Run all samplers, in a new random order each round, until rounds or seconds are used up (2 rounds at least)."""
    rng = np.random.default_rng(0)
    names = list(samplers)
    samples: dict[str, list[tuple[float, bool]]] = {name: [] for name in names}
    started = time.monotonic()
    for done in range(max(rounds, 2)):
        if done >= 2 and time.monotonic() - started > seconds:
            break
        for place in rng.permutation(len(names)):
            samples[names[place]].append(samplers[names[place]]())
    return {name: Timing.of(pairs) for name, pairs in samples.items()}


def seconds_of(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def judged(measure: Callable[[], float], process: int | str = "self") -> tuple[float, bool]:
    """Return the seconds that a measurement gives, and whether the process that ran it was calm meanwhile."""
    before = _waited(process)
    taken = measure()
    return taken, _waited(process) - before < _CALM_SHARE * taken


def _waited(process: int | str) -> float:
    """Return for how many seconds a process's threads were ready but had no core (0 where nobody tells)."""
    total = 0
    for path in Path(f"/proc/{process}/task").glob("*/schedstat"):
        try:
            total += int(path.read_text().split()[1])
        except (OSError, IndexError):
            continue
    return total / 1e9


@dataclass(frozen=True, slots=True)
class Child:
    """A finished process: wall seconds, CPU seconds, peak resident bytes, exit code, and what it wrote."""

    wall: float
    cpu: float
    peak_bytes: int
    code: int
    stdout: str
    stderr: str


_LAUNCHER = """
import json, os, sys, time
begun = time.perf_counter()
child = os.fork()
if child == 0:
    os.execv(sys.argv[2], sys.argv[2:])
_, status, usage = os.wait4(child, 0)
facts = [time.perf_counter() - begun, usage.ru_utime + usage.ru_stime, usage.ru_maxrss, status]
with open(sys.argv[1], "w") as file:
    json.dump(facts, file)
"""


def run_child(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Child:
    """Run a process (Linux and macOS) and measure it.

    A small process starts it: the peak memory of a forked process begins with that of the one it was forked from.
    """
    with TemporaryDirectory() as folder:
        facts = Path(folder, "facts.json")
        launcher = [sys.executable, "-S", "-c", _LAUNCHER, str(facts), *command]
        finished = subprocess.run(launcher, capture_output=True, text=True, env=environment, check=True)
        wall, cpu, peak, status = json.loads(facts.read_text(encoding="utf-8"))
    unit = 1 if sys.platform == "darwin" else 1024
    return Child(wall, cpu, peak * unit, os.waitstatus_to_exitcode(status), finished.stdout, finished.stderr)


def child_environment() -> dict[str, str]:
    """Return this environment with compiled modules kept, as installed packages have them."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return environment | {"PYTHONPYCACHEPREFIX": str(CACHE / "pycache")}


class Report:
    """Tables and goals of one run: written to stdout as they come, and to a JSON file at the end."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        """Measure the machine and say what it is."""
        self._name = name
        self._path: Path | None = options.json or (None if options.quick else RESULTS / f"{name}.json")
        self._tables: list[dict[str, Any]] = []
        self._goals: list[list[str]] = []
        # Paths of this machine are nobody's business.
        self._options = {key: v for key, v in vars(options).items() if v is not None and not isinstance(v, Path)}
        self.machine = machine_facts()
        self._write(f"{name}\n" + "".join(f"  {key}: {value}\n" for key, value in self.machine.items()))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Add a table."""
        cells = [[_cell(value) for value in row] for row in rows]
        self._tables.append({"title": title, "columns": list(columns), "rows": cells})
        self._write(f"\n{title}\n{_lay_out(columns, cells)}")

    def goal(self, what: str, goal: str, measured: str, met: bool) -> None:
        """Compare a measurement with what was promised."""
        self._goals.append([what, goal, measured, "yes" if met else "NO"])

    def finish(self) -> None:
        """Write the goals, then the JSON file: aside first, so that a stopped run leaves the old one whole."""
        columns = ("what", "goal", "measured", "met")
        if self._goals:
            self._write(f"\ngoals\n{_lay_out(columns, self._goals)}")
        machine = self.machine | {"load average at the end": _load_average()}
        goals = [dict(zip(columns, goal, strict=True)) for goal in self._goals]
        facts = {"benchmark": self._name, "machine": machine, "options": self._options}
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            aside = self._path.with_name(self._path.name + ".new")
            text = json.dumps(facts | {"goals": goals, "tables": self._tables}, indent=1)
            aside.write_text(text + "\n", encoding="utf-8")
            aside.replace(self._path)

    @staticmethod
    def _write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def parser(summary: str | None) -> argparse.ArgumentParser:
    """Return a parser with what all benchmarks accept."""
    found = argparse.ArgumentParser(description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    found.add_argument("--json", type=Path, metavar="PATH", help="where to write the results (full runs: results/)")
    found.add_argument("--quick", action="store_true", help="small sizes and few rounds: does it run at all?")
    return found


def machine_facts() -> dict[str, Any]:
    """Say what this machine is, without its name."""
    cores = os.cpu_count() or 1
    bandwidth = read_bandwidth(cores)
    return {
        "cpu": _cpu_name(),
        "cores": cores,
        "memory GB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "memory read GB/s": f"{bandwidth[0]:.0f} with 1 thread, {bandwidth[1]:.0f} with {cores}",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {_version(name)}" for name in _PACKAGES),
        "load average": _load_average(),
    }


def read_bandwidth(threads: int, megabytes: int = 256) -> tuple[float, float]:
    """Return GB/s of reading memory once, with one thread and with `threads`."""
    words = np.ones(megabytes << 17, np.int64)
    found = []
    for count in (1, threads):
        timings = race(readers(words, count), rounds=5, seconds=2)
        found.append(words.nbytes / 1e9 / min(timing.best for timing in timings.values()))
    return found[0], found[1]


def readers(words: np.ndarray[Any, np.dtype[np.int64]], threads: int) -> dict[str, Callable[[], object]]:
    """Return the plain numpy reductions that read an array once; which one is fastest differs by machine."""
    parts = np.array_split(words, threads)
    pool = ThreadPoolExecutor(threads)

    def reader(reduce: Callable[[Any], object]) -> Callable[[], object]:
        return (lambda: reduce(words)) if threads == 1 else (lambda: list(pool.map(reduce, parts)))

    reductions = {"sum": np.add.reduce, "or": np.bitwise_or.reduce, "max": np.maximum.reduce}
    return {f"read once ({name})": reader(reduce) for name, reduce in reductions.items()}


def machine_load() -> float:
    """Return the load of the last minute (0 where nobody tells)."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _load_average() -> str:
    return f"{machine_load():.1f}"


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        return platform.processor() or platform.machine()
    return platform.machine()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _lay_out(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[place]) for row in (columns, *rows)) for place in range(len(columns))]
    lines = [columns, ["-" * width for width in widths], *rows]
    return "".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n"
        for line in lines
    )


def timing_cells(timing: Timing) -> list[object]:
    """Return milliseconds and calm samples of a timing as cells."""
    facts = asdict(timing)
    return [facts["best"] * 1e3, facts["median"] * 1e3, f"{timing.calm}/{timing.runs}"]
