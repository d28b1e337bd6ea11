"""Indexing photos: a whole sync against the model alone, decoding alone, and a rescan of files that did not change.

The photos are made-up JPEGs with the detail of camera pictures. Sync, model and decoding take turns on the same
photos, one folder each, in one process. Linux and macOS.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from magicmm.bundle import Bundle
from magicmm.embedder import Embedder
from magicmm.gallery import Gallery
from magicmm.sources import FolderSource, path_uri
from magicmm.sync import BATCH
from report import CACHE, Report, child_environment, parser, run_child
from synthetic import filled_index, jpeg_library, many_files, spread_over_folders

GOAL_SHARE = 0.85
GOAL_RESCAN_SECONDS = 5.0
SIZES = ((1600, 1200), (4000, 3000))


@dataclass(frozen=True, slots=True)
class Work:
    """Seconds on the clock and seconds of all cores, for one photo."""

    wall: float
    cpu: float


def main() -> int:
    """Run the benchmark."""
    options = build_parser().parse_args()
    sizes: tuple[tuple[int, int], ...] = SIZES
    if options.quick:
        options.photos, options.chunk, options.files, options.rounds, sizes = 8, 4, 1000, 1, ((640, 480),)
    bundle = Bundle.default() if options.bundle is None else Bundle.load(options.bundle)
    report = Report("sync", options)
    for size in sizes:
        measure_throughput(report, bundle, size, options)
    measure_rescan(report, bundle, options)
    report.finish()
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    found = parser(__doc__)
    found.add_argument("--photos", type=int, default=200, help="photos of each size")
    found.add_argument("--chunk", type=int, default=40, help="photos a turn; sync, model and decoding take turns")
    found.add_argument("--files", type=int, default=100_000, help="unchanged files of the rescan")
    found.add_argument("--rounds", type=int, default=5, help="rescans")
    found.add_argument("--threads", type=int, default=0, help="threads of the model (0 = all cores)")
    found.add_argument("--bundle", type=Path, metavar="PATH", help="the model (default: the built-in one)")
    return found


def measure_throughput(report: Report, bundle: Bundle, size: tuple[int, int], options: argparse.Namespace) -> None:
    """Sync, embed prepared pixels, and decode, in turns."""
    name = f"{size[0]}x{size[1]}"
    photos = jpeg_library(CACHE / f"photos-{name}", options.photos, size)
    folders = spread_over_folders(photos, CACHE / f"chunks-{name}", options.chunk)
    embedder = Embedder.open(bundle, options.threads)
    found: dict[str, list[Work]] = {"sync": [], "model alone": [], "decoding alone": []}
    sync_folder(embedder, folders[0])  # loads the graph, fills the page cache
    for folder in folders:
        paths = sorted(folder.iterdir())
        found["sync"].append(timed(len(paths), partial(sync_folder, embedder, folder)))
        pixels = decode(embedder, paths)
        found["model alone"].append(timed(len(paths), partial(embed, embedder, pixels)))
        found["decoding alone"].append(timed(len(paths), partial(decode, embedder, paths)))
    rows = []
    for what, works in found.items():
        rates = [1 / work.wall for work in works]
        cpu = statistics.median(work.cpu for work in works) * 1e3
        rows.append([what, max(rates), statistics.median(rates), min(rates), cpu])
    megabytes = statistics.mean(path.stat().st_size for path in photos) / 1e6
    columns = ("what", "best photos/s", "median photos/s", "worst photos/s", "CPU ms a photo")
    peak = peak_of_sync(bundle, CACHE / f"photos-{name}", options.threads) / 1e6
    report.table(
        f"{len(photos)} photos of {name} ({megabytes:.1f} MB each), {options.chunk} a turn; a sync by the command line"
        f" peaks at {peak:.0f} MB",
        columns,
        rows,
    )
    judge(report, name, *found.values())


def judge(report: Report, name: str, syncs: list[Work], models: list[Work], decodes: list[Work]) -> None:
    """Compare turn by turn: what else runs on the machine changes from one to the next."""
    share = statistics.median(model.wall / sync.wall for sync, model in zip(syncs, models, strict=True))
    ceiling = statistics.median(m.cpu / (m.cpu + d.cpu) for m, d in zip(models, decodes, strict=True))
    turns = zip(syncs, models, decodes, strict=True)
    in_turn = statistics.median((model.wall + decode.wall) / sync.wall for sync, model, decode in turns)
    said = f"{share:.0%}; sharing its cores with decoding allows {ceiling:.0%}"
    report.goal(f"sync, {name}", f">= {GOAL_SHARE:.0%} of the model alone", said, share >= GOAL_SHARE)
    report.goal(
        f"sync, {name}", f">= {GOAL_SHARE:.0%} of decoding, then the model", f"{in_turn:.0%}", in_turn >= GOAL_SHARE
    )


def timed(photos: int, work: Callable[[], object]) -> Work:
    """Return what one photo took."""
    begun, begun_cpu = time.perf_counter(), time.process_time()
    work()
    return Work((time.perf_counter() - begun) / photos, (time.process_time() - begun_cpu) / photos)


def sync_folder(embedder: Embedder, folder: Path) -> None:
    """Index a folder from nothing."""
    with TemporaryDirectory(dir=CACHE) as place:
        gallery = Gallery.open(Path(place, "index.db"), embedder, [folder])
        done = list(gallery.sync())[-1]
        if done.embedded != done.total or done.skipped:
            raise RuntimeError(f"{done.embedded} of {done.total} photos were embedded")


def decode(embedder: Embedder, paths: Sequence[Path]) -> list[object]:
    """Read, hash, decode and resize as a sync does, on all cores."""
    source = FolderSource(paths[0].parent)

    def prepare(path: Path) -> object:
        photo = source.load(path_uri(path)).decode(embedder.decode_side())
        return embedder.prepare(photo.rgb)

    with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
        return list(pool.map(prepare, paths))


def embed(embedder: Embedder, pixels: Sequence[object]) -> None:
    """Run the model in batches of a sync's size."""
    for start in range(0, len(pixels), BATCH):
        embedder.embed_pixels(pixels[start : start + BATCH])  # type: ignore[arg-type]


