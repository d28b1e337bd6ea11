"""Reordering of the best candidates by a model that reads query and candidate together."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import numpy as np

from magicmm.errors import ErrorCode, MagicError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from magicmm_training.entries import Entry

    Floats = NDArray[np.float32]


class PairScorer(Protocol):
    """A reranker."""

    def scores(self, query: Entry, candidates: Sequence[Entry]) -> Floats:
        """Return one finite score a candidate, higher is better: float32 [n]."""
        ...


class Reordering:
    """Puts the embedder's best candidates into a reranker's order, and keeps count of what that costs.

    Attributes:
        pairs: Query-candidate pairs read so far.
        seconds: Time spent in the reranker.
    """

    def __init__(self, reranker: PairScorer, top: int, seed: int = 0) -> None:
        """Reorder the first `top` of each query."""
        if top < 1:
            raise MagicError(ErrorCode.ARGUMENT_INVALID, f"rerank_top is {top}.", "Use 1 or more.")
        self._reranker = reranker
        self._top = top
        self._random = np.random.default_rng(seed)
        self.pairs = 0
        self.seconds = 0.0

    def reorder(self, query: Entry, candidates: Sequence[Entry], places: NDArray[np.int64], scores: Floats) -> Floats:
        """Return scores in which the best candidates stand above all others, in the reranker's order.

        Args:
            query: What was searched with.
            candidates: All candidates of the task.
            places: Which of them compete.
            scores: The embedder's score of each of these, in -1 to 1.

        Raises:
            MagicError: `runtime_failed` when the reranker gives no finite score for each.
        """
        # The order of equal scores at the cut is drawn, so that a place in the file earns nothing.
        drawn = self._random.permutation(len(scores))
        best = drawn[np.argsort(-scores[drawn], kind="stable")][: self._top]
        began = perf_counter()
        judged = np.asarray(self._reranker.scores(query, [candidates[place] for place in places[best]]))
        self.seconds += perf_counter() - began
        self.pairs += len(best)
        if judged.shape != (len(best),) or not np.isfinite(judged).all():
            raise MagicError(
                ErrorCode.RUNTIME_FAILED,
                f"The reranker gave {judged.shape} scores for {len(best)} candidates, "
                f"{np.count_nonzero(~np.isfinite(judged))} of them no finite numbers.",
                "Look for overflow in the reranker.",
            )
        reordered = scores.copy()
        # Equal scores keep an equal rank; ranks from 2 up lie above every cosine.
        reordered[best] = 2 + np.unique(judged, return_inverse=True)[1].reshape(-1)
        return reordered
