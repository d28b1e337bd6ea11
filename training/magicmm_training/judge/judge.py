"""The judge stage: of each query's top candidates, which are wrong, and which are further truths (paper 3.3).

Rejected candidates become hard negatives. Approved ones are left out of them and only widen the reranker's positives;
the data's own target stays the embedder's only positive.
"""

from __future__ import annotations

import math
from itertools import chain, islice
from typing import TYPE_CHECKING

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.judge.asking import Asking, Question
from magicmm_training.judge.cache import VerdictCache
from magicmm_training.judge.report import JudgedSet, JudgeReport
from magicmm_training.mining.embedded import EmbeddedSet, check_names
from magicmm_training.mining.mine import VECTORS
from magicmm_training.mining.negative_rows import Margins, NegativesRow
from magicmm_training.mining.negatives import NegativesWriter
from magicmm_training.mining.report import write_report
from magicmm_training.mining.vectors import VectorCache

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import torch

    from magicmm_training.entries import EntryEmbedder, PairSet
    from magicmm_training.judge.verdict import Backend, Verdict
    from magicmm_training.mining.embedded import Progress, RankedQuery
    from magicmm_training.recipe import Judge

VERDICTS = "verdicts.sqlite"
_QUERIES = 32
"""Queries whose questions are put together, so that batches are full."""
_ENOUGH = 200
"""Answers from which a share of unclear ones says something."""


def judge(
    stage: Judge,
    pair_sets: Sequence[PairSet],
    embedder: EntryEmbedder,
    backend: Backend,
    out: Path,
    progress: Progress | None = None,
    *,
    vectors: Path | None = None,
    verdicts: Path | None = None,
    device: torch.device | str = "cpu",
) -> JudgeReport:
    """Write each query's negatives and approved candidates to `out`, and a report beside them.

    A run that was killed and starts again embeds and asks only what is missing. The judge is also asked about each true
    target: how many it approves tells how far to trust it.

    Args:
        stage: What is asked for; its sources say which data sets are not judged.
        pair_sets: The stage's data.
        embedder: Ranks.
        backend: Judges.
        out: Folder of the result.
        progress: Called with (what is done, how much of it, of how much).
        vectors: Folder of cached vectors, which other stages may share; None = in `out`.
        verdicts: File of cached verdicts, which other stages may share; None = in `out`.
        device: Where torch ranks.

    Raises:
        MagicError: `argument_invalid` for an empty data set, equal names, or no negative at all; `model_mismatch` for
            a judge with too many unclear answers; the first fault when more than 1 % of a data set is broken;
            `source_unavailable`, `runtime_failed`, `storage_failed`.
    """
    check_names(pair_sets)
    unjudged = {source.name for source in stage.data if not source.judged}
    counted: list[JudgedSet] = []
    cache = VectorCache(vectors or out / VECTORS, embedder, stage.batch)
    memory = VerdictCache(verdicts or out / VERDICTS)
    try:
        with NegativesWriter(out, "judge", pair_sets) as writer:
            for pairs in pair_sets:
                counts = JudgedSet(pairs.name, pairs.name not in unjudged, len(pairs))
                counted.append(counts)
                embedded = EmbeddedSet.of(pairs, cache, progress)
                counts.broken, counts.candidates = len(embedded.faults), len(embedded.candidates.ids)
                court = _Court(stage, Asking(backend, memory, stage.batch), embedded, counts)
                for done, row in enumerate(court.rows(device), start=1):
                    writer.write(row)
                    if progress:
                        progress(f"{pairs.name}: judged", done, len(embedded.usable))
            if not any(counts.negatives for counts in counted):
                raise MagicError(
                    ErrorCode.ARGUMENT_INVALID,
                    "No query has a negative: every candidate is a true target, or the judge rejected none.",
                    "Check that the data has different targets, and the judge by its answers.",
                )
    finally:
        memory.close()
    report = JudgeReport(embedder.name, backend.name, tuple(counted))
    write_report(out, report.to_json())
    return report


