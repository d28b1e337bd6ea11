"""The first text search of the day: a fresh process, an index of 100,000 photos, the built-in model.

The search runs as the command line does it, interleaved with a bare `python -c pass` and with the imports that no
program of this kind can avoid. Linux and macOS.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from magicmm.bundle import Bundle
from report import CACHE, Child, Report, child_environment, parser, run_child
from synthetic import filled_index, many_files

GOAL_SECONDS = 0.5
QUERY = "a dog on the beach"
TIMELINE = """
import json, sys, time
from pathlib import Path
moments = [("start", time.perf_counter())]
def mark(name): moments.append((name, time.perf_counter()))
index_path, bundle_path, query = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
import numpy; mark("import numpy")
import magicmm.cli, magicmm.commands, magicmm.gallery; mark("import magicmm")
import onnxruntime; mark("import onnxruntime")
from magicmm.embedder import Embedder
embedder = Embedder.open(bundle_path); mark("open bundle (manifest, file sizes)")
embedder.token_ids(query); mark("import tokenizers, load tokenizer, tokenize")
embedder.embed_text(query); mark("load text graph, embed")
vector = embedder.embed_text(query); mark("embed again")
from magicmm.index import Index
from magicmm.quantise import quantise
from magicmm.scan import ScanMatrix
from magicmm.topk import Query
index = Index(index_path); mark("open index")
matrix = ScanMatrix.load(index, index.active_model()); mark("map scan file")
codes, scales = quantise(vector[None])
(scores, ids), _ = matrix.search(Query(codes[0], float(scales[0]), 20)); mark("scan, first time")
matrix.search(Query(codes[0], float(scales[0]), 20)); mark("scan again")
index.matches(ids.tolist(), scores.tolist()); mark("look up 20 rows")
index.close(); mark("close index")
steps = [(name, after - before) for (_, before), (name, after) in zip(moments, moments[1:])]
print(json.dumps({"steps": steps, "pillow": "PIL" in sys.modules}))
"""


def main() -> int:
    """Run the benchmark."""
    options = build_parser().parse_args()
    if options.quick:
        options.rows, options.runs = 1000, 2
    bundle = Bundle.default() if options.bundle is None else Bundle.load(options.bundle)
    report = Report("cold_start", options)
    library = CACHE / f"library-{options.rows}"
    name = f"cold-{options.rows}-{bundle.fingerprint[:12]}.db"
    index = filled_index(
        CACHE / name, many_files(library, options.rows), library, bundle.fingerprint, bundle.manifest.dim
    )
    search = [sys.executable, "-m", "magicmm.cli", "search", QUERY, "-k", "20", "--index", str(index)]
    search += ["--bundle", str(bundle.path), "--threads", str(options.threads)]
    measure_processes(report, search, options)
    measure_timeline(report, index, bundle, options)
    measure_imports(report, [*search, "--no-sync"])
    report.finish()
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    found = parser(__doc__)
    found.add_argument("--rows", type=int, default=100_000, help="photos of the index")
    found.add_argument("--runs", type=int, default=21, help="fresh processes of each kind")
    found.add_argument("--threads", type=int, default=0, help="threads of the model (0 = all cores)")
    found.add_argument("--bundle", type=Path, metavar="PATH", help="the model (default: the built-in one)")
    return found


def measure_processes(report: Report, search: list[str], options: argparse.Namespace) -> None:
    """Time whole processes from start to exit, one of each kind in turn."""
    kinds = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import numpy, onnxruntime": [sys.executable, "-c", "import numpy, onnxruntime"],
        "magicmm search --no-sync": [*search, "--no-sync"],
        "magicmm search (looks for new photos first)": search,
    }
    runs: dict[str, list[Child]] = {kind: [] for kind in kinds}
    for command in kinds.values():  # fills the page cache and writes the compiled modules
        checked_child(command)
    for _ in range(options.runs):
        for kind, command in kinds.items():
            runs[kind].append(checked_child(command))
    bare = statistics.median(child.wall for child in runs["python -c pass"])
    rows = []
    for kind, children in runs.items():
        walls = sorted(child.wall for child in children)
        cpu = statistics.median(child.cpu for child in children)
        peak = max(child.peak_bytes for child in children) / 1e6
        middle = statistics.median(walls)
        rows.append([kind, walls[0], middle, walls[-1], middle - bare, cpu, peak])
    columns = ("process", "min s", "median s", "max s", "median over bare s", "CPU s", "peak MB")
    report.table(f"{options.rows:,} photos, {options.runs} runs each", columns, rows)
    walls = [child.wall for child in runs["magicmm search --no-sync"]]
    best, middle = min(walls), statistics.median(walls)
    said = f"{middle:.3f} s median, {best:.3f} s min"
    report.goal("first search of a fresh process", f"< {GOAL_SECONDS} s", said, middle < GOAL_SECONDS)


def measure_timeline(report: Report, index: Path, bundle: Bundle, options: argparse.Namespace) -> None:
    """Time the steps of a search inside a process of its own."""
    command = [sys.executable, "-c", TIMELINE, str(index), str(bundle.path), QUERY]
    seconds: dict[str, list[float]] = defaultdict(list)
    uses_pillow = False
    for _ in range(max(3, options.runs // 2)):
        answer = json.loads(checked_child(command).stdout)
        uses_pillow = uses_pillow or answer["pillow"]
        for name, taken in answer["steps"]:
            seconds[name].append(taken)
    rows: list[list[object]] = [
        [name, min(taken) * 1e3, statistics.median(taken) * 1e3] for name, taken in seconds.items()
    ]
    least, middle = sum(map(min, seconds.values())), sum(map(statistics.median, seconds.values()))
    rows.append(["all", least * 1e3, middle * 1e3])
    report.table("steps inside the process", ("step", "min ms", "median ms"), rows)
    report.goal("Pillow is imported for a text search", "no", "yes" if uses_pillow else "no", not uses_pillow)


def measure_imports(report: Report, search: list[str]) -> None:
    """Sum the time that the imports of a search take, by package; -X importtime itself makes them slower."""
    child = checked_child([search[0], "-X", "importtime", *search[1:]])
    totals: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    for line in child.stderr.splitlines():
        parts = line.removeprefix("import time:").split("|")
        if len(parts) == 3 and parts[0].strip().isdigit():
            package = parts[2].strip().split(".")[0]
            totals[package] += int(parts[0]) / 1e3
            counts[package] += 1
    rows = [[package, counts[package], totals[package]] for package in sorted(totals, key=lambda name: -totals[name])]
    report.table("imports by package (one run)", ("package", "modules", "self ms"), rows[:16])


def checked_child(command: Sequence[str]) -> Child:
    """Run a process and insist that it succeeds."""
    child = run_child(command, child_environment())
    if child.code != 0:
        raise RuntimeError(f"{' '.join(command[:4])} ... failed with {child.code}: {child.stderr[-2000:]}")
    return child


if __name__ == "__main__":
    sys.exit(main())
