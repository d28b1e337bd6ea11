"""What writing a bundle of the real size costs: memory and time of each process, and the bytes of the bundle by part.

The weights are random, so this says nothing about quality. Every recipe runs in a fresh process, which starts another
one to verify the bundle; both are watched.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from lower_2b import lowered
from model_2b import checkpoint_parser, finished, random_checkpoint
from report import CACHE, Report, child_environment, run_child
from vanilla_2b import PARTS, missing
from variants_2b import FLOAT32, INT4, INT8, RECIPES, SMALL, Workshop, bundle_arguments

GOAL_OWN, GOAL_ANY, GOAL_SECONDS = 1.0, 1.5, 180
GOAL_SIZE = {INT8: 1.9, INT4: 1.2, SMALL: 1.2}
WHAT = {"bundle": "writing and verifying", "command": "magicmm-export: also measures the quality"}
SIZED = {"vision": "onnx/vision.", "language": "onnx/language.", "tokens": "tokens.bin", "prefixes": "prefix/"}


def main() -> int:
    """Run the benchmark."""
    options = build_parser().parse_args()
    if options.quick:
        options.size, options.recipes = "tiny", [INT8]
    report = Report("export_2b", options)
    checkpoint = options.checkpoint or random_checkpoint(options.size)
    if options.quick:
        with TemporaryDirectory() as folder:
            measure(report, Workshop(checkpoint, Path(folder), ()), options)
    else:
        measure(report, Workshop(checkpoint, CACHE / f"latency-{options.size}", ()), options)
    report.finish()
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    found = checkpoint_parser(__doc__)
    found.add_argument("--recipes", nargs="+", choices=RECIPES, default=[INT8, INT4, SMALL], help="what to write")
    found.add_argument("--naive", action="store_true", help="also torch.onnx.export + quantize_dynamic (10 GB)")
    return found


def measure(report: Report, workshop: Workshop, options: argparse.Namespace) -> None:
    """Write each bundle anew, and report."""
    rows, sizes = [], []
    for name in options.recipes:
        for what in ("bundle", "command"):
            target = workshop.bundle_path(name)
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            child, facts = lowered(what, workshop.checkpoint, target, *bundle_arguments(name))
            memory = [facts[key] / 1e9 for key in ("own_peak", "own_anon", "child_peak", "child_anon")]
            rows.append([name, WHAT[what], child.wall, child.cpu, *memory])
        sizes.append([name, *bytes_by_part(target)])
        if options.size == "2B":
            goals(report, name, child.wall, memory, sizes[-1][-1])
    columns = ("recipe", "what", "wall s", "CPU s", "peak GB", "own GB", "verifying: peak GB", "own GB")
    report.table(
        "time, and memory of the writing and of the verifying process (own: no mapped files)",
        columns,
        rows,
    )
    report.table("bundle, MB", ("recipe", *SIZED, "other", "all"), sizes)
    if options.naive:
        naive(report, workshop)


def goals(report: Report, name: str, wall: float, memory: Sequence[float], megabytes: float) -> None:
    """Compare one recipe with what was promised."""
    if name == FLOAT32:
        return
    own, either = memory[0], max(memory[0], memory[2])
    report.goal(f"{name}: peak of the writing process", f"<= {GOAL_OWN} GB", f"{own:.2f} GB", own <= GOAL_OWN)
    report.goal(f"{name}: peak of either process", f"<= {GOAL_ANY} GB", f"{either:.2f} GB", either <= GOAL_ANY)
    report.goal(f"{name}: wall time", f"<= {GOAL_SECONDS} s", f"{wall:.0f} s", wall <= GOAL_SECONDS)
    size = megabytes / 1e3
    report.goal(f"{name}: bundle", f"<= {GOAL_SIZE[name]} GB", f"{size:.3f} GB", size <= GOAL_SIZE[name])


def bytes_by_part(bundle: Path) -> list[float]:
    """Return megabytes of each part, of everything else, and of all."""
    files = {path.relative_to(bundle).as_posix(): path.stat().st_size for path in bundle.rglob("*") if path.is_file()}
    parts = [sum(size for name, size in files.items() if name.startswith(start)) for start in SIZED.values()]
    total = sum(files.values())
    return [size / 1e6 for size in (*parts, total - sum(parts), total)]


def naive(report: Report, workshop: Workshop) -> None:
    """Export and quantise both parts the usual way."""
    title = "torch.onnx.export + quantize_dynamic, part by part"
    columns = ("part", "wall s", "CPU s", "peak of the export GB", "peak GB")
    if why := missing():
        report.table(title, columns, [["not measured", why, "", "", ""]])
        return
    rows = []
    for part in PARTS:
        layers = getattr(workshop.config, part).layers
        with TemporaryDirectory(dir=workshop.folder) as folder:
            command = [sys.executable, str(Path(__file__).with_name("vanilla_2b.py")), str(workshop.checkpoint)]
            command += [f"{folder}/{part}", "--part", part, "--layers", str(layers)]
            child = finished(run_child(command, child_environment()))
        exported = int(child.stdout.split()[-1]) / 1e9
        rows.append([part, child.wall, child.cpu, exported, child.peak_bytes / 1e9])
    report.table(title, columns, rows)


if __name__ == "__main__":
    sys.exit(main())
