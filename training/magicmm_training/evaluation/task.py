"""What a benchmark asks: queries, candidates, and which candidates are right.

Every benchmark here is a ranking, SugarCrepe too: a caption and its twist are a pool of two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from magicmm.errors import ErrorCode, MagicError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from magicmm_training.entries import Entry
    from magicmm_training.evaluation.metrics import Metric

    Places = NDArray[np.int64]

MISSING = b""
"""Stands for a picture that a reader did not find: the evaluation leaves the entry out and counts it."""


@dataclass(frozen=True, slots=True)
class Pools:
    """Which candidates compete for a query, when these are not all.

    Attributes:
        members: Places among the candidates, one array a pool, each place once.
        of_query: For each query, its pool.
    """

    members: tuple[Places, ...]
    of_query: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Retrieval:
    """The content of a task.

    Attributes:
        query_ids: Unique names of the queries.
        queries: What is searched with.
        candidates: What may be found; a place in this sequence names one.
        relevant: For each query, place of a right candidate -> gain.
        pools: None = every query ranks all candidates.
        average: "queries" = plain mean, "pools" = mean over pools of the mean over their queries (five folds of COCO).
        documents: For each candidate, the document that it is a picture of, when a document may have several: it then
            counts once, with its best score. None = each is its own.
        facts: What the reader counted, such as queries without answer.
    """

    query_ids: tuple[str, ...]
    queries: Sequence[Entry]
    candidates: Sequence[Entry]
    relevant: tuple[Mapping[int, float], ...]
    pools: Pools | None = None
    average: Literal["queries", "pools"] = "queries"
    documents: tuple[int, ...] | None = None
    facts: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a task that cannot be scored."""
        if not self.queries or not self.candidates:
            raise _broken(f"There are {len(self.queries)} queries and {len(self.candidates)} candidates.")
        if len(set(self.query_ids)) != len(self.queries) or len(self.relevant) != len(self.queries):
            raise _broken(
                f"{len(self.queries)} queries have {len(set(self.query_ids))} different ids and {len(self.relevant)} "
                "sets of labels."
            )
        if self.documents is not None and len(self.documents) != len(self.candidates):
            raise _broken(f"{len(self.candidates)} candidates have {len(self.documents)} documents.")
        self._check_pools()
        for place, labels in enumerate(self.relevant):
            if not labels:
                raise _broken(f"Query {self.query_ids[place]!r} has no right candidate.")
            pool = self.pool(place)
            outside = [label for label in labels if not 0 <= label < len(self.candidates)]
            if outside or (pool is not None and not np.isin(list(labels), pool).all()):
                raise _broken(f"A label of query {self.query_ids[place]!r} is not among its candidates.")

    def pool(self, query: int) -> Places | None:
        """Return the places that compete for a query; None = all."""
        return None if self.pools is None else self.pools.members[self.pools.of_query[query]]

    def _check_pools(self) -> None:
        if self.pools is None:
            return
        members, of_query = self.pools.members, self.pools.of_query
        sound = len(of_query) == len(self.queries) and all(0 <= pool < len(members) for pool in of_query)
        if not sound or not all(_is_pool(places, len(self.candidates)) for places in members):
            raise _broken("The pools name queries or candidates that are not there, or a candidate twice.")


@dataclass(frozen=True, slots=True)
class Average:
    """A mean over tasks, such as MMEB's "IND".

    Attributes:
        name: Of the mean.
        tasks: How many tasks the published mean is over; a mean of fewer is marked as partial.
    """

    name: str
    tasks: int


@dataclass(frozen=True, slots=True)
class EvaluationTask:
    """One data set in one direction.

    Attributes:
        name: Unique within its benchmark, for example "MSCOCO image to text".
        benchmark: Name of the benchmark in the recipe.
        metrics: What is computed.
        main: The one that means are taken of.
        load: Reads the content; called when it is needed, since a corpus of pages fills gigabytes.
        averages: The means that the main metric enters.
        strict: Ties count as wrong: the pessimistic value is the score (SugarCrepe).
        expected: Queries of the published files; other counts are an error. None = any number.
    """

    name: str
    benchmark: str
    metrics: tuple[Metric, ...]
    main: Metric
    load: Callable[[], Retrieval]
    averages: tuple[Average, ...] = ()
    strict: bool = False
    expected: int | None = None

    def open(self) -> Retrieval:
        """Load the content and compare its size with the published one.

        Raises:
            MagicError: `argument_invalid` for a wrong number of queries; what the reader raises.
        """
        content = self.load()
        if self.expected is not None and len(content.queries) != self.expected:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"{self.benchmark}/{self.name} has {len(content.queries):,} queries, the published files have "
                f"{self.expected:,}.",
                "Restore the files, or set the benchmark's option `partial: true` to score what there is.",
            )
        return content


def entries_of(task: EvaluationTask) -> Iterator[Entry]:
    """Give all queries and candidates of a task, for the check that none was trained on."""
    content = task.open()
    yield from content.queries
    yield from content.candidates


def _is_pool(places: Places, candidates: int) -> bool:
    inside = len(places) > 0 and int(places.min()) >= 0 and int(places.max()) < candidates
    return inside and len(np.unique(places)) == len(places)


def _broken(message: str) -> MagicError:
    return MagicError(ErrorCode.ARGUMENT_INVALID, message, "Look at the benchmark's files.")
