"""Local ConSE: the concept bank, teacher of the model and part of its photo vectors (decision 0003)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from magicmm_model.nano.config import CELL_SHARE, GLOBAL_WEIGHT


class ConceptBank(nn.Module):
    """Chances of classes at the places of a map, and in all of it, weigh the vectors of the classes' names."""

    def __init__(self, classes: int, width: int, kept: int, power: float) -> None:
        """Allocate; nothing of it is trained."""
        super().__init__()
        self._kept, self._power = kept, power
        self.register_buffer("vectors", torch.zeros(classes, width))

    vectors: Tensor

    def forward(self, logits: Tensor) -> Tensor:
        """Return unit vectors [b, width] for the logits of cells [b, cells, classes]."""
        mean = logits.mean(1, keepdim=True)
        local = (CELL_SHARE * logits + (1 - CELL_SHARE) * mean).softmax(-1).mean(1)
        best, classes = (local + GLOBAL_WEIGHT * mean.squeeze(1).softmax(-1)).topk(self._kept, -1)
        return functional.normalize(((best**self._power)[..., None] * self.vectors[classes]).sum(1), dim=-1)
