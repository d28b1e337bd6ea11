"""Which candidates of a batch are right answers to a query without being its target, and must not be pushed away."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from magicmm_training.recipe import FalseNegatives

NO_ID = -1
"""The id of a candidate that is no pair's positive, such as a hard negative; equals no id of a query."""


def id_tensor(strings: Iterable[str]) -> Tensor:
    """Return int64 [n]: 63 bits of each string's SHA-256, the same in every process and run, never `NO_ID`.

    Two of a million strings share a number with a probability below 1e-7, and then a candidate is masked, no more.
    """
    digests = (hashlib.sha256(string.encode()).digest() for string in strings)
    return torch.tensor([int.from_bytes(digest[:8], "big") >> 1 for digest in digests], dtype=torch.int64)


def false_negative_mask(
    scores: Tensor | None,
    targets: Tensor,
    query_ids: Tensor,
    candidate_ids: Tensor,
    candidate_contents: Tensor,
    query_positive_contents: Tensor,
    config: FalseNegatives,
) -> tuple[Tensor, dict[str, float]]:
    """Return which candidates each query's denominator leaves out, and how many each rule took.

    A candidate that several rules would take counts under the first: same id, same content, margin.

    Args:
        scores: [b, m] before the temperature, for the margin only; may be None without one.
        targets: int64 [b], rows of the true candidates; never masked.
        query_ids: int64 [b], each query's pair.
        candidate_ids: int64 [m], the pair that a candidate is the positive of, or `NO_ID`.
        candidate_contents: int64 [m], what a candidate shows.
        query_positive_contents: int64 [b], what each query's target shows.
        config: The rules.

    Returns:
        bool [b, m], and the counters `masked_same_id`, `masked_same_content` and `masked_margin` of the rules that
        are on.
    """
    others = torch.ones(len(targets), len(candidate_ids), dtype=torch.bool, device=targets.device)
    others.scatter_(1, targets[:, None], False)
    mask = torch.zeros_like(others)
    counters: dict[str, float] = {}

    def take(rule: str, found: Tensor) -> None:
        fresh = found & others & ~mask
        counters[f"masked_{rule}"] = float(fresh.sum())
        mask.logical_or_(fresh)

    if config.same_id:
        take("same_id", query_ids[:, None] == candidate_ids[None])
    if config.same_content:
        take("same_content", query_positive_contents[:, None] == candidate_contents[None])
    if config.margin is not None:
        if scores is None:
            raise TypeError("the margin rule needs scores")
        fixed = scores.detach()
        take("margin", fixed > fixed.gather(1, targets[:, None]) + config.margin)
    return mask, counters
