"""A data set whose queries and candidates have vectors: what mining and the judge rank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.data.candidates import BROKEN, Candidates
from magicmm_training.mining.negative_rows import NegativeRef
from magicmm_training.mining.ranking import Backend, Pool, rank
from magicmm_training.mining.vectors import KEY_BYTES, VectorCache, vector_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import torch
    from numpy.typing import NDArray

    from magicmm_training.entries import Entry, Floats, PairSet
    from magicmm_training.mining.ranking import Places

Progress = Callable[[str, int, int], None]
"""Called with (what is done, how much of it, of how much)."""

MAX_BAD_SHARE = 0.01
"""Pairs that may be broken before a stage stops, as in training."""
_BLOCK = 16_384
"""Queries for which the pool is read once."""


class RankedQuery(NamedTuple):
    """A query and its best candidates.

    Attributes:
        place: Of its pair.
        pair_id: Of its pair.
        positive: Score of its own positive.
        candidates: int64 [k], places among the candidates, best first, no truth among them.
        scores: float32 [k].
    """

    place: int
    pair_id: str
    positive: float
    candidates: Places
    scores: Floats


@dataclass(frozen=True, slots=True)
class EmbeddedSet:
    """Vectors of a data set.

    Attributes:
        pairs: The data set.
        candidates: Its candidates.
        pair_ids: Of all pairs, "" for one that cannot be read.
        usable: Places of the pairs whose query and positive have vectors.
        faults: Why the other pairs are left out, by place.
    """

    pairs: PairSet
    candidates: Candidates
    pair_ids: Sequence[str]
    usable: Places
    faults: dict[int, MagicError]
    _cache: VectorCache
    _query_rows: NDArray[np.int64]
    _candidate_rows: NDArray[np.int64]

    @classmethod
    def of(cls, pairs: PairSet, cache: VectorCache, progress: Progress | None = None) -> EmbeddedSet:
        """Read a data set and embed what the cache does not have yet.

        Raises:
            MagicError: `argument_invalid` for an empty data set; `runtime_failed` or `storage_failed`; the first fault
                when more than 1 % of the pairs are broken.
        """
        if not len(pairs):
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID, f"{pairs.name} has no pairs.", "Check its path, split and limit."
            )
        candidates = Candidates.of(pairs)
        faults: dict[int, MagicError] = {}
        pair_ids, query_keys = _query_keys(pairs, candidates, faults)
        keys = np.fromiter(map(vector_key, candidates.entries, candidates.ids), f"S{KEY_BYTES}", len(candidates.ids))
        own = np.array(candidates.own)
        readable = np.flatnonzero(own != BROKEN)
        query_rows = np.full(len(pairs), -1)
        query_rows[readable], broken = cache.rows(
            query_keys[readable],
            lambda at: pairs[int(readable[at])].query,
            _named(progress, f"{pairs.name}: queries"),
        )
        faults |= {int(readable[at]): fault for at, fault in broken.items()}
        candidate_rows, spoilt = cache.rows(
            keys, candidates.entries.__getitem__, _named(progress, f"{pairs.name}: candidates")
        )
        for place in readable[np.isin(own[readable], list(spoilt))].tolist():
            faults.setdefault(place, spoilt[own[place]])
        _check_share(pairs, faults)
        usable = np.setdiff1d(readable, list(faults)).astype(np.int64)
        return cls(pairs, candidates, pair_ids, usable, faults, cache, query_rows, candidate_rows)

    def ranked(self, top: int, backend: Backend = "torch", device: torch.device | str = "cpu") -> Iterator[RankedQuery]:
        """Rank the candidates of each usable query, known truths left out.

        Args:
            top: How many candidates a query gets at most.
            backend: See `rank`.
            device: See `rank`.

        Raises:
            MagicError: See `rank`.
        """
        seen = np.flatnonzero(self._candidate_rows >= 0)
        seen_rows = self._candidate_rows[seen]
        pool = Pool(len(seen), lambda start, stop: self._cache.read(seen_rows[start:stop]))
        own = np.array(self.candidates.own)
        for start in range(0, len(self.usable), _BLOCK):
            places = self.usable[start : start + _BLOCK]
            queries = self._cache.read(self._query_rows[places])
            positives = np.einsum("nd,nd->n", queries, self._cache.read(self._candidate_rows[own[places]]))
            truths = [_within(seen, self.candidates.truths[place]) for place in places]
            best = rank(queries, pool, truths, min(top, len(seen)), backend, device)
            for place, positive, found, scores in zip(
                places.tolist(), positives, best.places, best.scores, strict=True
            ):
                there = found >= 0
                yield RankedQuery(place, self.pair_ids[place], float(positive), seen[found[there]], scores[there])

    def ref(self, candidate: int) -> NegativeRef:
        """Return where a candidate stands."""
        place, part = self.candidates.refs[candidate]
        return NegativeRef(place, self.pair_ids[place], part)

    def entry(self, candidate: int) -> Entry:
        """Return a candidate.

        Raises:
            MagicError: When its row has become unreadable.
        """
        return self.candidates.entries[candidate]


def check_names(pair_sets: Iterable[PairSet]) -> None:
    """Refuse data sets that results could not be told apart by.

    Raises:
        MagicError: `argument_invalid` without data sets, or for two of one name.
    """
    names = [pair_set.name for pair_set in pair_sets]
    if not names or len(set(names)) < len(names):
        what = f"Two data sets are named {max(names, key=names.count)!r}." if names else "There are no data sets."
        raise MagicError(ErrorCode.ARGUMENT_INVALID, what, "Give the stage one or more sources with different names.")


def _query_keys(
    pairs: PairSet, candidates: Candidates, faults: dict[int, MagicError]
) -> tuple[list[str], NDArray[np.bytes_]]:
    """Return pair ids and keys of all queries; note why pairs are broken."""
    pair_ids = [""] * len(pairs)
    keys = np.zeros(len(pairs), f"S{KEY_BYTES}")
    for place, own in enumerate(candidates.own):
        try:
            pair = pairs[place]
            if own == BROKEN:
                pair.query.content_id()
                pair.positive.content_id()
                for negative in pair.negatives:
                    negative.content_id()
                raise MagicError(
                    ErrorCode.SOURCE_UNAVAILABLE, f"{pairs.name}, row {place} could not be read at first.", "Try again."
                )
            pair_ids[place] = pair.id
            keys[place] = vector_key(pair.query, candidates.query_ids[place])
        except MagicError as error:
            faults[place] = error
    return pair_ids, keys


def _within(seen: Places, truths: frozenset[int]) -> Places:
    """Return the places of truths in a pool of `seen` candidates (rising)."""
    wanted = np.fromiter(truths, np.int64)
    at = np.searchsorted(seen, wanted).clip(max=len(seen) - 1)
    return at[seen[at] == wanted]


def _named(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, of: progress(what, done, of)


def _check_share(pairs: PairSet, faults: dict[int, MagicError]) -> None:
    if len(faults) > MAX_BAD_SHARE * len(pairs):
        first = faults[min(faults)]
        raise MagicError(
            first.code,
            f"{pairs.name}: {len(faults):,} of {len(pairs):,} pairs are broken; the first: {first.message}",
            first.remedy,
        )
