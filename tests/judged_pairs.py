"""Judged data for tests of the reranker: what is about a beach fits, what is about a page does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from magicmm_training.entries import Pair
from magicmm_training.mining.negative_rows import NegativeRef, NegativesRow
from magicmm_training.mining.negatives import Negatives, NegativesWriter
from magicmm_training.recipe import Batch, Optimiser, Reranker, Source
from training_pairs import MemoryPairs, candidate, picture, query

PAGES = 7
SEEN = picture((200, 30, 30))


def beach_pairs(count: int = 12, *, pictures: bool = False) -> MemoryPairs:
    """Return queries with one beach each, and pages as explicit negatives of the first pair."""
    pages = tuple(candidate(f"printed page {n}") for n in range(PAGES))
    return MemoryPairs(
        [
            Pair(
                f"id {n}",
                "toys",
                query(f"sunset {n}", SEEN if pictures and n % 2 else None),
                candidate(f"a dog on the beach {n}"),
                () if n else pages,
            )
            for n in range(count)
        ]
    )


def page(number: int) -> NegativeRef:
    return NegativeRef(0, "id 0", f"negative:{number}")


def judged(folder: Path, pairs: MemoryPairs, counts: Sequence[int] | None = None) -> Negatives:
    """Write and load a judgement: pages are rejected (`counts` of them), the next query's beach is approved."""
    counts = counts or [PAGES] * len(pairs)
    with NegativesWriter(folder, "judge", [pairs]) as writer:
        for place, (pair, count) in enumerate(zip(pairs, counts, strict=True)):
            other = (place + 1) % len(pairs)
            approved = (NegativeRef(other, f"id {other}"),)
            writer.write(NegativesRow("toys", place, pair.id, tuple(page(n) for n in range(count)), approved))
    return Negatives.load(folder, [pairs])


def reranker_stage(**changes: Any) -> Reranker:
    values: dict[str, Any] = {
        "name": "reranker",
        "judged": "judge",
        "batch": Batch(per_device=4),
        "optimiser": Optimiser(lr=2e-3, schedule="constant", warmup_share=0),
        "dtype": "float32",
        "steps": 4,
        "max_tokens": 700,
    }
    return Reranker(**{**values, **changes})


TOYS = Source(name="toys", format="pairs", path="unused")
