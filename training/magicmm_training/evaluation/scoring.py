"""From vectors to the metrics of each query."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from magicmm_training.evaluation.metrics import Metric, Outcome, rank

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magicmm_training.evaluation.rerank import Reordering
    from magicmm_training.evaluation.task import Retrieval

    Floats = NDArray[np.float32]
    Flags = NDArray[np.bool_]
    Places = NDArray[np.int64]

_CHUNK_BYTES = 64 << 20
"""Scores held at once."""
COLLAPSED_COSINE = 0.999
"""Mean cosine of different contents from which on a space is called collapsed."""
_FEWEST_VECTORS = 8
"""Fewer vectors say nothing about a space: two labels may well be close."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """Unit vectors of a task; rows of unreadable entries are not used.

    Attributes:
        queries: float32 [q, dim].
        candidates: float32 [c, dim].
        query_ok: bool [q].
        candidate_ok: bool [c].
    """

    queries: Floats
    candidates: Floats
    query_ok: Flags
    candidate_ok: Flags


@dataclass(frozen=True, slots=True)
class Scored:
    """Metrics of the queries that could be scored.

    Attributes:
        kept: Places of these queries.
        expected: Metric -> float64 [n].
        pessimistic: Metric -> float64 [n].
        weights: float64 [n], sum 1: the share of each query in the task's score.
        constant: Queries whose candidates all have one score.
        mean_pool: Mean number of candidates (documents) that competed.
    """

    kept: tuple[int, ...]
    expected: Mapping[Metric, NDArray[np.float64]]
    pessimistic: Mapping[Metric, NDArray[np.float64]]
    weights: NDArray[np.float64]
    constant: int
    mean_pool: float

    def tied(self, metric: Metric) -> int:
        """Return how many queries' values depend on the order of equal scores."""
        return int(np.count_nonzero(self.expected[metric] - self.pessimistic[metric] > 1e-12))


def score(
    content: Retrieval, vectors: Vectors, metrics: Sequence[Metric], reordering: Reordering | None = None
) -> Scored:
    """Rank the candidates of every query by cosine, and by the reranker if there is one.

    A query is left out when it or one of its right candidates could not be read; any other unreadable candidate is
    left out of the pools. Whoever calls keeps count.

    Raises:
        MagicError: `runtime_failed` for scores that are no finite numbers.
    """
    depth = max(metric.k for metric in metrics)
    outcomes: list[list[Outcome]] = []
    constant, pooled = 0, 0
    kept = usable_queries(content, vectors)
    readable = np.flatnonzero(vectors.candidate_ok)
    for query, row in _score_rows(vectors, kept):
        places, scores, gains = _competitors(content, query, row, readable)
        if reordering is not None:
            scores = reordering.reorder(content.queries[query], content.candidates, places, scores)
        constant += len(scores) > 1 and bool((scores == scores[0]).all())
        pooled += len(scores)
        ranking = rank(scores, gains, depth)
        outcomes.append([metric.of(ranking) for metric in metrics])
    values = np.array(outcomes, np.float64).reshape(len(kept), len(metrics), 2)
    return Scored(
        kept=tuple(kept),
        expected={metric: values[:, place, 0] for place, metric in enumerate(metrics)},
        pessimistic={metric: values[:, place, 1] for place, metric in enumerate(metrics)},
        weights=_weights(content, kept),
        constant=constant,
        mean_pool=pooled / max(len(kept), 1),
    )


def usable_queries(content: Retrieval, vectors: Vectors) -> list[int]:
    """Return the places of queries that have a vector, as have all their right candidates."""
    return [
        place
        for place, labels in enumerate(content.relevant)
        if vectors.query_ok[place] and vectors.candidate_ok[list(labels)].all()
    ]


def mean_cosine(vectors: Floats) -> float:
    """Return the mean cosine over all pairs of different rows of unit vectors [n, dim], n >= 2."""
    total = vectors.sum(axis=0, dtype=np.float64)
    count = len(vectors)
    return float((total @ total - count) / (count * (count - 1)))


def collapse_warnings(scored: Scored, contents: Mapping[str, Floats]) -> list[str]:
    """Say what shows that a model tells little apart; its scores are chance then, not errors.

    Args:
        scored: What came of it.
        contents: Name of a side -> vectors of its different contents, float32 [n, dim].
    """
    found = []
    if scored.constant * 2 > len(scored.kept):
        found.append(f"collapse: {scored.constant:,} of {len(scored.kept):,} queries give all candidates one score")
    for side, rows in contents.items():
        if len(rows) >= _FEWEST_VECTORS and (cosine := mean_cosine(rows)) > COLLAPSED_COSINE:
            found.append(f"collapse: the mean cosine between {side} vectors is {cosine:.4f}")
    return found


def _score_rows(vectors: Vectors, kept: Sequence[int]) -> Iterator[tuple[int, Floats]]:
    """Give each query with its cosine to every candidate.

    Candidates with equal vectors are multiplied once: a matrix product may round the last bit of equal rows
    differently, which would order what is a tie.
    """
    seen: dict[bytes, int] = {}
    inverse = np.array([seen.setdefault(row.tobytes(), len(seen)) for row in vectors.candidates], np.int64)
    different = vectors.candidates[np.unique(inverse, return_index=True)[1]]
    step = max(1, _CHUNK_BYTES // (4 * len(inverse)))
    for start in range(0, len(kept), step):
        chunk = list(kept[start : start + step])
        scores = vectors.queries[chunk] @ different.T
        for query, row in zip(chunk, scores, strict=True):
            yield query, row if len(different) == len(inverse) else row[inverse]


def _competitors(
    content: Retrieval, query: int, row: Floats, readable: Places
) -> tuple[Places, Floats, NDArray[np.float64]]:
    """Return places, scores and gains of what competes for a query: one entry a document."""
    pool = content.pool(query)
    places = readable if pool is None else pool[np.isin(pool, readable)]
    all_gains = np.zeros(len(row), np.float64)
    labels = content.relevant[query]
    all_gains[list(labels)] = list(labels.values())
    if content.documents is None:
        return places, row[places], all_gains[places]
    documents = np.asarray(content.documents, np.int64)
    ordered = places[np.lexsort((-row[places], documents[places]))]
    firsts = np.flatnonzero(np.diff(documents[ordered], prepend=-1))
    return ordered[firsts], row[ordered[firsts]], np.maximum.reduceat(all_gains[ordered], firsts)


def _weights(content: Retrieval, kept: Sequence[int]) -> NDArray[np.float64]:
    if content.average == "queries" or content.pools is None:
        return np.full(len(kept), 1 / max(len(kept), 1))
    pools = np.array([content.pools.of_query[place] for place in kept], np.int64)
    _, inverse, counts = np.unique(pools, return_inverse=True, return_counts=True)
    weights: NDArray[np.float64] = 1 / (len(counts) * counts[inverse.reshape(-1)])
    return weights
