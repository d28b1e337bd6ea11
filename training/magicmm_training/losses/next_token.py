"""Next-token cross entropy over packed samples, of the answers only (paper 3.1, stage 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from magicmm.errors import ErrorCode, MagicError

if TYPE_CHECKING:
    from collections.abc import Callable

IGNORED = -100
"""The target of a place that carries no loss."""
_CHUNK = 1024
"""Places whose logits are held at a time: at 151,674 tokens, 0.6 GB of float32 instead of 20 GB for 32k places."""


def next_token_targets(ids: Tensor, answers: Tensor, samples: Tensor) -> Tensor:
    """Return what each place is to predict: the next token, where that belongs to an answer of the same sample.

    Args:
        ids: int64 [b, s], packed sequences.
        answers: bool [b, s], True for tokens that the assistant writes (its end of turn with them).
        samples: int64 [b, s], which sample of its sequence a token belongs to; padding has a number of its own.

    Returns:
        int64 [b, s], `IGNORED` where there is nothing to predict.
    """
    targets = torch.full_like(ids, IGNORED)
    wanted = answers[:, 1:] & (samples[:, 1:] == samples[:, :-1])
    targets[:, :-1] = torch.where(wanted, ids[:, 1:], IGNORED)
    return targets


def next_token_loss(hidden: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Return the summed cross entropy of all target tokens, and how many there are.

    A sum, because the mean is over the target tokens of the whole batch: neither micro batches nor processes with few
    of them may weigh more. With T target tokens in all micro batches of all P processes (counted beforehand from the
    targets) and gradients that are averaged over processes, a micro batch goes backward with `sum * P / T`.

    Logits are made for target places only, some at a time, and made again in the backward pass.

    Args:
        hidden: [b, s, h], final hidden states; or logits, with a head that returns them unchanged.
        targets: int64 [b, s], from `next_token_targets`.
        head: [n, h] -> logits [n, vocab].

    Returns:
        A scalar of float32 at least (0, with a gradient of 0, when there is no target), and int64 [].

    Raises:
        MagicError: `argument_invalid` for shapes that do not fit.
    """
    if hidden.shape[:-1] != targets.shape:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"Hidden states {list(hidden.shape)} and targets {list(targets.shape)} do not fit together.",
            "Give [b, s, h] and [b, s].",
        )
    places = targets != IGNORED
    rows, wanted = hidden[places], targets[places]
    # An empty batch still runs the head: every process must reach every parameter.
    chunks = zip(rows.split(_CHUNK), wanted.split(_CHUNK), strict=True)  # type: ignore[no-untyped-call]
    total = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
    for part, answer in chunks:
        total = total + checkpoint(_summed, head, part, answer, use_reentrant=False)
    return total, places.sum()


def _summed(head: Callable[[Tensor], Tensor], rows: Tensor, wanted: Tensor) -> Tensor:
    logits = head(rows)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return functional.cross_entropy(wide, wanted, reduction="sum")
