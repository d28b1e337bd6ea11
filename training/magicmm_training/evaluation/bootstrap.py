"""Confidence intervals by resampling queries."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

ROUNDS = 1000
_TAIL = 2.5


class Interval(NamedTuple):
    """95 % of the resampled scores lie between these."""

    low: float
    high: float


def resampled(values: Numbers, weights: Numbers, seed: int, rounds: int = ROUNDS) -> Numbers:
    """Return the weighted mean of as many queries as there are, drawn with replacement, again and again.

    Args:
        values: float64 [n, m], m metrics of n queries.
        weights: float64 [n], the share of each query.
        seed: Of the draws.
        rounds: How often.

    Returns:
        float64 [rounds, m].
    """
    random = np.random.default_rng(seed)
    weighted = values * weights[:, None]
    means = np.empty((rounds, values.shape[1]))
    for row in means:
        drawn = np.bincount(random.integers(len(values), size=len(values)), minlength=len(values))
        row[:] = drawn @ weighted / (drawn @ weights)
    return means


def interval(replicates: Numbers) -> Interval:
    """Return the middle 95 % of resampled scores [rounds]."""
    low, high = np.percentile(replicates, [_TAIL, 100 - _TAIL])
    return Interval(float(low), float(high))
