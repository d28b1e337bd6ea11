"""GradCache (arXiv 2101.06983): contrastive batches larger than memory, with the gradients of the plain loss.

The loss of a batch couples all vectors, but its gradient reaches the model only through them. So: (1) embed micro batch
by micro batch without keeping activations, (2) compute the loss and its gradient for every vector, (3) embed each micro
batch again with the same random numbers (dropout) and pull that vector gradient through the model. One more forward
pass buys memory for one micro batch instead of all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.loop.objective import StepResult

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from magicmm_training.loop.objective import Engine

    LossOfRows = Callable[[Tensor], tuple[Tensor, Mapping[str, float]]]

Micro = TypeVar("Micro")


def cached_backward(
    embed: Callable[[Micro], Tensor], micros: Sequence[Micro], loss_fn: LossOfRows, engine: Engine
) -> StepResult:
    """Accumulate the gradient of `loss_fn(rows of all micro batches)` into the parameters that `embed` uses.

    With one micro batch this is the plain loss, computed in one pass. The random state afterwards is that of a run
    which embedded every micro batch once.

    Args:
        embed: Returns the vectors [n_i, d] of a micro batch; n_i and what the rows are (queries, candidates) is free.
            It is called twice, the first time without gradients, and must give the same both times but for random
            numbers drawn from torch's default generators.
        micros: At least one, and as many in every process.
        loss_fn: Takes all local rows [sum of n_i, d] in order and returns a scalar and counters. Rows of other
            processes come in through `gather.gather_batch`, which also sees to the scale of gradients.
        engine: Of the loop; `last` is set for the final backward pass only.

    Returns:
        Loss and counters.

    Raises:
        MagicError: `argument_invalid` for no micro batch, or numbers of them that differ between processes.
    """
    counts = engine.gather_objects([len(micros)])
    if not micros or len(set(counts)) > 1:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"The processes split this step into {', '.join(str(count) for count in counts)} micro batches.",
            "Give every process the same number, at least one.",
        )
    if len(micros) == 1:
        loss, counters = loss_fn(embed(micros[0]))
        engine.backward(loss, last=True)
        return StepResult(float(loss.detach()), counters)

    states, parts = [], []
    with torch.no_grad():
        for micro in micros:
            states.append(_RandomState.now())
            parts.append(embed(micro))
    rows = torch.cat(parts).requires_grad_()
    with torch.enable_grad():
        loss, counters = loss_fn(rows)
    (gradient,) = torch.autograd.grad(loss, rows)
    after = _RandomState.now()
    pulls = torch.split(gradient, [len(part) for part in parts])
    for place, (micro, state, pull) in enumerate(zip(micros, states, pulls, strict=True)):
        state.restore()
        # The derivative of this product with respect to the parameters is the chain rule's: rows' gradient x d rows.
        engine.backward((embed(micro) * pull).sum(), last=place == len(micros) - 1)
    after.restore()
    return StepResult(float(loss.detach()), counters)


@dataclass(frozen=True, slots=True)
class _RandomState:
    """Torch's generators: the CPU's, and the current accelerator's once it is in use."""

    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def now(cls) -> _RandomState:
        in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        cuda = torch.cuda.get_rng_state() if in_use else None
        return cls(torch.get_rng_state(), cuda)

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda)
