"""The judge's opinion as a soft target: KL divergence over a query's own positive and hard negatives."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from magicmm.errors import ErrorCode, MagicError

MISSING = -1
"""The place of a candidate that a shorter list does not have."""


def judge_divergence(
    queries: Tensor,
    candidates: Tensor,
    own: Tensor,
    margins: Tensor,
    temperature: float,
    judge_temperature: float,
) -> tuple[Tensor, int]:
    """Return the mean KL(judge || model) over the queries that have at least two judged candidates.

    judge = softmax(margins / judge_temperature), model = softmax(query . candidates / temperature), both over the
    judged candidates of the query's own list.

    Args:
        queries: Unit rows [b, d].
        candidates: Unit rows [m, d].
        own: int64 [b, k], rows of each query's positive and hard negatives; `MISSING` where the list is shorter.
        margins: [b, k], the judge's yes-logit minus its no-logit; NaN where it was not asked.
        temperature: Of the model's scores.
        judge_temperature: Of the margins; larger is softer.

    Returns:
        A scalar (0 when no query counts), and how many queries count.

    Raises:
        MagicError: `argument_invalid` for shapes that do not fit, or an infinite margin.
    """
    if own.shape != margins.shape or own.dim() != 2 or len(own) != len(queries):
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"Lists {list(own.shape)} and margins {list(margins.shape)} do not fit {len(queries)} queries.",
            "Give both as [b, k].",
        )
    if bool(margins.isinf().any()):
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID, "The judge's margins hold infinity.", "Judge again, or drop these rows."
        )
    judged = (own != MISSING) & ~margins.isnan()
    counted = judged.sum(1) >= 2
    if not bool(counted.any()):
        return queries.sum() * 0, 0  # keeps the graph
    judged, own, queries = judged[counted], own[counted], queries[counted]
    scores = torch.einsum("bd,bkd->bk", queries, candidates[own.clamp_min(0)]) / temperature
    wanted = margins[counted].to(scores.dtype) / judge_temperature
    model = functional.log_softmax(scores.masked_fill(~judged, -torch.inf), dim=1).masked_fill(~judged, 0)
    judge = functional.log_softmax(wanted.masked_fill(~judged, -torch.inf), dim=1).masked_fill(~judged, 0)
    terms = (judge.exp() * (judge - model)).masked_fill(~judged, 0)
    return terms.sum() / len(queries), len(queries)
