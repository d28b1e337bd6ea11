"""How well the built-in model finds pictures by words, beside the concept bank that it replaced; its speed and size.

Photos and queries of `photo_sets.py`: "held out" is what the model is judged on, "development" what settings may be
compared on. A query counts as answered at k when any photo that it fits is among the first k.

A third set are pictures of the Debian package `tuxpaint-stamps-default` (GPL-2, 161 MB), fetched into build/tuxpaint
once and used for nothing but evaluation. Of its stamps those count that have a caption and are neither symbols
(letters, coins, chess pieces) nor cartoons: 430, most of them photo cut-outs. The query is the English caption, the
first line of the stamp's text file. Settings were compared on it (docs/decisions/0003-nano-graphs.md).

    make nano-references      # the concept bank, the model in float32, and of other seeds, in build/
    python benchmarks/nano_quality.py
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magicmm.embedder import Embedder
from magicmm.quantise import quantise
from nano_vectors import bundle_parser, bundles, photo_vectors, text_vectors
from photo_sets import photo_set
from report import ROOT, Report, race

STAMPS = ROOT / "build" / "tuxpaint"
PACKAGE = "tuxpaint-stamps-default"
MOST_BYTES = 32_000_000
MOST_SECONDS = 0.060
KS = (1, 5, 10)
METRICS = (*(f"R@{k}" for k in KS), "mAP")
BOOTSTRAPS = 10_000
GAIN = 0.05
"""By which R@5 on held-out photos shall exceed that of the concept bank."""
LOSS = 0.01
"""Which int8 may cost."""
QUERY = "a brown dog on the beach"  # eight tokens with [CLS] and [SEP]

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Searches:
    """Queries of words, and the places of the photos that each fits."""

    name: str
    photos: Sequence[Path]
    queries: Sequence[str]
    right: Sequence[Sequence[int]]


def main() -> int:
    """Run the benchmark."""
    options = bundle_parser(__doc__).parse_args()
    report = Report("nano_quality", options)
    models = bundles(options.bundle)
    for searches in all_searches(20 if options.quick else None):
        measure(report, searches, models)
    stamp = useful_stamps(fetch_stamps())[0][0]
    measure_speed(report, stamp, models, rounds=2 if options.quick else 60)
    report.finish()
    return 0


def all_searches(most: int | None) -> list[Searches]:
    """Return the three sets, at most so many queries of each."""
    found = []
    for name in ("held_out", "development"):
        photos = photo_set(name)
        queries, right = zip(*photos.queries[:most], strict=True)
        found.append(Searches(name, photos.photos, queries, right))
    stamps = useful_stamps(fetch_stamps())[:most]
    paths, captions = zip(*stamps, strict=True)
    return [*found, Searches("stamps", paths, captions, [[place] for place in range(len(paths))])]


def fetch_stamps() -> Path:
    """Return the folder of stamps, downloading and unpacking the package when it is not there."""
    folder = STAMPS / "usr" / "share" / "tuxpaint" / "stamps"
    if not folder.is_dir():
        STAMPS.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", PACKAGE], cwd=STAMPS, check=True, stdout=subprocess.DEVNULL)
        archive = max(STAMPS.glob(f"{PACKAGE}_*.deb"))
        subprocess.run(["dpkg", "-x", archive, STAMPS], check=True)
    return folder


def useful_stamps(folder: Path) -> list[tuple[Path, str]]:
    """Return the pictures that count and their captions, by path."""
    stamps = []
    for path in sorted(folder.rglob("*.png")):
        parts = path.relative_to(folder).parts
        text = path.with_suffix(".txt")
        if parts[0] != "symbols" and "cartoon" not in parts and text.is_file():
            stamps.append((path, text.read_text("utf-8", errors="replace").splitlines()[0].strip()))
    return stamps


def measure(report: Report, searches: Searches, models: dict[str, Embedder]) -> None:
    """Rank all photos for every query, with vectors of every bundle, of every length, and as an index keeps them."""
    found: dict[str, Array] = {}
    for name, model in models.items():
        asked, held = text_vectors(model, searches.queries), photo_vectors(model, searches.photos)
        found[name] = hits(asked @ held.T, searches.right)
        if name == "nano":
            found["nano, int8 vectors (what a user gets)"] = hits(coded(asked) @ coded(held).T, searches.right)
            for length in model.bundle.manifest.raw["matryoshka_dims"]:
                found[f"nano, {length} dims"] = hits(cut(asked, length) @ cut(held, length).T, searches.right)
    count = f"{len(searches.queries)} queries, {len(searches.photos)} photos"
    title = searches.name.replace("_", " ")
    rows = [[name, *(spread(column) for column in values.T)] for name, values in found.items()]
    report.table(f"{title}: {count}; mean (95 % by bootstrap over queries)", ["model", *METRICS], rows)
    if "concept bank" not in found:
        return
    seeds = [values for name, values in found.items() if name == "nano" or name.startswith("nano, seed")]
    means = np.array([values.mean(0) for values in seeds])
    deviations = means.std(0, ddof=1 if len(means) > 1 else 0)
    named = {"mean of seeds": means.mean(0), "standard deviation": deviations}
    rows = [[name, *(f"{value:.3f}" for value in values)] for name, values in named.items()]
    report.table(f"{title}: {len(seeds)} seeds, int8", ["", *METRICS], rows)
    gain = found["nano"] - found["concept bank"]
    rows = [["nano less concept bank", *(spread(column, sign=True) for column in gain.T)]]
    report.table(f"{title}: paired difference", ["", *METRICS], rows)
    better = gain.mean(0)
    goal = "every number at least the concept bank's"
    report.goal(f"{title}, against the concept bank", goal, f"worst {better.min():+.3f}", bool((better >= 0).all()))
    if searches.name == "held_out":
        report.goal(f"{title}, R@5", f"+{GAIN}", f"{better[1]:+.3f}", bool(better[1] >= GAIN))
    if "nano, float32" in found:
        lost = found["nano, float32"].mean(0) - found["nano"].mean(0)
        report.goal(f"{title}, int8", f"within {LOSS}", f"worst {lost.max():+.3f}", bool(lost.max() <= LOSS))


def hits(scores: Array, right: Sequence[Sequence[int]]) -> Array:
    """Return for each query whether it was answered at each k, and its average precision: [queries, 4]."""
    ranks, precision = ranked(scores, right)
    return np.stack([*(ranks < k for k in KS), precision], 1).astype(np.float32)


def ranked(scores: Array, right: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], Array]:
    """Return, for each query, the rank of its first right photo (from 0), and its average precision."""
    first, precision = [], []
    for row, places in zip(scores, right, strict=True):
        order = np.argsort(-row, kind="stable")
        ranks = np.flatnonzero(np.isin(order, places))
        first.append(ranks[0])
        precision.append(np.mean((np.arange(len(ranks)) + 1) / (ranks + 1)))
    return np.array(first), np.array(precision, np.float32)


def coded(vectors: Array) -> Array:
    """Return vectors as int8 codes hold them."""
    codes, scales = quantise(vectors)
    held: Array = codes.astype(np.float32) * scales[:, None]
    return held


def cut(vectors: Array, length: int) -> Array:
    """Return the first numbers of vectors, at unit length."""
    short = vectors[:, :length]
    rows: Array = short / np.linalg.norm(short, axis=1, keepdims=True)
    return rows


def spread(values: NDArray[Any], sign: bool = False) -> str:
    """Return the mean, and where 95 % of the means of resampled queries lie."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(BOOTSTRAPS, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return (
        f"{values.mean():+.3f} ({low:+.3f} to {high:+.3f})"
        if sign
        else f"{values.mean():.3f} ({low:.3f} to {high:.3f})"
    )


