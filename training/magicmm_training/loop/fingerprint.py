"""Names for weights: two models share one exactly when every parameter is equal, bit for bit."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn


def model_fingerprint(model: nn.Module) -> str:
    """Return 32 hex digits for the configuration and all parameters of a model that is not sharded."""
    digest = hashlib.sha256(repr(model.config).encode())
    for name, parameter in model.named_parameters():
        digest.update(repr((name, str(parameter.dtype), tuple(parameter.shape))).encode())
        numbers = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(numbers.numpy().data)
    return digest.hexdigest()[:32]
