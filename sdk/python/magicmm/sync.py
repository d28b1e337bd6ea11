"""Bring the index up to date with its sources: decode ahead, embed in batches, commit each batch whole.

Order of events, chosen so that a kill at any moment loses nothing and at most one batch of work:
 1. look what is new, changed, gone; forget at once what is gone and cannot have moved;
 2. for each new or changed file: known content keeps its vector (moved, copied, touched), the rest is embedded;
 3. forget what is gone for good; write the scan file.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from magicmm.prefetch import prefetch
from magicmm.results import Progress, Skip
from magicmm.sync_prepare import Outcome, Preparer, Task
from magicmm.sync_write import Writer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magicmm.embedder import Embedder
    from magicmm.index import Index
    from magicmm.records import Model, PhotoFacts
    from magicmm.sources import PhotoSource

BATCH = 16
"""Photos a model call and a transaction."""
_COMMIT_SECONDS = 2.0
_MOST_OUTCOMES = 512
"""Files a transaction when none of them needs the model."""
_WINDOW = 4 * BATCH


@dataclass(frozen=True, slots=True)
class Budget:
    """When a sync stops by itself; what it did until then is kept, and the next sync goes on.

    Attributes:
        seconds: Stop after this time.
        files: Stop after this many files.
    """

    seconds: float | None = None
    files: int | None = None


@dataclass
class Counts:
    """Running totals of a sync; `Progress` is made from them."""

    total: int
    unavailable: tuple[str, ...]
    kinds: Counter[str] = field(default_factory=Counter)
    removed: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def done(self) -> int:
        """Files dealt with."""
        return self.kinds.total()

    def add(self, committed: tuple[list[str], list[Skip]]) -> Progress:
        """Count what a commit wrote and return the event for it: what is reported is on disk."""
        kinds, skips = committed
        self.kinds.update(kinds)
        return self.progress(skips)

    def progress(self, skips: Sequence[Skip] = ()) -> Progress:
        """Return the event for what is committed by now."""
        elapsed = time.monotonic() - self.started
        rate = self.done / elapsed if elapsed > 0 else 0.0
        return Progress(
            done=self.done,
            total=self.total,
            embedded=self.kinds["embedded"],
            reused=self.kinds["reused"],
            removed=self.removed,
            skipped=self.kinds["skipped"],
            rate=rate,
            eta_seconds=(self.total - self.done) / rate if rate > 0 else None,
            skips=tuple(skips),
            unavailable=self.unavailable,
        )


def run_sync(
    index: Index, model: Model, embedder: Embedder, sources: Sequence[PhotoSource], budget: Budget
) -> Iterator[Progress]:
    """Yield one `Progress` at the start and one after each commit. The caller holds the index's lock."""
    tasks, removed, unavailable = find_work(index, model, sources)
    counts = Counts(len(tasks), tuple(unavailable))
    known = index.known_hashes(model) if tasks else set()
    prepare = Preparer(embedder, known.__contains__)
    sizes = {task.ref.stamp.bytes for task in tasks}
    writer = Writer(index, model, embedder, prepare, sizes)
    yield counts.progress()
    perhaps_moved = _remove_at_once(index, sizes, removed, counts)
    for photo_id, facts in perhaps_moved:
        if facts.reason is None and facts.hash is not None:
            writer.vanished.setdefault(facts.hash, []).append(photo_id)
    todo = tasks if budget.files is None else tasks[: max(0, budget.files)]
    yield from _run_tasks(todo, prepare, writer, counts, budget)
    if counts.done == len(tasks) and perhaps_moved:
        gone = [facts.uri for _, facts in perhaps_moved]
        before = index.count_photos()
        with index.transaction():
            index.remove_photos(gone)  # a moved photo's row has another URI by now
            index.bump_generation()
        counts.removed += before - index.count_photos()
    yield counts.progress()


def _run_tasks(
    tasks: Sequence[Task], prepare: Preparer, writer: Writer, counts: Counts, budget: Budget
) -> Iterator[Progress]:
    """Work through the tasks as far as the budget of time allows."""
    waiting: list[Outcome] = []
    to_embed, committed = 0, time.monotonic()
    outcomes = prefetch(tasks, prepare, workers=max(2, os.cpu_count() or 1), window=_WINDOW)
    try:
        for outcome in outcomes:
            waiting.append(outcome)
            to_embed += outcome.pixels is not None
            is_due = time.monotonic() - committed > _COMMIT_SECONDS
            if to_embed >= BATCH or len(waiting) >= _MOST_OUTCOMES or is_due:
                yield counts.add(writer.commit(waiting))
                waiting, to_embed, committed = [], 0, time.monotonic()
                if budget.seconds is not None and time.monotonic() - counts.started >= budget.seconds:
                    return
        if waiting:
            yield counts.add(writer.commit(waiting))
    finally:
        outcomes.close()


def find_work(
    index: Index, model: Model | None, sources: Sequence[PhotoSource]
) -> tuple[list[Task], list[str], list[str]]:
    """Compare sources and index: tasks (new and changed files), URIs that are gone, places that cannot be read."""
    tasks: list[Task] = []
    removed: list[str] = []
    unavailable: list[str] = []
    for source in sources:
        ids = index.photo_ids(source.uri)
        changes = source.changes(index.stamps(source.uri, model), ids.keys())
        tasks += [Task(source, ref, None) for ref in changes.new]
        tasks += [Task(source, ref, ids[ref.uri]) for ref in changes.changed]
        removed += changes.removed
        unavailable += changes.unavailable
    # Photos that failed before come last: they must not use up a budget that others could have.
    failed = index.skipped_ids()
    tasks.sort(key=lambda task: task.photo_id in failed)
    # A source of another kind than folders is reachable only when the caller brings it.
    reachable = tuple(source.uri for source in sources)
    unavailable += [uri for uri in index.sources() if not uri.startswith(reachable)]
    return tasks, removed, unavailable


def _remove_at_once(
    index: Index, sizes: Set[int], removed: Sequence[str], counts: Counts
) -> list[tuple[int, PhotoFacts]]:
    """Forget photos that are gone, but for those that a file of the same size (of `sizes`) might turn out to be."""
    gone: list[str] = []
    perhaps_moved: list[tuple[int, PhotoFacts]] = []
    for uri in removed:
        photo_id = index.photo_id(uri)
        facts = None if photo_id is None else index.photo_facts(photo_id)
        if photo_id is not None and facts is not None and facts.stamp.bytes in sizes:
            perhaps_moved.append((photo_id, facts))
        else:
            gone.append(uri)
    if gone:
        with index.transaction():
            index.remove_photos(gone)
            index.bump_generation()
        counts.removed += len(gone)
    return perhaps_moved