def peak_of_sync(bundle: Bundle, folder: Path, threads: int) -> int:
    """Return the peak resident bytes of `magicmm index`."""
    with TemporaryDirectory(dir=CACHE) as place:
        command = [sys.executable, "-m", "magicmm.cli", "index", str(folder), "--index", str(Path(place, "index.db"))]
        child = run_child([*command, "--bundle", str(bundle.path), "--threads", str(threads)], child_environment())
    if child.code != 0:
        raise RuntimeError(child.stderr[-2000:])
    return child.peak_bytes


def measure_rescan(report: Report, bundle: Bundle, options: argparse.Namespace) -> None:
    """Sync a library of which every file is indexed already."""
    library = CACHE / f"library-{options.files}"
    paths = many_files(library, options.files)
    name = f"cold-{options.files}-{bundle.fingerprint[:12]}.db"
    index = filled_index(CACHE / name, paths, library, bundle.fingerprint, bundle.manifest.dim)
    walls = []
    with closing(Gallery.open(index, Embedder.open(bundle, options.threads))) as gallery:
        for _ in range(options.rounds + 1):
            begun = time.perf_counter()
            last = list(gallery.sync())[-1]
            walls.append(time.perf_counter() - begun)
            if last.done:
                raise RuntimeError(f"{last.done} files were not found unchanged; delete {CACHE.name} and run again")
    warm = walls[1:]
    rows = [[min(warm), statistics.median(warm), max(warm)]]
    report.table(f"rescan of {options.files:,} unchanged files", ("min s", "median s", "max s"), rows)
    middle = statistics.median(warm)
    report.goal(
        f"rescan of {options.files:,} unchanged files",
        f"< {GOAL_RESCAN_SECONDS} s",
        f"{middle:.2f} s median, {min(warm):.2f} s min",
        middle < GOAL_RESCAN_SECONDS,
    )


if __name__ == "__main__":
    sys.exit(main())
