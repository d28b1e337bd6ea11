"""Ranking metrics that ties cannot flatter.

Candidates with equal scores have no order. A metric is therefore given twice: *expected*, its mean over all orders of
the tied candidates, and *pessimistic*, the order in which relevant candidates come last among their equals. A model
that scores everything the same gets chance and 0, wherever the true candidate stands in the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from magicmm.errors import ErrorCode, MagicError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[np.float32] | NDArray[np.float64]


class Outcome(NamedTuple):
    """A metric of one query, 0 to 1."""

    expected: float
    pessimistic: float


@dataclass(frozen=True, slots=True)
class Group:
    """Candidates of one query that share a score.

    Attributes:
        above: How many candidates score higher.
        gains: float64, one a candidate, lowest first; 0 = not relevant.
    """

    above: int
    gains: NDArray[np.float64]

    @property
    def size(self) -> int:
        """How many candidates share the score."""
        return len(self.gains)

    @property
    def relevant(self) -> int:
        """How many of them are relevant."""
        return int(np.count_nonzero(self.gains))


@dataclass(frozen=True, slots=True)
class Ranking:
    """The best candidates of one query.

    Attributes:
        groups: Best first, as far down as the deepest metric looks.
        relevant: Gains of all relevant candidates, those below that depth too; highest first.
    """

    groups: tuple[Group, ...]
    relevant: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric at a depth.

    Attributes:
        kind: Of `KINDS`: "hit" = a relevant candidate among the first k (recall@K of the caption literature),
            "precision" = share of the first k that is relevant, "recall" = share of the relevant among the first k,
            "ndcg" = discounted gain over the ideal one, gain linear as in trec_eval.
        k: The depth.
    """

    kind: str
    k: int

    @classmethod
    def parse(cls, name: str) -> Metric:
        """Read a name such as "hit@1".

        Raises:
            MagicError: `argument_invalid` for an unknown metric.
        """
        found = re.fullmatch(r"([a-z]+)@([1-9][0-9]*)", name)
        if found is None or found[1] not in KINDS:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID, f"There is no metric {name!r}.", f"Use one of {', '.join(KINDS)}, then @k."
            )
        return cls(found[1], int(found[2]))

    def __str__(self) -> str:
        """Return the name that `parse` reads."""
        return f"{self.kind}@{self.k}"

    def of(self, ranking: Ranking) -> Outcome:
        """Return the metric of one query."""
        return KINDS[self.kind](ranking, self.k)


def rank(scores: Numbers, gains: NDArray[np.float64], depth: int) -> Ranking:
    """Group the best candidates by score.

    Args:
        scores: float [n], higher is better.
        gains: float64 [n]; more than 0 = relevant.
        depth: The largest k that will be asked for.

    Raises:
        MagicError: `runtime_failed` for a score that is no number, `argument_invalid` for a query without relevant
            candidates or with gains below 0.
    """
    if not np.isfinite(scores).all():
        raise MagicError(
            ErrorCode.RUNTIME_FAILED,
            f"{np.count_nonzero(~np.isfinite(scores)):,} of {len(scores):,} scores are no finite numbers.",
            "Look for overflow in the model; no metric is defined on them.",
        )
    if len(gains) != len(scores) or not (gains >= 0).all() or not gains.any():
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"{np.count_nonzero(gains > 0)} of {len(gains)} candidates are relevant, {np.count_nonzero(gains < 0)} "
            f"have a negative gain, {len(scores)} have a score.",
            "Leave queries without relevant candidates out, and count them.",
        )
    relevant = -np.sort(-gains[gains > 0].astype(np.float64))
    if depth < len(scores):
        lowest = np.partition(scores, len(scores) - depth)[len(scores) - depth]
        kept = scores >= lowest
        scores, gains = scores[kept], gains[kept]
    order = np.lexsort((gains, -scores))
    ordered = scores[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    parts = np.split(gains[order].astype(np.float64), starts[1:])
    return Ranking(tuple(Group(int(start), part) for start, part in zip(starts, parts, strict=True)), relevant)


def hit(ranking: Ranking, k: int) -> Outcome:
    """Return the chance that a relevant candidate is among the first k."""
    group = next((group for group in ranking.groups if group.relevant), None)
    if group is None or group.above >= k:
        return Outcome(0.0, 0.0)
    places, others = k - group.above, group.size - group.relevant
    missed = math.comb(others, places) / math.comb(group.size, places) if places < group.size else 0.0
    return Outcome(1.0 - missed, float(others < places))


def precision(ranking: Ranking, k: int) -> Outcome:
    """Return the share of the first k that is relevant; a pool of fewer than k leaves places empty."""
    found = _found(ranking, k)
    return Outcome(found.expected / k, found.pessimistic / k)


def recall(ranking: Ranking, k: int) -> Outcome:
    """Return the share of relevant candidates that is among the first k."""
    found = _found(ranking, k)
    return Outcome(found.expected / len(ranking.relevant), found.pessimistic / len(ranking.relevant))


def ndcg(ranking: Ranking, k: int) -> Outcome:
    """Return the gain of the first k, each divided by log2(rank + 1), over that of the best order."""
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = float(ranking.relevant[:k] @ discounts[: len(ranking.relevant)])
    expected = pessimistic = 0.0
    for group in ranking.groups:
        weights = discounts[group.above : group.above + group.size]
        # Every order is equally likely, so each place of the group holds its mean gain.
        expected += float(group.gains.mean() * weights.sum())
        pessimistic += float(group.gains[: len(weights)] @ weights)
    return Outcome(expected / ideal, pessimistic / ideal)


KINDS: Mapping[str, Callable[[Ranking, int], Outcome]] = {
    "hit": hit,
    "precision": precision,
    "recall": recall,
    "ndcg": ndcg,
}


def _found(ranking: Ranking, k: int) -> Outcome:
    """Return how many relevant candidates are among the first k."""
    expected = pessimistic = 0.0
    for group in ranking.groups:
        places = min(max(k - group.above, 0), group.size)
        expected += group.relevant * places / group.size
        pessimistic += max(places - (group.size - group.relevant), 0)
    return Outcome(expected, pessimistic)
