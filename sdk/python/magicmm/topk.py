"""Exact top-k over int8 rows (docs/decisions/0002-scan-kernel.md holds the measurements behind every constant).

Scores follow the contract of `magicmm.quantise`; higher scores first, equal scores by id ascending.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import simsimd

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from magicmm.quantise import Codes, Scales

    Ids = NDArray[np.int64]
    Mask = NDArray[np.bool_]
    Rows = NDArray[np.intp]
    Best = tuple[Scales, Ids]

_BLOCK_ROWS = 16384
"""Rows a kernel call: the scores stay in the second-level cache."""
_FIRST_BLOCK_ROWS = 1024
"""A short first block finds a threshold that most later rows fail."""
_GATHER_SHARE = 0.08
"""Below this share of selected rows, copying them beats scanning everything (equal at 10 %)."""
_GATHER_ROWS = 2048
"""Rows a gathered copy, for the same reason as _BLOCK_ROWS."""
_pool = ThreadPoolExecutor(os.cpu_count() or 1, "magicmm-scan")  # starts no thread before the first submit


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows to search: codes int8 [n, dim], scales float32 [n], photo ids int64 [n]; `alive` None = all of them."""

    codes: Codes
    scales: Scales
    ids: Ids
    alive: Mask | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Query:
    """A quantised query and how much to find: `min_score` None = any."""

    codes: Codes
    scale: float
    k: int
    min_score: float | None = None


def top_k(segment: Segment, query: Query, selected: Mask | None = None, threads: int = 0) -> Best:
    """Return the scores and ids of the k best rows, best first.

    Args:
        segment: The rows.
        query: What to compare them with.
        selected: bool [n]; rows that pass a filter (None = all).
        threads: 0 = all cores; small matrices use one.
    """
    mask = _both(selected, segment.alive)
    rows = None
    if mask is not None and np.count_nonzero(mask) <= _GATHER_SHARE * len(segment):
        rows, mask = np.flatnonzero(mask), None
    total = len(segment) if rows is None else len(rows)
    if total == 0:
        return np.empty(0, np.float32), np.empty(0, np.int64)
    step = _BLOCK_ROWS if rows is None else _GATHER_ROWS
    cuts = [0, *range(min(_FIRST_BLOCK_ROWS, total), total, step), total]
    spans = iter(list(pairwise(cuts)))
    threads = min(threads or os.cpu_count() or 1, max(1, total // _BLOCK_ROWS))
    # Threads share one iterator (next() is atomic) and so balance themselves.
    others = [_pool.submit(_scan, spans, segment, query, rows, mask) for _ in range(threads - 1)]
    parts = [_scan(spans, segment, query, rows, mask), *(other.result() for other in others)]
    return merge(parts, query.k)


def merge(parts: Iterable[Best], k: int) -> Best:
    """Join the best of several segments into one ranking of k."""
    scores, ids = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((ids, -scores))[:k]
    return scores[order], ids[order]


def _scan(
    spans: Iterator[tuple[int, int]], segment: Segment, query: Query, rows: Rows | None, mask: Mask | None
) -> Best:
    """Take blocks until none is left; keep the k best with a threshold that rises as they are found."""
    best_scores, best_ids = np.empty(0, np.float32), np.empty(0, np.int64)
    least = np.float32(-np.inf if query.min_score is None else query.min_score)
    for start, stop in spans:
        block: slice | Rows = slice(start, stop) if rows is None else rows[start:stop]
        scores = scores_of(segment, block, query)
        passing = scores >= least  # an equal score may still win by its id
        if mask is not None:
            passing &= mask[start:stop]
        hits = np.flatnonzero(passing)
        if len(hits):
            found = np.concatenate((best_scores, scores[hits])), np.concatenate((best_ids, segment.ids[block][hits]))
            best_scores, best_ids = _best(*found, query.k)
            if len(best_scores) == query.k:
                least = max(least, best_scores.min())
    return best_scores, best_ids


def scores_of(segment: Segment, rows: slice | Rows, query: Query) -> Scales:
    """Return the scores of some rows: float32 [n]."""
    return _dots(segment.codes[rows], query.codes) * (segment.scales[rows] * np.float32(query.scale))


def _dots(codes: Codes, query: Codes) -> Scales:
    """Return float32(int32 dot) for each row. simsimd's `out=` is never used: 6.5 miscounts a reference there."""
    return np.asarray(simsimd.inner(codes, query, out_dtype="float32"))


def _best(scores: Scales, ids: Ids, k: int) -> Best:
    """Keep the k best in any order, in linear time however many scores are equal."""
    if len(scores) <= k:
        return scores, ids
    kth = np.partition(scores, len(scores) - k)[len(scores) - k]
    above, equal = np.flatnonzero(scores > kth), np.flatnonzero(scores == kth)
    missing = k - len(above)
    if len(equal) > missing:
        equal = equal[np.argpartition(ids[equal], missing - 1)[:missing]]
    keep = np.concatenate((above, equal))
    return scores[keep], ids[keep]


def _both(first: Mask | None, second: Mask | None) -> Mask | None:
    if first is None or second is None:
        return second if first is None else first
    return first & second
