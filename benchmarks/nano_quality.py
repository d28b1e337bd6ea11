"""How well the built-in model finds pictures by words, what int8 costs, how fast and how large it is.

Photos and queries of `photo_sets.py`: "held out" is what the model is judged on, "development" what settings may be
compared on. A query counts as answered at k when any photo that it fits is among the first k.

The pictures are those of the Debian package `tuxpaint-stamps-default` (GPL-2, 161 MB), fetched into build/tuxpaint once
and used for nothing but this evaluation. Of its stamps those count that have a caption and are neither symbols
(letters, coins, chess pieces) nor cartoons: 430, most of them photo cut-outs. The query is the English caption, the
first line of the stamp's text file. It is a development set: settings of the model were compared on it
(docs/decisions/0003-nano-graphs.md).

For the float32 rows: python -m magicmm_export.nano build/nano-fp32.magicmm --precision fp32   (after `make nano`)
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magicmm.embedder import Embedder
from magicmm.quantise import quantise
from photo_sets import PhotoSet, photo_set
from report import ROOT, Report, parser, race

STAMPS = ROOT / "build" / "tuxpaint"
REFERENCE = ROOT / "build" / "nano-fp32.magicmm"
PACKAGE = "tuxpaint-stamps-default"
MOST_BYTES = 32_000_000
REFERENCE_RECALL = (0.265, 0.447, 0.512)
"""R@1, R@5, R@10 of untrained ConSE on these stamps, measured before this project began."""
KS = (1, 5, 10)
BOOTSTRAPS = 10_000
QUERY = "a brown dog on the beach"  # eight tokens with [CLS] and [SEP]

Array = NDArray[np.float32]


def main() -> int:
    """Run the benchmark."""
    options = build_parser().parse_args()
    stamps = useful_stamps(fetch_stamps())
    if options.quick:
        stamps = stamps[::10]
    shipped = Embedder.open(options.bundle, threads=1)
    reference = Embedder.open(options.reference, threads=1) if options.reference.exists() else None
    report = Report("nano_quality", options)
    measure_quality(report, stamps, shipped, reference)
    for name in ("held_out", "development"):
        measure_photos(report, photo_set(name), shipped, reference, 20 if options.quick else None)
    measure_speed(report, stamps[0][0], shipped, reference, rounds=2 if options.quick else 60)
    size = shipped.bundle.total_bytes
    report.goal("size of the bundle", f"<= {MOST_BYTES / 1e6:.0f} MB", f"{size / 1e6:.1f} MB", size <= MOST_BYTES)
    report.finish()
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    found = parser(__doc__)
    found.add_argument("--bundle", type=Path, metavar="PATH", help="the model (default: the built-in one)")
    found.add_argument("--reference", type=Path, metavar="PATH", default=REFERENCE, help="the same in float32")
    return found


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


def measure_quality(
    report: Report, stamps: list[tuple[Path, str]], shipped: Embedder, reference: Embedder | None
) -> None:
    """Rank all pictures for every caption: the shipped model, its int8 index, and float32."""
    queries, pictures = encode(shipped, stamps)
    codes, scales = quantise(pictures)
    query_codes, query_scales = quantise(queries)
    held = codes.astype(np.float32) * scales[:, None]
    asked = query_codes.astype(np.float32) * query_scales[:, None]
    user = score(asked, held)
    rows: list[list[object]] = [["int8", *score(queries, pictures)], ["int8, int8 index (what a user gets)", *user]]
    if reference is not None:
        true_queries, true_pictures = encode(reference, stamps)
        rows.insert(0, ["float32", *score(true_queries, true_pictures)])
        cosines = [np.einsum("nd,nd->n", *pair) for pair in ((queries, true_queries), (pictures, true_pictures))]
        table = [[name, found.mean(), found.min()] for name, found in zip(("text", "photo"), cosines, strict=True)]
        report.table("int8 against float32, cosine", ["vectors", "mean", "least"], table)
    rows.append(["reference: untrained ConSE, measured before", *REFERENCE_RECALL, "-"])
    columns = ["model", *(f"R@{k}" for k in KS), "median rank"]
    report.table(f"Tux Paint captions -> pictures, n = {len(stamps)}", columns, rows)
    recall = user[1]
    error = float(np.sqrt(REFERENCE_RECALL[1] * (1 - REFERENCE_RECALL[1]) / len(stamps)))
    report.goal(
        "R@5 of the int8 model and index",
        f"reference {REFERENCE_RECALL[1]} within 2 standard errors ({2 * error:.3f})",
        f"{recall:.3f}",
        recall >= REFERENCE_RECALL[1] - 2 * error,
    )


def measure_photos(
    report: Report, found: PhotoSet, shipped: Embedder, reference: Embedder | None, most: int | None
) -> None:
    """Rank all photos of a set for every query; the spread is that of a mean over queries (bootstrap, 95 %)."""
    queries = found.queries[:most]
    models = {"int8": shipped} | ({} if reference is None else {"float32": reference})
    rows = []
    for name, model in models.items():
        asked = np.stack([model.embed_text(text) for text, _ in queries])
        held = np.stack([model.embed_image(path) for path in found.photos])
        ranks, precision = ranked(asked @ held.T, [right for _, right in queries])
        cells = [_spread(ranks < k) for k in KS]
        rows.append([name, *cells, _spread(precision)])
    title = f"{found.name.replace('_', ' ')}: queries -> photos, {len(queries)} queries, {len(found.photos)} photos"
    report.table(title, ["model", *(f"R@{k}" for k in KS), "mAP"], rows)


def ranked(scores: Array, right: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], Array]:
    """Return, for each query, the rank of its first right photo (from 0), and its average precision."""
    first, precision = [], []
    for row, places in zip(scores, right, strict=True):
        order = np.argsort(-row, kind="stable")
        ranks = np.flatnonzero(np.isin(order, places))
        first.append(ranks[0])
        precision.append(np.mean((np.arange(len(ranks)) + 1) / (ranks + 1)))
    return np.array(first), np.array(precision, np.float32)


def _spread(values: NDArray[Any]) -> str:
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(BOOTSTRAPS, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"


def encode(embedder: Embedder, stamps: list[tuple[Path, str]]) -> tuple[Array, Array]:
    """Return the unit vectors of the captions and of the pictures."""
    queries = np.stack([embedder.embed_text(caption) for _, caption in stamps])
    return queries, np.stack([embedder.embed_image(path) for path, _ in stamps])


def score(queries: Array, pictures: Array) -> list[float]:
    """Return recall at each k and the median rank; pictures with equal scores share the mean of their places."""
    scores = queries @ pictures.T
    right = scores.diagonal()[:, None]
    ranks = 1 + (scores > right).sum(1) + ((scores == right).sum(1) - 1) / 2
    return [*(float((ranks <= k).mean()) for k in KS), float(np.median(ranks))]


def measure_speed(report: Report, photo: Path, shipped: Embedder, reference: Embedder | None, rounds: int) -> None:
    """Time one photo (decoded before) and one query on one thread, in turns; and the first query of a new session."""
    models = {"int8": shipped} | ({} if reference is None else {"float32": reference})
    for what, parts in (
        ("one photo", {name: partial(model.embed_pixels, [model.prepare(photo)]) for name, model in models.items()}),
        ("one query of 8 tokens", {name: partial(model.embed_text, QUERY) for name, model in models.items()}),
        ("open and first query", {name: partial(first_query, model) for name, model in models.items()}),
    ):
        timings = race(parts, rounds=rounds, seconds=30)
        rows = [[name, timing.best * 1e3, timing.median * 1e3, timing.runs] for name, timing in timings.items()]
        report.table(f"{what}, 1 thread", ["model", "min ms", "median ms", "runs"], rows)


def first_query(embedder: Embedder) -> None:
    """Embed a text with nothing loaded."""
    embedder.release()
    embedder.embed_text(QUERY)


if __name__ == "__main__":
    sys.exit(main())
