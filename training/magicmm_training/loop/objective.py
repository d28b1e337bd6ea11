"""What a stage optimises, as the loop sees it: samples by place, and one step over a process's share of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class SourceSpan:
    """Where the samples of one data set lie among all: places start to stop - 1.

    Attributes:
        name: Of the data set.
        start: First place.
        stop: One after the last.
        weight: Relative share of batches; None = in proportion to samples.
    """

    name: str
    start: int
    stop: int
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step of one process gave.

    Attributes:
        loss: Mean loss of the whole batch, over all processes.
        counters: More for the log, such as masked false negatives or target tokens; summed over processes by whoever
            made them, so that they are the same everywhere.
    """

    loss: float
    counters: Mapping[str, float] = field(default_factory=dict)


class Engine(Protocol):
    """What a step may ask of the loop; gradients are those of the mean over all processes, however many there are."""

    @property
    def processes(self) -> int:
        """How many processes train together."""
        ...

    @property
    def rank(self) -> int:
        """Which of them this is, from 0."""
        ...

    def backward(self, loss: Tensor, last: bool) -> None:
        """Accumulate gradients of this process's loss; only with `last` are they averaged over processes."""
        ...

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the tensors of all processes concatenated in order of rank; no gradient flows through it."""
        ...

    def gather_objects(self, values: Sequence[Any]) -> list[Any]:
        """Return the lists of all processes concatenated in order of rank (plain data only)."""
        ...


class Objective(Protocol):
    """A stage's data and loss."""

    fingerprint: str
    """Names data and settings: a run is resumed only under the same."""

    @property
    def spans(self) -> Sequence[SourceSpan]:
        """The data sets; their places cover 0 to len - 1."""
        ...

    def __len__(self) -> int:
        """Return how many samples there are."""
        ...

    def sample(self, place: int, seed: int) -> Any:
        """Read, decode and tokenise one sample; the same place and seed always give the same.

        Raises:
            MagicError: For a sample that cannot be used; the loop counts it and takes another of the same data set.
        """
        ...

    def step(self, model: nn.Module, samples: Sequence[Any], engine: Engine) -> StepResult:
        """Run forward and backward of this process's share of a batch, in as many micro batches as it likes.

        `model` is the prepared (possibly wrapped) module, called with the keyword arguments of its `forward`.
        """
        ...
