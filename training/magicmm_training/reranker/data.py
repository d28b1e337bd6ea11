"""What the reranker learns from: judged queries, of which each look draws some candidates (paper 3.4)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

import numpy as np

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.loop.objective import SourceSpan
from magicmm_training.mining.choice import chance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from magicmm_training.entries import Entry, Pair, PairSet
    from magicmm_training.mining.negative_rows import NegativeRef, NegativesRow
    from magicmm_training.recipe import Source


class Judged(Protocol):
    """Where judged candidates come from: `mining.negatives.Negatives`."""

    fingerprint: str

    def places(self, dataset: str) -> NDArray[np.int64]:
        """Return the places of all queries that have negatives."""
        ...

    def row(self, dataset: str, query_id: str) -> NegativesRow | None:
        """Return what is known about a query."""
        ...

    def resolve(self, dataset: str, ref: NegativeRef) -> Entry:
        """Return the candidate at a place."""
        ...


@dataclass(frozen=True, slots=True)
class Drawn:
    """A query with the candidates of one look at it.

    Attributes:
        dataset: Its data set.
        id: Of its pair.
        query: The query.
        positive: The true target, or a candidate that the judge approved.
        negatives: Rejected candidates in random order; the first one is the pointwise question's.
        place: Of the positive among the negatives in the list.
    """

    dataset: str
    id: str
    query: Entry
    positive: Entry
    negatives: tuple[Entry, ...]
    place: int


class JudgedQueries:
    """All queries with a rejected candidate, one data set after the other.

    Attributes:
        spans: Where each data set lies.
        fingerprint: Of data and judgement.
    """

    def __init__(self, data: Sequence[tuple[Source, PairSet]], judged: Judged) -> None:
        """Line them up.

        Raises:
            MagicError: `argument_invalid` when no query of the data has a rejected candidate.
        """
        found = [(source, pairs, judged.places(pairs.name)) for source, pairs in data]
        kept = [(source, pairs, places) for source, pairs, places in found if len(places)]
        if not kept:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                "The judge rejected no candidate of any query of this data.",
                "Give the reranker the data that was judged.",
            )
        self._judged = judged
        self._sets = [pairs for _, pairs, _ in kept]
        self._places = [places for _, _, places in kept]
        self._stops = list(accumulate(map(len, self._places)))
        starts = [0, *self._stops]
        self.spans = tuple(
            SourceSpan(pairs.name, starts[number], starts[number + 1], source.weight)
            for number, (source, pairs, _) in enumerate(kept)
        )
        names = repr([(pairs.name, pairs.fingerprint, source.weight, source.max_tiles) for source, pairs, _ in kept])
        self.fingerprint = hashlib.sha256(f"{names} {judged.fingerprint}".encode()).hexdigest()[:32]

    def __len__(self) -> int:
        """Return how many queries there are."""
        return self._stops[-1]

    def draw(self, place: int, counts: tuple[int, int], seed: int) -> Drawn:
        """Draw candidates for a query; the same place and seed always give the same.

        Args:
            place: Among all queries.
            counts: Fewest and most negatives; a query with fewer gives all.
            seed: Of this look.

        Raises:
            MagicError: For a broken row.
        """
        number = int(np.searchsorted(self._stops, place, "right"))
        start = self._stops[number] - len(self._places[number])
        pairs = self._sets[number]
        pair = pairs[int(self._places[number][place - start])]
        row = self._judged.row(pairs.name, pair.id)
        if row is None or not row.negatives:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"Pair {pair.id!r} of {pairs.name} is not the one that was judged.",
                "Run the judge stage again on this data.",
            )
        bits = chance(seed, pairs.name, pair.id)
        order = np.argsort(bits.random_raw(len(row.negatives)), kind="stable")
        wanted, which, where = bits.random_raw(3).tolist()
        count = min(counts[0] + wanted % (counts[1] - counts[0] + 1), len(order))
        negatives = tuple(self._judged.resolve(pairs.name, row.negatives[at]) for at in order[:count])
        return Drawn(pairs.name, pair.id, pair.query, self._positive(pair, row, which), negatives, where % (count + 1))

    def _positive(self, pair: Pair, row: NegativesRow, which: int) -> Entry:
        number = which % (1 + len(row.approved))
        return pair.positive if number == 0 else self._judged.resolve(row.dataset, row.approved[number - 1])
