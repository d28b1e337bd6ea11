"""Exact search over int8 vectors against reading them once, numpy float32, usearch and faiss; what filters cost.

The matrix is a memory-mapped scan file of random vectors in the real layout. Every variant runs in the same
interleaved rounds, with the page cache warm.
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy: the programs here divide the rows among threads themselves

import argparse
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from magicmm import Bundle
from magicmm.filters import Filter
from magicmm.gallery import Gallery
from magicmm.index import Index
from magicmm.quantise import quantise
from magicmm.scan import HEADER_BYTES, ScanHeader, open_scan_file, scan_path
from magicmm.topk import Query, Segment, top_k
from report import CACHE, Report, Timing, parser, race, readers, timing_cells
from synthetic import CHUNK, clustered_rows, filled_index, many_files, unit_rows, vector_chunks

if TYPE_CHECKING:
    from magicmm.embedder import Embedder

Variants = dict[str, Callable[[], object]]
K = 20
MANY = 1000
GOAL = 1.5
SHARES = (0.001, 0.01, 0.1, 0.5)
FINGERPRINT = "ab" * 32


def main() -> int:
    """Run the benchmark."""
    options = build_parser().parse_args()
    if options.quick:
        options.rows, options.gallery_rows, options.seconds, options.queries = [2000, 20_000], 1000, 0.5, 5
    report = Report("search", options)
    for rows in options.rows:
        segment = open_segment(rows, options.dim)
        measure_scan(report, segment, options)
        measure_filters(report, segment, options)
    measure_recall(report, min(100_000, max(options.rows)), options)
    measure_gallery(report, options)
    report.finish()
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    found = parser(__doc__)
    found.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="sizes of the matrix")
    found.add_argument("--dim", type=int, default=384, help="length of the vectors")
    found.add_argument("--gallery-rows", type=int, default=100_000, help="photos of the index for Gallery.search")
    found.add_argument("--queries", type=int, default=100, help="queries for recall")
    found.add_argument("--seconds", type=float, default=25.0, help="most seconds a table")
    return found


def open_segment(rows: int, dim: int) -> Segment:
    """Map a scan file of random vectors as the SDK does; the file is made unless it is there."""
    path = CACHE / f"search-{rows}x{dim}.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(Index(path, create=True)) as index:
        model = index.active_model()
        if model is None:
            with index.transaction():
                model = index.add_model(FINGERPRINT, "synthetic", dim, is_active=True)
        found = open_scan_file(scan_path(path), index, model)
        if found is None:
            write_random_scan_file(scan_path(path), rows, dim, index.meta("index_id").encode())
            found = open_scan_file(scan_path(path), index, model)
    assert found is not None, "just written"  # noqa: S101
    return found.segment


def write_random_scan_file(path: Path, rows: int, dim: int, index_id: bytes) -> None:
    """Write the layout of docs/FORMAT.md, part 5, without a million rows in SQLite behind it."""
    header = ScanHeader(
        dim=dim,
        rows=rows,
        index_id=index_id,
        fingerprint=bytes.fromhex(FINGERPRINT),
        generation=0,
        last_seq=rows,
        columns_crc=0,
        codes_crc=0,
    )
    ids = np.random.default_rng(3).permutation(rows) + 1
    parts = [quantise(vectors) for vectors in vector_chunks(rows, dim)]
    columns = [np.arange(1, rows + 1, dtype="<i8"), ids.astype("<i8"), *(scales.astype("<f4") for _, scales in parts)]
    head = b"".join(column.tobytes() for column in columns).ljust(header.offsets[3] - HEADER_BYTES, b"\0")
    codes_crc = 0
    for codes, _ in parts:
        codes_crc = zlib.crc32(codes.tobytes(), codes_crc)
    header = replace(header, columns_crc=zlib.crc32(head), codes_crc=codes_crc)
    aside = path.with_name(path.name + ".new")
    with aside.open("wb") as file:
        file.write(header.pack() + head)
        for codes, _ in parts:
            file.write(codes.tobytes())
    aside.replace(path)


def random_query(dim: int, k: int = K) -> Query:
    """Return a quantised random query."""
    codes, scales = quantise(unit_rows(np.random.default_rng(4), 1, dim))
    return Query(codes[0], float(scales[0]), k)


def measure_scan(report: Report, segment: Segment, options: argparse.Namespace) -> None:
    """Time top-k and what a user would use instead, with one and with two threads."""
    rows, dim = segment.codes.shape
    words = np.asarray(segment.codes).reshape(-1).view(np.int64)
    query, many = random_query(dim), random_query(dim, MANY)
    variants: Variants = {}
    for threads in (1, 2):
        variants |= {f"{name}, {threads}T": call for name, call in readers(words, threads).items()}
        variants[f"magicmm, {threads}T"] = partial(top_k, segment, query, None, threads)
        variants[f"magicmm, k={MANY}, {threads}T"] = partial(top_k, segment, many, None, threads)
    timings = race(variants, rounds=200, seconds=options.seconds)
    others, missing = other_variants(segment, query)
    timings |= race(others, rounds=20, seconds=options.seconds)
    table = [[name, *timing_cells(timing), *ratios(timing, base_of(timings, name))] for name, timing in timings.items()]
    table += [[name, "not installed", "", "", "", ""] for name in missing]
    columns = ("variant", "min ms", "median ms", "calm/runs", "min / read", "median / read")
    report.table(f"{rows:,} x {dim} int8 ({segment.codes.nbytes / 1e6:.0f} MB), k={K}", columns, table)
    for threads in (1, 2):
        name = f"magicmm, {threads}T"
        by_best, by_median = ratios(timings[name], base_of(timings, name))
        said = f"{by_median:.2f}x median, {by_best:.2f}x min"
        what = f"top-{K} of {rows:,}, {threads} threads"
        report.goal(what, f"<= {GOAL} x reading the matrix once", said, by_median <= GOAL)


def base_of(timings: dict[str, Timing], name: str) -> Timing:
    """Return the fastest plain read with as many threads as `name` says."""
    reads = [timing for key, timing in timings.items() if key.startswith("read once") and key[-2:] == name[-2:]]
    return Timing(min(read.best for read in reads), min(read.median for read in reads), 0, 0)


def ratios(timing: Timing, base: Timing) -> list[float]:
    """Return both ratios, of the minima and of the medians."""
    return [timing.best / base.best, timing.median / base.median]


def other_variants(segment: Segment, query: Query) -> tuple[Variants, list[str]]:
    """Return the alternatives, and the names of those that are not installed."""
    floats = np.concatenate(list(vector_chunks(*segment.codes.shape)))
    wanted = (query.codes * query.scale).astype(np.float32)
    found: Variants = {}
    missing: list[str] = []
    for threads in (1, 2):
        found[f"numpy float32 matmul + argpartition, {threads}T"] = numpy_search(floats, wanted, threads)
    for name, make in (("usearch exact int8", usearch_searches), ("faiss", faiss_searches)):
        try:
            found |= make(segment, floats, wanted, query)
        except ImportError:
            missing.append(name)
    return found, missing


def numpy_search(floats: Any, wanted: Any, threads: int) -> Callable[[], object]:
    """Return a search by matrix product, its rows divided among threads."""
    scores = np.empty(len(floats), np.float32)
    parts = [part for part in np.array_split(np.arange(len(floats)), threads) if len(part)]
    pool = ThreadPoolExecutor(threads)

    def multiply(part: Any) -> None:
        rows = slice(part[0], part[-1] + 1)
        np.matmul(floats[rows], wanted, out=scores[rows])

    def search() -> object:
        list(pool.map(multiply, parts))
        return np.argpartition(scores, len(scores) - K)[-K:]

    return search


def usearch_searches(segment: Segment, floats: Any, wanted: Any, query: Query) -> Variants:
    """Return usearch's exact search over the same int8 rows; it knows no scale per row."""
    from usearch.compiled import MetricKind
    from usearch.index import search

    codes = np.asarray(segment.codes)
    return {
        f"usearch exact int8 (no scales), {t}T": partial(
            search, codes, query.codes, K, MetricKind.IP, exact=True, threads=t
        )
        for t in (1, 2)
    }


