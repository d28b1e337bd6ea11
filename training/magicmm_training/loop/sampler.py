"""Which samples make which batch: a pure function of (seed, step), the same for any number of processes.

Each data set is a stream of passes, every pass a new order of its samples cut into batches; a last batch that is not
full is completed with the first samples of the same pass. An epoch takes from each data set its share of batches, in
random order. Without weights that is every batch of one pass: each sample once, and at most one batch less one sample
of each data set twice. With weights the shares follow them, and a stream goes on in the next epoch where it stopped.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from magicmm.errors import ErrorCode, MagicError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from magicmm_training.loop.objective import SourceSpan


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """The samples of one step, over all processes.

    Attributes:
        epoch: From 0.
        source: Name of the data set, or None when the batch may mix several.
        places: Of the samples; processes take equal parts in order of rank.
    """

    epoch: int
    source: str | None
    places: tuple[int, ...]


def seeded(*parts: object) -> np.random.Generator:
    """Return a generator that depends on all parts and on nothing else."""
    return np.random.default_rng(seed_of(*parts))


def seed_of(*parts: object) -> int:
    """Return 63 bits that depend on all parts and on nothing else."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class BatchSampler:
    """Plans the batches of a run.

    Attributes:
        steps_per_epoch: Batches of an epoch.
    """

    def __init__(self, spans: Sequence[SourceSpan], batch: int, *, single_source: bool, seed: int) -> None:
        """Count batches.

        Args:
            spans: The data sets.
            batch: Samples of a step over all processes.
            single_source: Whether a batch holds samples of one data set only.
            seed: Of all orders.

        Raises:
            MagicError: `argument_invalid` without samples, for an empty data set, or when only some data sets have a
                weight.
        """
        _check(spans)
        self._spans, self._batch, self._seed = tuple(spans), batch, seed
        self._unit = batch if single_source else 1
        self._passes = [math.ceil((span.stop - span.start) / self._unit) for span in spans]
        self._shares = _shares(spans, self._passes)
        self._single_source = single_source
        self.steps_per_epoch = math.ceil(sum(self._shares) * self._unit / batch)
        self._order = lru_cache(2)(self._order_of_epoch)
        self._permutation = lru_cache(2 * len(self._spans))(self._permutation_of_pass)

    def batch(self, step: int) -> PlannedBatch:
        """Return the samples of a step, counted from 0 over all epochs."""
        epoch, within = divmod(step, self.steps_per_epoch)
        order = self._order(epoch)
        if self._single_source:
            source = int(order[within, 0])
            return PlannedBatch(epoch, self._spans[source].name, self._unit_places(epoch, *order[within]))
        rows = order[np.arange(within * self._batch, (within + 1) * self._batch) % len(order)]
        places = tuple(place for row in rows for place in self._unit_places(epoch, *row))
        return PlannedBatch(epoch, self._spans[0].name if len(self._spans) == 1 else None, places)

    def replacement(self, place: int, *parts: object) -> int:
        """Return another place of the same data set, for a sample that cannot be used."""
        span = self.span_of(place)
        return span.start + int(seeded(self._seed, "replacement", place, *parts).integers(span.stop - span.start))

    def span_of(self, place: int) -> SourceSpan:
        """Return the data set of a place."""
        return next(span for span in self._spans if span.start <= place < span.stop)

    def _unit_places(self, epoch: int, source: int, number: int) -> tuple[int, ...]:
        """Return the samples of one unit; `number` counts the units of a data set within the epoch."""
        source, overall = int(source), epoch * self._shares[source] + int(number)
        passed, within = divmod(overall, self._passes[source])
        order = self._permutation(source, passed)
        taken = order[np.arange(within * self._unit, (within + 1) * self._unit) % len(order)]
        return tuple(int(place) + self._spans[source].start for place in taken)

    def _permutation_of_pass(self, source: int, passed: int) -> NDArray[np.int64]:
        span = self._spans[source]
        return seeded(self._seed, "pass", span.name, passed).permutation(span.stop - span.start)

    def _order_of_epoch(self, epoch: int) -> NDArray[np.int64]:
        """Return int64 [units, 2]: data set and number within it, in the order in which they are taken."""
        units = np.concatenate(
            [np.stack([np.full(count, source), np.arange(count)], 1) for source, count in enumerate(self._shares)]
        )
        found: NDArray[np.int64] = units[seeded(self._seed, "epoch", epoch).permutation(len(units))]
        return found


def _check(spans: Sequence[SourceSpan]) -> None:
    if not spans:
        raise MagicError(ErrorCode.ARGUMENT_INVALID, "The stage has no data.", "Name one source or more.")
    for span in spans:
        if span.stop <= span.start:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID, f"The data set {span.name} is empty.", "Leave it out, or give it samples."
            )
    without = [span.name for span in spans if span.weight is None]
    if without and len(without) < len(spans):
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"Some data sets have a weight, {', '.join(without)} have none.",
            "Give all of them a weight, or none.",
        )


def _shares(spans: Sequence[SourceSpan], passes: Sequence[int]) -> list[int]:
    """Return the units that each data set gives to an epoch; an epoch is as long as one pass over everything."""
    if spans[0].weight is None:
        return list(passes)
    weights = np.array([span.weight for span in spans], float)
    exact = weights / weights.sum() * sum(passes)
    counts = np.floor(exact).astype(int)
    for place in np.argsort(counts - exact, kind="stable")[: sum(passes) - counts.sum()]:
        counts[place] += 1
    return [max(1, int(count)) for count in counts]
