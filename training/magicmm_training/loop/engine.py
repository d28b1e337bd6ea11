"""The processes that train together: gathering, and gradients that do not depend on how many there are.

accelerate finds out what was started (one process, or many by `accelerate launch` or `torchrun`, with gloo or NCCL) and
on which devices. Gradients are averaged here after the last backward pass, in buckets, and not by the hooks of
`DistributedDataParallel`: these expect every parameter in every backward pass of every process, while a batch of texts
leaves the vision tower out and gradient caching runs the model several times a step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

_BUCKET = 1 << 25
"""Numbers that are averaged in one message (128 MB of float32)."""


class ProcessEngine:
    """The `Engine` of one process.

    Attributes:
        sharded: Whether FSDP holds the parameters; it then averages gradients in every backward pass.
    """

    def __init__(self, model: nn.Module, *, sharded: bool) -> None:
        """Join the other processes.

        Args:
            model: Whose gradients are averaged.
            sharded: Whether FSDP holds its parameters.
        """
        # Without an accelerator accelerate sees other processes only when it is told that they use the CPU.
        self._state = PartialState(cpu=not torch.accelerator.is_available())
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.sharded = sharded

    @property
    def processes(self) -> int:
        """How many processes train together."""
        return int(self._state.num_processes)

    @property
    def rank(self) -> int:
        """Which of them this is, from 0."""
        return int(self._state.process_index)

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self._state.device

    def backward(self, loss: Tensor, last: bool) -> None:
        """Accumulate gradients of this process's loss; only with `last` are they averaged over processes."""
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        if last and self.processes > 1 and not self.sharded:
            _average(self._parameters, self.processes)

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the tensors of all processes concatenated in order of rank; no gradient flows through it.

        Args:
            tensor: Of the same shape in every process; one without dimensions counts as [1].
        """
        local = tensor.detach().reshape(-1) if tensor.dim() == 0 else tensor.detach()
        if self.processes == 1:
            return local
        parts = [torch.empty_like(local, memory_format=torch.contiguous_format) for _ in range(self.processes)]
        dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    def gather_objects(self, values: Sequence[Any]) -> list[Any]:
        """Return the lists of all processes concatenated in order of rank (plain data only)."""
        gathered: list[Any] = gather_object(list(values)) if self.processes > 1 else list(values)
        return gathered

    def wait(self) -> None:
        """Wait until all processes are here."""
        self._state.wait_for_everyone()

    def share_first(self, model: nn.Module) -> None:
        """Overwrite what is trained with the values of the first process."""
        if self.processes > 1:
            for parameter in model.parameters():
                if parameter.requires_grad:
                    dist.broadcast(parameter.data, 0)

    def first_says(self, value: Any) -> Any:
        """Return the value of the first process."""
        values = [value]
        if self.processes > 1:
            broadcast_object_list(values)
        return values[0]


def _average(parameters: Sequence[nn.Parameter], processes: int) -> None:
    """Replace gradients by their means; a parameter that no process used keeps none."""
    used = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int32)
    used = used.to(parameters[0].device)
    dist.all_reduce(used)
    touched = [parameter for parameter, count in zip(parameters, used.tolist(), strict=True) if count]
    for parameter in touched:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    bucket: list[Tensor] = []
    for place, parameter in enumerate(touched):
        bucket.append(parameter.grad)  # type: ignore[arg-type]
        if sum(gradient.numel() for gradient in bucket) >= _BUCKET or place == len(touched) - 1:
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            dist.all_reduce(flat)
            flat /= processes
            means = flat.split_with_sizes([part.numel() for part in bucket])
            for gradient, mean in zip(bucket, means, strict=True):
                gradient.copy_(mean.view_as(gradient))
            bucket = []


def leave_processes() -> None:
    """Close the connections to the other processes, at the end of this one.

    Processes that just end race: whoever still listens when the others are gone may be aborted by gloo.
    """
    state = PartialState()
    state.wait_for_everyone()
    state.destroy_process_group()
