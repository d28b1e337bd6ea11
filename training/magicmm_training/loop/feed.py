"""Samples of a process's share of each batch: read ahead in threads, broken ones replaced and counted."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.loop.sampler import seed_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from magicmm_training.loop.engine import ProcessEngine
    from magicmm_training.loop.objective import Objective
    from magicmm_training.loop.sampler import BatchSampler

_ATTEMPTS = 20
"""Samples of a data set that are tried for one place of a batch."""
_REASONS = 5
"""Reasons that an error lists."""
_THREADS = 4
"""Decoding and resizing of pictures release Python's lock."""


@dataclass(frozen=True, slots=True)
class FedBatch:
    """One process's share of a batch.

    Attributes:
        epoch: From 0.
        source: Name of the data set, or None for a mixture.
        places: Of the samples, after replacements.
        samples: What the objective read there.
    """

    epoch: int
    source: str | None
    places: tuple[int, ...]
    samples: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Fetched:
    place: int
    sample: Any
    reasons: tuple[str, ...]


class SampleFeed:
    """Gives the samples of any step; which ones depends on nothing but seed and step.

    Attributes:
        seen: Samples tried so far, over all processes.
        bad: Of these, how many could not be used.
    """

    def __init__(
        self, objective: Objective, sampler: BatchSampler, engine: ProcessEngine, *, seed: int, max_bad_share: float
    ) -> None:
        """Start the threads.

        Args:
            objective: Reads samples.
            sampler: Plans batches.
            engine: Of the loop.
            seed: Of the run.
            max_bad_share: Of all samples (of those tried, once these are more); with more bad ones the run stops.
        """
        self.seen = self.bad = 0
        self._objective, self._sampler, self._engine = objective, sampler, engine
        self._seed, self._most = seed, max_bad_share
        self._pool = ThreadPoolExecutor(_THREADS)
        self._ahead: dict[int, list[Future[_Fetched]]] = {}

    def batch(self, step: int, *, last: bool) -> FedBatch:
        """Return this process's share of a step, and begin to read the next unless it is the last.

        Raises:
            MagicError: `source_unavailable` when too many samples are broken, in all processes alike.
        """
        futures = self._ahead.pop(step, None) or self._start(step)
        if not last:
            self._ahead[step + 1] = self._start(step + 1)
        fetched = [future.result() for future in futures]
        self._count(fetched)
        planned = self._sampler.batch(step)
        return FedBatch(
            planned.epoch,
            planned.source,
            tuple(one.place for one in fetched),
            tuple(one.sample for one in fetched),
        )

    def counters(self) -> dict[str, int]:
        """Return what was tried and what was broken so far."""
        return {"samples": self.seen, "bad_samples": self.bad}

    def resume(self, counters: Mapping[str, int]) -> None:
        """Go on counting from an earlier run; nothing counts as 0."""
        self.seen, self.bad = counters.get("samples", 0), counters.get("bad_samples", 0)

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _start(self, step: int) -> list[Future[_Fetched]]:
        places = self._sampler.batch(step).places
        each = len(places) // self._engine.processes
        slots = range(self._engine.rank * each, (self._engine.rank + 1) * each)
        return [self._pool.submit(self._fetch, step, slot, places[slot]) for slot in slots]

    def _fetch(self, step: int, slot: int, place: int) -> _Fetched:
        reasons: list[str] = []
        for attempt in range(_ATTEMPTS):
            try:
                sample = self._objective.sample(place, seed_of(self._seed, "sample", step, slot))
                return _Fetched(place, sample, tuple(reasons))
            except MagicError as error:
                span = self._sampler.span_of(place)
                reasons.append(f"{span.name}, row {place - span.start}: {error.message}")
                place = self._sampler.replacement(place, step, slot, attempt)
        return _Fetched(place, None, tuple(reasons))

    def _count(self, fetched: Sequence[_Fetched]) -> None:
        reasons = [reason for one in fetched for reason in one.reasons]
        missing = sum(one.sample is None for one in fetched)
        counts = torch.tensor([[len(reasons), len(fetched) - missing, missing]], device=self._engine.device)
        bad, good, missing = self._engine.gather(counts).sum(0).tolist()
        self.bad += bad
        self.seen += bad + good
        if missing or self.bad > self._most * max(self.seen, len(self._objective)):
            first = self._engine.gather_objects(reasons)[:_REASONS]
            raise MagicError(
                ErrorCode.SOURCE_UNAVAILABLE,
                f"{self.bad:,} of {self.seen:,} samples were broken, allowed are {self._most:.2%} of "
                f"{max(self.seen, len(self._objective)):,}. The first: " + " | ".join(first),
                "Repair the data (magicmm-train data check lists it), or raise max_bad_share.",
            )
