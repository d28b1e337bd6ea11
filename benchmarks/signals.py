"""What do signals (time and place from EXIF, docs/API.md) do to searches by words?

A constructed test: of the 172 development photos 27 have a date and 4 a place, too few to judge by. So every query gets
a season at its end ("a cat in winter"), and photos get made-up months. Three worlds: dates that agree with the query on
the photos that fit (and are random elsewhere: one photo in four is of the season), dates that are random everywhere,
and dates that are never of the season where the photo fits. The strength in use was chosen here: the highest that does
no harm where dates are random.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from confidence_cases import pictures
from magicmm.embedder import Embedder
from magicmm.signals import STRENGTH, read_signals
from nano_quality import KS, ranked
from photo_sets import photo_set
from report import Report, parser

PHRASE = "in winter"
SHARE = 0.25
"""Photos of any season, by chance."""
STRENGTHS = (0.0, 0.25, STRENGTH, 1.0, 2.0)
ROUNDS = 40

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]


def main() -> int:
    """Run the benchmark."""
    options = parser(__doc__).parse_args()
    report = Report("signals", options)
    found = photo_set("development")
    embedder = Embedder.open(threads=2)
    queries = found.queries[:20] if options.quick else found.queries
    fired = [text for text, _ in queries if read_signals(text)]
    report.table("development queries that name a time or place by themselves", ["query"], [[text] for text in fired])
    asked = np.stack([embedder.embed_text(f"{text} {PHRASE}") for text, _ in queries])
    scores = asked @ pictures(embedder, found.name, found.photos).T
    right = [places for _, places in queries]
    fits = np.zeros(scores.shape, np.bool_)
    for row, places in enumerate(right):
        fits[row, list(places)] = True
    for world in ("dates agree", "dates are random", "dates disagree"):
        rows: list[list[object]] = []
        for strength in sorted(STRENGTHS):
            recalls = [recall(scores, right, in_season(world, fits, seed), strength) for seed in range(ROUNDS)]
            name = f"{strength:g}{' (in use)' if strength == STRENGTH else ''}"
            rows.append([name, *(float(value) for value in np.mean(recalls, axis=0))])
        report.table(f"{world}: a fitting photo is among the first", ["strength", *(f"R@{k}" for k in KS)], rows)
    report.finish()
    return 0


def in_season(world: str, fits: Mask, seed: int) -> Mask:
    """Make up, for each query, which photos are of its season: bool [q, n]."""
    chance: Mask = np.random.default_rng(seed).random(fits.shape) < SHARE
    if world == "dates are random":
        return chance
    return chance | fits if world == "dates agree" else chance & ~fits


def recall(scores: Array, right: Sequence[Sequence[int]], season: Mask, strength: float) -> list[float]:
    """Return the share of queries with a fitting photo among the first k, for each k."""
    bonus = strength * scores.std(axis=1, keepdims=True) * season
    first, _ = ranked(scores + bonus, right)
    return [float((first < k).mean()) for k in KS]


if __name__ == "__main__":
    sys.exit(main())
