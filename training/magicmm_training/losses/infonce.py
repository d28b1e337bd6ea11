"""InfoNCE over a score matrix, in blocks of queries so that memory does not grow with the square of the batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from magicmm.errors import ErrorCode, MagicError

_BLOCK = 1 << 25
"""Scores that are held at a time: 128 MB of float32. A batch of 6,144 queries with 12 hard negatives each has 490
million, several times over for the backward pass; blocks are computed again there."""


def info_nce(
    queries: Tensor,
    candidates: Tensor,
    targets: Tensor,
    temperature: float,
    mask: Tensor | None = None,
    symmetric: bool = False,
) -> Tensor:
    """Return the mean over queries of -log softmax(query . candidates / temperature)[target].

    With `symmetric`, the result is the mean of that and of the other direction: each query's target searches among
    the queries. There, other queries of the same target are left out (they are right too), and so are those whose
    entry of the mask is set in the target's column.

    Args:
        queries: Unit rows [b, d].
        candidates: Unit rows [m, d].
        targets: int64 [b], each query's row of `candidates`.
        temperature: What scores are divided by.
        mask: bool [b, m], True = not in the denominator; None = all are in.
        symmetric: Also candidate to query.

    Returns:
        A scalar of the type of `queries`.

    Raises:
        MagicError: `argument_invalid` for shapes that do not fit, targets out of range, or a masked target.
    """
    _check(queries, candidates, targets, mask)
    total = _summed(queries, candidates, targets, temperature, mask)
    if symmetric:
        rows = torch.arange(len(queries), device=targets.device)
        left_out = (targets[:, None] == targets[None]) & (rows[:, None] != rows[None])
        if mask is not None:
            left_out = left_out | mask[:, targets].T
        total = (total + _summed(candidates[targets], queries, rows, temperature, left_out)) / 2
    return total / len(queries)


def _summed(queries: Tensor, candidates: Tensor, targets: Tensor, temperature: float, mask: Tensor | None) -> Tensor:
    step = max(1, _BLOCK // len(candidates))
    if step >= len(queries):
        return _block(queries, candidates, targets, temperature, mask)
    total = queries.new_zeros(())
    for start in range(0, len(queries), step):
        rows = slice(start, start + step)
        part = None if mask is None else mask[rows]
        total = total + checkpoint(
            _block,
            queries[rows],
            candidates,
            targets[rows],
            temperature,
            part,
            use_reentrant=False,
            preserve_rng_state=False,
        )
    return total


def _block(queries: Tensor, candidates: Tensor, targets: Tensor, temperature: float, mask: Tensor | None) -> Tensor:
    scores = queries @ candidates.T / temperature
    if mask is not None:
        scores = scores.masked_fill(mask, -torch.inf)
    return functional.cross_entropy(scores, targets, reduction="sum")


def _check(queries: Tensor, candidates: Tensor, targets: Tensor, mask: Tensor | None) -> None:
    count, others = len(queries), len(candidates)
    if not count or queries.shape[1:] != candidates.shape[1:] or targets.shape != (count,):
        raise _invalid(
            f"Queries {list(queries.shape)}, candidates {list(candidates.shape)} and targets {list(targets.shape)} "
            "do not fit together.",
            "Give [b, d], [m, d] and [b], with at least one query.",
        )
    if int(targets.min()) < 0 or int(targets.max()) >= others:
        raise _invalid(
            f"A target lies outside the {others} candidates.", "Give each query the row of its true candidate."
        )
    if mask is None:
        return
    if mask.shape != (count, others):
        raise _invalid(f"The mask is {list(mask.shape)}.", f"Give one of [{count}, {others}].")
    if bool(mask.gather(1, targets[:, None]).any()):
        raise _invalid("The mask removes a query's own target.", "Clear the mask at the targets.")


def _invalid(message: str, remedy: str) -> MagicError:
    return MagicError(ErrorCode.ARGUMENT_INVALID, message, remedy)
