"""A batch over all processes, with gradients that average to those of one process with the whole batch.

Let E_1 ... E_P be the vectors of P processes, made with the same parameters w, and L(E_1, ..., E_P) the loss of the
whole batch. Its gradient is the sum over p of (dE_p/dw)' dL/dE_p. Every process computes the same L, in which only its
own rows E_p depend on w: the others arrived as numbers. What it would contribute is one term of that sum, but the
loop averages over processes, which divides the sum by P. So the gradient that reaches the local rows is multiplied by
P here: the average of the P gradients is then the gradient of L, whatever L is, and no gradient has to travel.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from magicmm_training.losses.distillation import MISSING

if TYPE_CHECKING:
    from torch import Tensor

    from magicmm_training.loop.objective import Engine
    from magicmm_training.losses.contrastive import ContrastiveBatch


def gather_rows(local: Tensor, engine: Engine) -> tuple[Tensor, int]:
    """Return the rows of all processes, and which row of them is this process's first.

    Processes may have different numbers of rows. Local rows carry a gradient, times the number of processes.

    Args:
        local: [n, ...], the same shape but for n everywhere.
        engine: Of the loop.

    Returns:
        [sum of n, ...] in order of rank, and the offset.
    """
    if engine.processes == 1:
        return local, 0
    counts = [int(count) for count in engine.gather(torch.tensor([len(local)], device=local.device))]
    offset = sum(counts[: engine.rank])
    longest = max(counts)
    padding = [0, 0] * (local.dim() - 1) + [0, longest - len(local)]
    padded = engine.gather(functional.pad(local.detach(), padding)).view(engine.processes, longest, *local.shape[1:])
    whole = torch.cat([rows[:count] for rows, count in zip(padded, counts, strict=True)])
    if local.requires_grad:
        whole = _OwnRows.apply(local, whole, offset, engine.processes)  # type: ignore[no-untyped-call]
    return whole, offset


def gather_batch(batch: ContrastiveBatch, engine: Engine) -> ContrastiveBatch:
    """Return the batch of all processes; every process gets the same numbers in the same order.

    Either all processes have judge scores or none.
    """
    if engine.processes == 1:
        return batch
    candidates, offset = gather_rows(batch.candidates, engine)
    own = margins = None
    if batch.own is not None and batch.margins is not None:
        lists = torch.where(batch.own == MISSING, MISSING, batch.own + offset)
        width = int(engine.gather(torch.tensor([lists.shape[1]], device=lists.device)).max())
        padding = [0, width - lists.shape[1]]
        own = gather_rows(functional.pad(lists, padding, value=MISSING), engine)[0]
        margins = gather_rows(functional.pad(batch.margins, padding, value=torch.nan), engine)[0]
    return replace(
        batch,
        queries=gather_rows(batch.queries, engine)[0],
        candidates=candidates,
        targets=gather_rows(batch.targets + offset, engine)[0],
        query_ids=gather_rows(batch.query_ids, engine)[0],
        candidate_ids=gather_rows(batch.candidate_ids, engine)[0],
        candidate_contents=gather_rows(batch.candidate_contents, engine)[0],
        own=own,
        margins=margins,
    )


class _OwnRows(torch.autograd.Function):
    """The gathered rows as a function of the local ones."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, whole: Tensor, offset: int, processes: int) -> Tensor:
        ctx.rows = slice(offset, offset + len(local))
        ctx.processes = processes
        return whole.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0][ctx.rows] * ctx.processes, None, None, None
