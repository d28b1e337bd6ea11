"""The distinct candidates of a data set, and which of them are true for each query; mining and the judge start here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, overload

from magicmm.errors import ErrorCode, MagicError

if TYPE_CHECKING:
    from magicmm_training.entries import Entry, Pair, PairSet

POSITIVE = "positive"
_NEGATIVE = "negative:"
BROKEN = -1
"""Candidate place of a pair that cannot be read."""


class CandidateRef(NamedTuple):
    """Where a candidate stands in its pair set.

    Attributes:
        place: Of the pair.
        part: "positive", or "negative:K" for the K-th explicit negative, from 0.
    """

    place: int
    part: str


@dataclass(frozen=True, slots=True)
class Candidates:
    """All candidates of one data set, each once however many pairs bring it.

    Attributes:
        refs: Where each candidate was found first.
        ids: Its content id.
        query_ids: Content id of each pair's query; "" for a pair that cannot be read.
        own: Place among the candidates of each pair's positive; `BROKEN` for a pair that cannot be read.
        truths: For each pair, all candidates that are true: the positives of every query with the same content, and the
            candidate that is the query itself, if there is one. None of them may serve as a negative.
        entries: The candidates, read when asked for.
    """

    refs: tuple[CandidateRef, ...]
    ids: tuple[str, ...]
    query_ids: tuple[str, ...]
    own: tuple[int, ...]
    truths: tuple[frozenset[int], ...]
    entries: CandidateEntries = field(repr=False)

    @classmethod
    def of(cls, pairs: PairSet) -> Candidates:
        """Read a data set once, pictures included, and sort out its candidates.

        Pairs that cannot be read are left out; `own` tells which.
        """
        refs: list[CandidateRef] = []
        places: dict[str, int] = {}
        query_ids: list[str] = []
        own: list[int] = []
        true_for: defaultdict[str, set[int]] = defaultdict(set)
        for place in range(len(pairs)):
            try:
                pair = pairs[place]
                query_id = pair.query.content_id()
                found = [(part, entry.content_id()) for part, entry in parts_of(pair)]
            except MagicError:
                query_ids.append("")
                own.append(BROKEN)
                continue
            for part, content in found:
                if content not in places:
                    places[content] = len(refs)
                    refs.append(CandidateRef(place, part))
            own.append(places[found[0][1]])
            query_ids.append(query_id)
            true_for[query_id].add(own[-1])
        for query_id, true in true_for.items():
            if query_id in places:
                true.add(places[query_id])
        shared = {query_id: frozenset(true) for query_id, true in true_for.items()}
        truths = tuple(shared.get(query_id, frozenset()) for query_id in query_ids)
        return cls(
            tuple(refs), tuple(places), tuple(query_ids), tuple(own), truths, CandidateEntries(pairs, tuple(refs))
        )


class CandidateEntries(Sequence["Entry"]):
    """Candidates as entries; only references are kept."""

    def __init__(self, pairs: PairSet, refs: Sequence[CandidateRef]) -> None:
        """Keep the pair set and the references into it."""
        self._pairs = pairs
        self._refs = refs

    def __len__(self) -> int:
        return len(self._refs)

    @overload
    def __getitem__(self, place: int) -> Entry: ...

    @overload
    def __getitem__(self, place: slice) -> list[Entry]: ...

    def __getitem__(self, place: int | slice) -> Entry | list[Entry]:
        """Read one candidate, or some.

        Raises:
            MagicError: When the row has become unreadable.
        """
        if isinstance(place, slice):
            return [self._read(ref) for ref in self._refs[place]]
        return self._read(self._refs[place])

    def _read(self, ref: CandidateRef) -> Entry:
        return part_of(self._pairs[ref.place], ref.part)


def parts_of(pair: Pair) -> Iterator[tuple[str, Entry]]:
    """Give the candidates of a pair with their names, the positive first."""
    yield POSITIVE, pair.positive
    for place, entry in enumerate(pair.negatives):
        yield f"{_NEGATIVE}{place}", entry


def part_of(pair: Pair, part: str) -> Entry:
    """Return the candidate of a pair that a name stands for.

    Raises:
        MagicError: `argument_invalid` when there is none.
    """
    for name, entry in parts_of(pair):
        if name == part:
            return entry
    raise MagicError(
        ErrorCode.ARGUMENT_INVALID,
        f"Pair {pair.id!r} of {pair.dataset} has no part {part!r}.",
        "The data have changed since the references were written: run the stage that wrote them again.",
    )
