"""Several data sets as one list of places."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from magicmm_training.loop.objective import SourceSpan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magicmm_training.recipe import Source

Row = TypeVar("Row", covariant=True)


class MapStyle(Protocol[Row]):
    """What a `PairSet` and a `ConversationSet` have in common."""

    name: str
    fingerprint: str

    def __len__(self) -> int:
        """Return how many rows there are."""
        ...

    def __getitem__(self, place: int) -> Row:
        """Return a row."""
        ...


class JoinedSets(Generic[Row]):
    """Rows of all data sets, one after the other.

    Attributes:
        spans: Where each data set lies.
        fingerprint: Of all of them and their weights.
    """

    def __init__(self, data: Sequence[tuple[Source, MapStyle[Row]]]) -> None:
        """Line them up.

        Args:
            data: Each data set with the source that it was opened from.
        """
        self._sets = [rows for _, rows in data]
        self._starts: list[int] = []
        spans, start = [], 0
        for source, rows in data:
            self._starts.append(start)
            spans.append(SourceSpan(rows.name, start, start + len(rows), source.weight))
            start += len(rows)
        self.spans = tuple(spans)
        self._length = start
        names = repr([(rows.name, rows.fingerprint, source.weight, source.max_tiles) for source, rows in data])
        self.fingerprint = hashlib.sha256(names.encode()).hexdigest()[:32]

    def __len__(self) -> int:
        """Return how many rows there are."""
        return self._length

    def __getitem__(self, place: int) -> Row:
        """Return a row; see the data set for errors."""
        number = self.number(place)
        return self._sets[number][place - self._starts[number]]

    def number(self, place: int) -> int:
        """Return which data set a place belongs to."""
        return bisect_right(self._starts, place) - 1