def faiss_searches(segment: Segment, floats: Any, wanted: Any, query: Query) -> Variants:
    """Return faiss's flat float32 index and its 8-bit scalar quantiser; one query uses one thread in faiss."""
    import faiss

    dim = floats.shape[1]
    flat = faiss.IndexFlatIP(dim)
    kind = faiss.ScalarQuantizer.QT_8bit_direct_signed
    small = faiss.IndexScalarQuantizer(dim, kind, faiss.METRIC_INNER_PRODUCT)
    flat.add(floats)
    for start in range(0, len(floats), CHUNK):
        small.add(segment.codes[start : start + CHUNK].astype(np.float32))

    def with_threads(index: Any, row: Any, threads: int) -> Callable[[], object]:
        def search() -> object:
            faiss.omp_set_num_threads(threads)
            return index.search(row[None], K)

        return search

    found: Variants = {}
    for t in (1, 2):
        found[f"faiss IndexFlatIP float32, {t}T"] = with_threads(flat, wanted, t)
        found[f"faiss SQ8 (no scales), {t}T"] = with_threads(small, query.codes.astype(np.float32), t)
    return found


def measure_filters(report: Report, segment: Segment, options: argparse.Namespace) -> None:
    """Time top-k among a random part of the rows, against all of them."""
    rows, dim = segment.codes.shape
    query = random_query(dim)
    rng = np.random.default_rng(5)
    variants: Variants = {f"all, {t}T": partial(top_k, segment, query, None, t) for t in (1, 2)}
    for share in SHARES:
        mask = rng.random((rows,)) < share
        for threads in (1, 2):
            variants[f"{share:.1%}, {threads}T"] = partial(top_k, segment, query, mask, threads)
    timings = race(variants, rounds=60, seconds=options.seconds / 2)
    table = [
        [name, *timing_cells(timing), *ratios(timing, timings[f"all, {name[-2:]}"])] for name, timing in timings.items()
    ]
    columns = ("rows that pass", "min ms", "median ms", "calm/runs", "min / all", "median / all")
    report.table(f"filters, {rows:,} rows", columns, table)


