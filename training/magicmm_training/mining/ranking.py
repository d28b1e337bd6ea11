"""Exact search: the best candidates of each query, the truth left out, in memory that does not grow with the pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch

from magicmm.errors import ErrorCode, MagicError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from magicmm_training.entries import Floats

    Places = NDArray[np.int64]

CHUNK = 65_536
_QUERIES = 1024
"""Candidates and queries that are scored at once: 256 MiB of scores."""

Backend = Literal["torch", "faiss"]


class Ranked(NamedTuple):
    """The best candidates of some queries, best first; of equal scores the lower place comes first.

    Attributes:
        places: int64 [n, k]; -1 where a pool has fewer.
        scores: float32 [n, k]; -inf where a pool has fewer.
    """

    places: Places
    scores: Floats


@dataclass(frozen=True, slots=True)
class Pool:
    """The candidates of a data set, read as they are needed.

    Attributes:
        size: How many there are.
        read: Returns the vectors of candidates start to stop - 1, float32 [stop - start, dim].
        chunk: How many are read at once.
    """

    size: int
    read: Callable[[int, int], Floats]
    chunk: int = CHUNK


def rank(
    queries: Floats,
    pool: Pool,
    truths: Sequence[Places],
    top: int,
    backend: Backend = "torch",
    device: torch.device | str = "cpu",
) -> Ranked:
    """Return the best candidates of each query that are not true for it.

    Args:
        queries: float32 [n, dim], unit rows.
        pool: The candidates.
        truths: For each query, the places that are left out.
        top: How many candidates a query gets.
        backend: What computes the scores; the result is the same up to float32 rounding.
        device: Where torch computes.

    Raises:
        MagicError: `argument_invalid` for faiss where it is not installed.
    """
    best = Ranked(np.full((len(queries), top), -1), np.full((len(queries), top), -np.inf, np.float32))
    search = _by_faiss if backend == "faiss" else _by_torch
    for start in range(0, pool.size, pool.chunk):
        stop = min(start + pool.chunk, pool.size)
        here = [places[(places >= start) & (places < stop)] - start for places in truths]
        found = search(queries, pool.read(start, stop), here, top, device)
        best = _merge(best, found._replace(places=np.where(found.places < 0, -1, found.places + start)), top)
    return best


def _by_torch(
    queries: Floats, candidates: Floats, hidden: Sequence[Places], top: int, device: torch.device | str
) -> Ranked:
    columns = torch.from_numpy(candidates).to(device).T
    count = min(top, len(candidates))
    places = np.empty((len(queries), count), np.int64)
    best = np.empty((len(queries), count), np.float32)
    for start in range(0, len(queries), _QUERIES):
        here = slice(start, start + _QUERIES)
        scores = torch.from_numpy(queries[here]).to(device) @ columns
        for row, truth in zip(scores, hidden[here], strict=True):
            row[torch.from_numpy(truth).to(device)] = -torch.inf
        chosen = _top(scores, count)
        places[here], best[here] = chosen.cpu().numpy(), scores.gather(1, chosen).cpu().numpy()
    return _visible(places, best)


def _top(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Return the places of the highest scores; of those that tie for the last place, the lowest."""
    best = scores.topk(min(count + 1, scores.shape[1]))
    places = best.indices[:, :count]
    if best.values.shape[1] > count:
        tied = (best.values[:, count - 1] == best.values[:, count]).nonzero()[:, 0]
        for row in tied.tolist():  # topk took any of them
            places[row] = torch.sort(scores[row], descending=True, stable=True).indices[:count]
    return places


def _by_faiss(
    queries: Floats, candidates: Floats, hidden: Sequence[Places], top: int, device: torch.device | str
) -> Ranked:
    try:
        import faiss
    except ImportError:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID, "faiss is not installed.", "pip install 'magicmm[mine]', or use torch."
        ) from None
    index = faiss.IndexFlatIP(candidates.shape[1])
    index.add(candidates)
    # The truth is dropped afterwards, so that much more is asked for.
    more = max((len(places) for places in hidden), default=0)
    scores, places = index.search(queries, min(top + more, len(candidates)))
    for row, truth in enumerate(hidden):
        scores[row, np.isin(places[row], truth)] = -np.inf
    return _visible(places, scores)


def _visible(places: Places, scores: Floats) -> Ranked:
    return Ranked(np.where(np.isneginf(scores), -1, places), scores)


def _merge(one: Ranked, other: Ranked, top: int) -> Ranked:
    """Return the best of both, of equal scores the lower places."""
    places = np.concatenate([one.places, other.places], axis=1)
    scores = np.concatenate([one.scores, other.scores], axis=1)
    order = np.lexsort((places, -scores))[:, :top]
    return Ranked(np.take_along_axis(places, order, 1), np.take_along_axis(scores, order, 1))
