"""Scores a model on benchmarks: embeds each content once, ranks, resamples, averages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.evaluation.averages import MeanParts, Summary, reported, summarise
from magicmm_training.evaluation.benchmarks.registry import open_benchmark
from magicmm_training.evaluation.grid import Storage, storages
from magicmm_training.evaluation.rerank import PairScorer, Reordering
from magicmm_training.evaluation.result import EvaluationResult, GridCell, RerankCost, TaskResult
from magicmm_training.evaluation.scoring import Vectors, collapse_warnings, score, usable_queries
from magicmm_training.evaluation.task_vectors import EntryVectors, JoinedEntries, embed_entries
from magicmm_training.mining.vectors import VectorCache

if TYPE_CHECKING:
    from magicmm_training.entries import Entry, EntryEmbedder
    from magicmm_training.evaluation.task import EvaluationTask, Retrieval
    from magicmm_training.recipe import Benchmark

Progress = Callable[[str, int, int], None]
"""Told a task, how many of its entries are embedded, and how many there are."""


@runtime_checkable
class KnowsTruncation(Protocol):
    """An embedder that can say which texts it cuts."""

    def truncates(self, entry: Entry) -> bool:
        """Return whether the entry's text is longer than what the model reads."""
        ...


@runtime_checkable
class TakesNotes(Protocol):
    """An embedder that has something to say about what it was given."""

    def note(self, entry: Entry) -> None:
        """Look at an entry, whether its vector is made now or was kept."""
        ...

    def notes(self) -> tuple[str, ...]:
        """Return it, for example instructions that a bundle has no role for."""
        ...


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """How a model is scored.

    Attributes:
        batch: Entries that the model gets at a time.
        rerank_top: How many candidates the reranker reorders (paper: 5).
        dims: Numbers of a vector to keep, for the grid.
        precisions: Of stored vectors, for the grid.
        max_bad_share: Share of a task's entries that may be unreadable before the evaluation stops.
        seed: Of resampling, and of the order of equal scores at the reranker's cut.
    """

    batch: int = 32
    rerank_top: int = 5
    dims: tuple[int, ...] = ()
    precisions: tuple[str, ...] = ()
    max_bad_share: float = 0.01
    seed: int = 0


