"""The loop's engine at its simplest, for tests of losses: one process, or several through torch.distributed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn


class LocalEngine:
    """One process; remembers the `last` flags it was given."""

    processes = 1
    rank = 0

    def __init__(self) -> None:
        """Start without any backward pass."""
        self.flags: list[bool] = []

    def backward(self, loss: Tensor, last: bool) -> None:
        """Accumulate gradients."""
        self.flags.append(last)
        loss.backward()  # type: ignore[no-untyped-call]

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the only part."""
        return tensor

    def gather_objects(self, values: Sequence[Any]) -> list[Any]:
        """Return the only part."""
        return list(values)


class GroupEngine(LocalEngine):
    """A process of an initialised group: gradients of `module` are averaged by hand after the last backward pass."""

    def __init__(self, module: nn.Module) -> None:
        """Take rank and size from the group."""
        super().__init__()
        self.module = module
        self.processes = distributed.get_world_size()
        self.rank = distributed.get_rank()

    def backward(self, loss: Tensor, last: bool) -> None:
        """Accumulate gradients, and average them over processes at the end."""
        super().backward(loss, last)
        if last:
            for parameter in self.module.parameters():
                assert parameter.grad is not None
                distributed.all_reduce(parameter.grad)
                parameter.grad /= self.processes

    def gather(self, tensor: Tensor) -> Tensor:
        """Concatenate; as in most backends, shapes must be the same everywhere."""
        parts = [torch.empty_like(tensor) for _ in range(self.processes)]
        distributed.all_gather(parts, tensor.detach().contiguous())
        return torch.cat(parts)

    def gather_objects(self, values: Sequence[Any]) -> list[Any]:
        """Concatenate lists."""
        parts: list[Any] = [None] * self.processes
        distributed.all_gather_object(parts, list(values))
        return [value for part in parts for value in part]
