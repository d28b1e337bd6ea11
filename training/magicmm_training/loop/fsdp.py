"""Fully sharded data parallel (FSDP2): every process holds its share of each parameter, gradient and moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from magicmm.errors import ErrorCode, MagicError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from magicmm_training.loop.forward import TrainableModel


def shard_model(model: TrainableModel, dtype: torch.dtype, device: torch.device) -> None:
    """Shard a model in place: each transformer layer is a unit that is gathered when it runs, the rest is one more.

    Parameters and moments stay in their types; layers are gathered in `dtype`, gradients are summed in float32.

    Args:
        model: Whole, the same in every process.
        dtype: Of the forward pass.
        device: Of this process.

    Raises:
        MagicError: `argument_invalid` without other processes.
    """
    if not dist.is_initialized():
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            "Sharding needs several processes, and this is the only one.",
            "Start the run with torchrun --nproc-per-node N, or do not shard.",
        )
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(
        param_dtype=None if dtype == torch.float32 else dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for layer in (*model.model.vision.layers, *model.model.language.layers):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    model.always_see = True


def local_part(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor: all of it, when it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole_tensors(module: nn.Module, keep: bool) -> dict[str, Tensor]:
    """Gather all parameters on the CPU, one after the other.

    Args:
        module: All processes must call this together.
        keep: Whether this process wants them; the others help and get nothing.
    """
    whole = {}
    for name, parameter in module.named_parameters():
        tensor = parameter.detach()
        tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if keep:
            whole[name] = tensor.cpu()
    return whole