def evaluate(
    embedder: EntryEmbedder,
    benchmarks: Sequence[Benchmark],
    root: Path,
    reranker: PairScorer | None = None,
    options: EvaluationOptions | None = None,
    vectors: Path | None = None,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Score a model.

    Args:
        embedder: The model.
        benchmarks: What is measured.
        root: Folder that relative paths of benchmarks begin at.
        reranker: Reorders the best candidates; values with and without it are given.
        options: How.
        vectors: Folder that keeps vectors, so that a run that was stopped goes on, and another embeds less.
        progress: For a progress bar.

    Raises:
        MagicError: `argument_invalid` (nothing to measure, broken files, wrong size), `image_invalid` (more unreadable
            pictures than allowed), `runtime_failed` (numbers that are not finite), `source_unavailable`.
    """
    tasks = [task for benchmark in benchmarks for task in open_benchmark(benchmark, root)]
    if not tasks:
        raise MagicError(ErrorCode.ARGUMENT_INVALID, "There is no benchmark.", "Name at least one.")
    chosen = options or EvaluationOptions()
    with TemporaryDirectory() as fleeting:
        cache = VectorCache(vectors or Path(fleeting), embedder, chosen.batch)
        run = _Run(embedder, reranker, chosen, cache, progress)
        for task in tasks:
            run.add(task)
        return run.result()


class _Run:
    """One evaluation."""

    def __init__(
        self,
        embedder: EntryEmbedder,
        reranker: PairScorer | None,
        options: EvaluationOptions,
        cache: VectorCache,
        progress: Progress | None,
    ) -> None:
        self._embedder = embedder
        self._options = options
        self._cache = cache
        self._progress = progress
        self._reordering = None if reranker is None else Reordering(reranker, options.rerank_top, options.seed)
        wanted = bool(options.dims or options.precisions)
        grid = storages(options.dims, options.precisions, embedder.dim) if wanted else []
        self._grid: dict[Storage, dict[str, float]] = {storage: {} for storage in grid}
        self._tasks: list[TaskResult] = []
        self._means: dict[tuple[str, str], MeanParts] = {}
        self._embedded = 0
        self._seconds = 0.0

    def add(self, task: EvaluationTask) -> None:
        """Score one task."""
        content = task.open()
        embedded = self._embed(task, content)
        vectors = _split(embedded, len(content.queries))
        if not usable_queries(content, vectors):
            raise MagicError(
                ErrorCode.IMAGE_INVALID,
                f"No query of {task.benchmark}/{task.name} can be scored: {embedded.reason}.",
                "Restore the benchmark's pictures.",
            )
        scored = score(content, vectors, task.metrics)
        summary = summarise(task, scored, self._options.seed)
        reranked = None
        if self._reordering is not None:
            reordered = score(content, vectors, task.metrics, self._reordering)
            reranked = summarise(task, reordered, self._options.seed)
        self._average(task, summary, reranked)
        for storage, scores in self._grid.items():
            coarse = score(content, _stored(storage, vectors), [task.main])
            scores[f"{task.benchmark}/{task.name}"] = float(
                np.average(reported(task, coarse, task.main), weights=coarse.weights)
            )
        sides = {"query": embedded.rows[: len(content.queries)], "candidate": embedded.rows[len(content.queries) :]}
        distinct = {side: embedded.different[np.unique(rows[rows >= 0])] for side, rows in sides.items()}
        self._tasks.append(
            TaskResult(
                benchmark=task.benchmark,
                name=task.name,
                main=str(task.main),
                values=summary.values,
                queries=len(content.queries),
                scored=len(scored.kept),
                candidates=len(content.candidates),
                mean_pool=scored.mean_pool,
                unreadable_queries=int(np.count_nonzero(~vectors.query_ok)),
                unreadable_candidates=int(np.count_nonzero(~vectors.candidate_ok)),
                truncated=embedded.truncated,
                tied=scored.tied(task.main),
                facts=dict(content.facts),
                warnings=tuple(collapse_warnings(scored, distinct)),
                reranked=None if reranked is None else reranked.values,
            )
        )

    def result(self) -> EvaluationResult:
        """Return all that was found."""
        reordering = self._reordering
        top = self._options.rerank_top
        return EvaluationResult(
            model=self._embedder.name,
            fingerprint=self._embedder.fingerprint,
            dim=self._embedder.dim,
            tasks=tuple(self._tasks),
            means=tuple(parts.result(*key) for key, parts in self._means.items()),
            grid=tuple(
                GridCell(storage.dim, storage.precision, storage.bytes, float(np.mean(list(scores.values()))), scores)
                for storage, scores in self._grid.items()
            ),
            rerank=None if reordering is None else RerankCost(top, reordering.pairs, reordering.seconds),
            embedded=self._embedded,
            seconds=self._seconds,
            notes=self._embedder.notes() if isinstance(self._embedder, TakesNotes) else (),
        )

    def _embed(self, task: EvaluationTask, content: Retrieval) -> EntryVectors:
        entries = JoinedEntries(content.queries, content.candidates)
        name, progress = f"{task.benchmark}/{task.name}", self._progress
        report = None if progress is None else partial(progress, name)
        began = perf_counter()
        truncates = self._embedder.truncates if isinstance(self._embedder, KnowsTruncation) else None
        note = self._embedder.note if isinstance(self._embedder, TakesNotes) else None
        embedded = embed_entries(entries, self._cache, truncates, note, report)
        self._seconds += perf_counter() - began
        self._embedded += embedded.embedded
        bad = int(np.count_nonzero(embedded.rows < 0))
        if bad > self._options.max_bad_share * len(entries):
            raise MagicError(
                ErrorCode.IMAGE_INVALID,
                f"{bad:,} of {len(entries):,} entries of {name} cannot be read; the first: {embedded.reason}.",
                f"Restore the pictures; at most {self._options.max_bad_share:.1%} may be skipped.",
            )
        return embedded

    def _average(self, task: EvaluationTask, summary: Summary, reranked: Summary | None) -> None:
        for average in task.averages:
            parts = self._means.setdefault((task.benchmark, average.name), MeanParts(average.tasks))
            parts.summaries.append(summary)
            if reranked is not None:
                parts.reranked.append(reranked)


def _split(embedded: EntryVectors, queries: int) -> Vectors:
    """Lay out a row for each query and candidate; unreadable ones get row 0, which is never used."""
    readable = embedded.rows >= 0
    if len(embedded.different) == 0:
        empty = np.zeros((len(embedded.rows), 1), np.float32)
        return Vectors(empty[:queries], empty[queries:], readable[:queries], readable[queries:])
    rows = embedded.different[np.maximum(embedded.rows, 0)]
    return Vectors(rows[:queries], rows[queries:], readable[:queries], readable[queries:])


def _stored(storage: Storage, vectors: Vectors) -> Vectors:
    return replace(vectors, queries=storage.stored(vectors.queries), candidates=storage.stored(vectors.candidates))