def measure_recall(report: Report, rows: int, options: argparse.Namespace) -> None:
    """Compare the ids with those of float32 search over the unquantised vectors."""
    table = []
    for name, spread in (("random", None), ("200 clusters, spread 0.3", 0.3), ("200 clusters, spread 0.1", 0.1)):
        rng = np.random.default_rng(6)
        if spread is None:
            vectors, queries = unit_rows(rng, rows, options.dim), unit_rows(rng, options.queries, options.dim)
        else:
            centres = unit_rows(rng, 200, options.dim)
            vectors, queries = (clustered_rows(rng, centres, count, spread) for count in (rows, options.queries))
        codes, scales = quantise(vectors)
        segment = Segment(codes, scales, np.arange(rows))
        query_codes, query_scales = quantise(queries)
        recalls, losses = [], []
        for place, vector in enumerate(queries):
            scores = vectors @ vector
            best = np.argsort(-scores)[:K]
            found = top_k(segment, Query(query_codes[place], float(query_scales[place]), K))[1]
            recalls.append(len(set(found.tolist()) & set(best.tolist())) / K)
            losses.append(float(scores[best].mean() - scores[found].mean()))
        table.append([name, float(np.mean(recalls)), float(min(recalls)), float(max(losses))])
    columns = ("vectors", f"recall@{K} mean", "least", "largest loss of mean cosine")
    report.table(f"recall against float32, {rows:,} rows, {options.queries} queries", columns, table)


class GivenVectors:
    """Stands in for an `Embedder` whose query vector is known: everything of a search but the model."""

    fingerprint = FINGERPRINT

    def __init__(self, dim: int) -> None:
        """Prepare a vector, and what says how sure a search is."""
        self.bundle = Bundle.default()
        self._vector = unit_rows(np.random.default_rng(7), 1, dim)[0]

    def embed_query(self, *_: object) -> Any:
        """Return the vector."""
        return self._vector

    def release(self) -> None:
        """Hold nothing."""


def measure_gallery(report: Report, options: argparse.Namespace) -> None:
    """Time Gallery.search on a real index, the model left out: open one, ask again, filter."""
    count, dim = options.gallery_rows, options.dim
    library = CACHE / f"library-{count}"
    paths = many_files(library, count)
    path = filled_index(CACHE / f"gallery-{count}x{dim}.db", paths, library, FINGERPRINT, dim)
    under = Filter(under=(paths[0].parent.as_uri() + "/",))
    embedder = cast("Embedder", GivenVectors(dim))

    def opened() -> object:
        with closing(Gallery(path, embedder, [], create=False)) as fresh:
            return fresh.search("a dog")

    with closing(Gallery(path, embedder, [], create=False)) as gallery:
        variants: Variants = {
            "search": lambda: gallery.search("a dog"),
            f"search, k={MANY}": lambda: gallery.search("a dog", k=MANY),
            "search under one folder": lambda: gallery.search("a dog", where=under),
            "open, search, close": opened,
        }
        timings = race(variants, rounds=100, seconds=options.seconds / 2)
    table = [[name, *timing_cells(timing)] for name, timing in timings.items()]
    report.table(f"Gallery, {count:,} photos, without the model", ("what", "min ms", "median ms", "calm/runs"), table)


if __name__ == "__main__":
    sys.exit(main())
