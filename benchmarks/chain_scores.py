"""What `train_chain.py` measures: recall, the judge against the truth, and what reranking costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from magicmm_training.data.registry import open_pairs
from magicmm_training.entries import PairSet
from magicmm_training.evaluation.metrics import Metric
from magicmm_training.evaluation.rerank import Reordering
from magicmm_training.evaluation.scoring import Vectors, score
from magicmm_training.evaluation.task import Retrieval
from magicmm_training.loop.embedding import TorchEntryEmbedder
from magicmm_training.mining.negative_rows import NegativesRow
from magicmm_training.mining.negatives import Negatives
from magicmm_training.recipe import Source
from magicmm_training.reranker.inference import RerankCost, Reranker
from magicmm_training.scenes import Truth

TASKS = {"t2i": ("T->I", "MSCOCO"), "i2t": ("I->T", "MSCOCO"), "it2i": ("IT->I", "CIRR")}
"""Tasks of the scenes, with group and row of the paper's instruction table."""
FIRST, FIVE = Metric("hit", 1), Metric("hit", 5)
TOP = 5
"""Candidates that are reranked (paper)."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Shares of the test's queries, by task.

    Attributes:
        first: Whose own target comes first (R@1).
        five: Whose own target is among the first five (R@5).
    """

    first: dict[str, float]
    five: dict[str, float]

    def mean(self, name: str) -> float:
        """Return the mean over tasks of one of the attributes."""
        return float(np.mean(list(getattr(self, name).values())))


@dataclass(frozen=True, slots=True)
class JudgeCounts:
    """What a judge said of candidates that are not the query's own target.

    Attributes:
        asked: How many.
        right: How many it was right about.
        fitting: How many truly fit.
        approved: How many it approved.
        rightly_approved: Of these, how many truly fit.
    """

    asked: int
    right: int
    fitting: int
    approved: int
    rightly_approved: int


def score_checkpoint(checkpoint: Path, root: Path) -> Scores:
    """Score an embedder on the test."""
    return _score(TorchEntryEmbedder.open(checkpoint, batch=64), root, None)


def score_reranked(checkpoint: Path, reranker: Path, root: Path) -> tuple[Scores, RerankCost]:
    """Score an embedder whose first results a reranker puts in order, and count what that costs."""
    scorer = Reranker.open(reranker, dtype=torch.float32)
    scores = _score(TorchEntryEmbedder.open(checkpoint, batch=64), root, lambda: Reordering(scorer, TOP))
    return scores, scorer.cost


def _score(embedder: TorchEntryEmbedder, root: Path, reordering: Callable[[], Reordering] | None) -> Scores:
    found = Scores({}, {})
    for task in TASKS:
        rows = _test_pairs(root, task)
        pairs = [rows[place] for place in range(len(rows))]
        queries, targets = [pair.query for pair in pairs], [pair.positive for pair in pairs]
        all_ok = np.ones(len(pairs), bool)
        vectors = Vectors(embedder.embed(queries), embedder.embed(targets), all_ok, all_ok)
        relevant = tuple({place: 1.0} for place in range(len(pairs)))
        content = Retrieval(tuple(pair.id for pair in pairs), queries, targets, relevant)
        scored = score(content, vectors, (FIRST, FIVE), None if reordering is None else reordering())
        found.first[task] = float(scored.expected[FIRST].mean())
        found.five[task] = float(scored.expected[FIVE].mean())
    return found


def judge_counts(folder: Path, pair_sets: Sequence[PairSet], truth: Truth) -> JudgeCounts:
    """Compare the verdicts of a judge stage with the truth; verdicts beyond the negatives it keeps are not known."""
    asked = right = fitting = approved = rightly = 0
    for row in _rows(folder, pair_sets):
        for refs, said in ((row.negatives, False), (row.approved, True)):
            fits = [truth.fits(f"train-{row.dataset}", row.query_id, ref.pair_id) for ref in refs]
            asked += len(refs)
            fitting += sum(fits)
            right += sum(fit == said for fit in fits)
            approved += len(refs) * said
            rightly += sum(fits) * said
    return JudgeCounts(asked, right, fitting, approved, rightly)


def fitting_share(folder: Path, pair_sets: Sequence[PairSet], truth: Truth, first: int) -> float:
    """Return which share of the first so many hard negatives of each query truly fits it: false negatives."""
    fits = [
        truth.fits(f"train-{row.dataset}", row.query_id, ref.pair_id)
        for row in _rows(folder, pair_sets)
        for ref in row.negatives[:first]
    ]
    return float(np.mean(fits))


def _rows(folder: Path, pair_sets: Sequence[PairSet]) -> Iterator[NegativesRow]:
    """Give what a mining or judge stage wrote about each query of its data."""
    negatives = Negatives.load(folder, pair_sets)
    for pairs in pair_sets:
        for place in range(len(pairs)):
            row = negatives.row(pairs.name, pairs[place].id)
            if row is not None:
                yield row


def _test_pairs(root: Path, task: str) -> PairSet:
    group, row = TASKS[task]
    path = f"scenes/test-{task}.jsonl"
    return open_pairs(Source(name=task, format="pairs", path=path, group=group, instructions=row), root)