class _Court:
    """Judges one data set."""

    def __init__(self, stage: Judge, asking: Asking, embedded: EmbeddedSet, counts: JudgedSet) -> None:
        self._stage = stage
        self._asking = asking
        self._embedded = embedded
        self._counts = counts

    def rows(self, device: torch.device | str) -> Iterator[NegativesRow]:
        """Give one row for each usable query."""
        ranked = self._embedded.ranked(self._stage.top, device=device)
        if not self._counts.judged:
            yield from map(self._unjudged, ranked)
            return
        while block := list(islice(ranked, _QUERIES)):
            yield from self._judged(block)
            self._check_clear(_ENOUGH)
        self._check_clear(1)

    def _unjudged(self, ranked: RankedQuery) -> NegativesRow:
        return self._row(ranked, ranked.candidates.tolist(), [], None)

    def _judged(self, block: Sequence[RankedQuery]) -> Iterator[NegativesRow]:
        asked = [self._questions(ranked) for ranked in block]
        answers = self._asking.answers(list(chain.from_iterable(asked)))
        self._count(answers.verdicts, answers.cached)
        verdicts = iter(answers.verdicts)
        for ranked, questions in zip(block, asked, strict=True):
            positive, *others = islice(verdicts, len(questions))
            self._counts.positives += positive is not None
            self._counts.positives_approved += positive is not None and positive.approved is True
            yield self._decide(ranked, positive, others)

    def _questions(self, ranked: RankedQuery) -> list[Question]:
        """Return the question about the true target, then those about the candidates."""
        candidates = self._embedded.candidates
        query, query_id = self._embedded.pairs[ranked.place].query, candidates.query_ids[ranked.place]
        places = [candidates.own[ranked.place], *ranked.candidates.tolist()]
        return [Question(query, query_id, candidates.entries[place], candidates.ids[place]) for place in places]

    def _decide(
        self, ranked: RankedQuery, positive: Verdict | None, verdicts: Sequence[Verdict | None]
    ) -> NegativesRow:
        decided = [
            (place, verdict)
            for place, verdict in zip(ranked.candidates.tolist(), verdicts, strict=True)
            if verdict is not None and verdict.approved is not None
        ]
        least = -math.inf if self._stage.approves == "yes" else _margin(positive)
        fits = [verdict.approved and not _margin(verdict) < least for _, verdict in decided]
        approved = [one for one, fit in zip(decided, fits, strict=True) if fit]
        rejected = [one for one, fit in zip(decided, fits, strict=True) if not fit]
        self._counts.approved += len(approved)
        self._counts.rejected += len(rejected)
        chosen = rejected[: self._stage.each]
        margins = Margins(
            _margin(positive),
            tuple(_margin(verdict) for _, verdict in chosen),
            tuple(_margin(verdict) for _, verdict in approved),
        )
        return self._row(ranked, [place for place, _ in chosen], [place for place, _ in approved], margins)

    def _row(
        self, ranked: RankedQuery, negatives: Sequence[int], approved: Sequence[int], margins: Margins | None
    ) -> NegativesRow:
        chosen = tuple(map(self._embedded.ref, negatives[: self._stage.each]))
        self._counts.negatives += len(chosen)
        self._counts.fewer += len(chosen) < self._stage.each
        self._counts.none += not chosen
        further = tuple(map(self._embedded.ref, approved))
        return NegativesRow(self._counts.dataset, ranked.place, ranked.pair_id, chosen, further, margins)

    def _count(self, verdicts: Sequence[Verdict | None], cached: Sequence[bool]) -> None:
        given = [verdict for verdict in verdicts if verdict is not None]
        self._counts.asked += len(given)
        self._counts.cached += sum(cached)
        self._counts.failed += len(verdicts) - len(given)
        self._counts.unclear += sum(verdict.approved is None for verdict in given)

    def _check_clear(self, enough: int) -> None:
        counts = self._counts
        if counts.asked >= enough and counts.unclear_share > self._stage.unclear_share:
            raise MagicError(
                ErrorCode.MODEL_MISMATCH,
                f"{counts.dataset}: the judge said neither yes nor no to {counts.unclear:,} of {counts.asked:,} "
                f"questions ({counts.unclear_share:.1%}; allowed are {self._stage.unclear_share:.1%}).",
                "Choose another judge, or raise unclear_share. What it said is kept.",
            )


def _margin(verdict: Verdict | None) -> float:
    """Return a margin, NaN where there is none."""
    return math.nan if verdict is None or verdict.margin is None else verdict.margin