def measure_speed(report: Report, photo: Path, models: dict[str, Embedder], rounds: int) -> None:
    """Time one photo (decoded before), queries, and opening, on one thread, in turns; and weigh the bundles."""
    compared = {name: model for name, model in models.items() if not name.startswith("nano, seed")}
    pixels = {name: model.prepare(photo) for name, model in compared.items()}
    for what, parts in (
        ("one photo", {name: partial(model.embed_pixels, [pixels[name]]) for name, model in compared.items()}),
        ("one query of 8 tokens", {name: partial(model.embed_text, QUERY) for name, model in compared.items()}),
        ("one query of photo and text", {name: partial(embed_both, model, photo) for name, model in compared.items()}),
        ("open and first query", {name: partial(first_query, model) for name, model in compared.items()}),
    ):
        timings = race(parts, rounds=rounds, seconds=30)
        rows = [[name, timing.best * 1e3, timing.median * 1e3, timing.runs] for name, timing in timings.items()]
        report.table(f"{what}, 1 thread", ["model", "min ms", "median ms", "runs"], rows)
        if what == "one photo":
            best = timings["nano"].best
            goal = f"<= {MOST_SECONDS * 1e3:.0f} ms"
            report.goal("one photo, 1 thread, least", goal, f"{best * 1e3:.1f} ms", best <= MOST_SECONDS)
    report.table("size", ["model", "MB"], [[name, size_of(model) / 1e6] for name, model in compared.items()])
    size = size_of(models["nano"])
    report.goal("size of the bundle", f"<= {MOST_BYTES / 1e6:.0f} MB", f"{size / 1e6:.1f} MB", size <= MOST_BYTES)


def size_of(model: Embedder) -> int:
    """Return the bytes of a bundle."""
    return model.bundle.total_bytes


def embed_both(model: Embedder, photo: Path) -> None:
    """Embed a photo, decoded anew, with a text."""
    model.embed_query(QUERY, photo)


def first_query(embedder: Embedder) -> None:
    """Embed a text with nothing loaded."""
    embedder.release()
    embedder.embed_text(QUERY)


if __name__ == "__main__":
    sys.exit(main())
