"""AdamW with decay for matrices only, and clipping of gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.distributed.tensor import DTensor

if TYPE_CHECKING:
    from torch import Tensor, nn

    from magicmm_training.recipe import Optimiser


def build_optimiser(model: nn.Module, settings: Optimiser) -> torch.optim.AdamW:
    """Return AdamW over the parameters that are trained; vectors (norms, biases, LayerScale) do not decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [one for one in trained if one.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [one for one in trained if one.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.lr, betas=settings.betas)


def clip_gradients(model: nn.Module, most: float) -> float:
    """Scale all gradients down to a common norm of `most`; return the norm before. Not finite: nothing is changed."""
    gradients = [one.grad for one in model.parameters() if one.grad is not None]
    if not gradients:
        return 0.0
    norm: Tensor = torch.nn.utils.get_total_norm(gradients)
    total = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    if most < total < float("inf"):
        for gradient in gradients:
            gradient.mul_(most / total)
    return total
