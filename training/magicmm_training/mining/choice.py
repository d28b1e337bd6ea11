"""Which of a query's ranked candidates become its hard negatives (paper 3.2)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from magicmm_training.entries import Floats
    from magicmm_training.recipe import Mining


@dataclass(frozen=True, slots=True)
class Choice:
    """What a query got.

    Attributes:
        ranks: From 0, rising.
        is_small: The pool ends before the window, so that all of it was sampled from.
        above_margin: Candidates of the window that were too close to be trusted.
    """

    ranks: tuple[int, ...]
    is_small: bool
    above_margin: int


def choose(stage: Mining, scores: Floats, positive: float, bits: np.random.PCG64) -> Choice:
    """Sample negatives from the window of ranks.

    A pool that ends within the window leaves a narrower window. Where that holds fewer than are wanted, the window is
    the whole pool: with so few candidates even the first is hardly another truth.

    Args:
        stage: Window, number and margin.
        scores: Of the ranked candidates, highest first, truth left out.
        positive: Score of the true target.
        bits: Source of chance.
    """
    first, stop = stage.ranks[0] - 1, min(stage.ranks[1], len(scores))
    is_small = stop - first < stage.each
    window = np.arange(0 if is_small else first, stop)
    trusted = window
    if stage.margin is not None:
        trusted = window[scores[window] <= positive + stage.margin]
    # Bits of the generator itself, whose stream numpy keeps the same for ever.
    order = np.argsort(bits.random_raw(len(window))[: len(trusted)], kind="stable")
    ranks = np.sort(trusted[order[: stage.each]])
    return Choice(tuple(ranks.tolist()), is_small, len(window) - len(trusted))


def chance(seed: int, dataset: str, query_id: str) -> np.random.PCG64:
    """Return the source of chance of one query: the same in whatever order, batch or process it is asked for."""
    text = json.dumps([seed, dataset, query_id])
    return np.random.PCG64(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big"))
