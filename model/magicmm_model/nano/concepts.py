"""Local ConSE: the concept bank, teacher of the encoder and part of photo vectors (decision 0003).

Chances of classes weigh the vectors of the classes' names. Two readings: the sharp one, where the whole picture speaks
in every place and few classes count, finds what a photo is about; the local one, the mean of what each place says by
itself, keeps the background and what is small.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from magicmm_model.nano.config import CELL_SHARE, GLOBAL_WEIGHT


class ConceptBank(nn.Module):
    """A vector for each class; nothing of it is trained."""

    def __init__(self, classes: int, width: int, power: float) -> None:
        """Allocate; chances to this power weigh vectors."""
        super().__init__()
        self._power = power
        self.register_buffer("vectors", torch.zeros(classes, width))

    vectors: Tensor

    def sharp(self, logits: Tensor, kept: int) -> Tensor:
        """Return unit vectors [b, width] for the logits of cells [b, cells, classes]; so many classes count."""
        mean = logits.mean(1, keepdim=True)
        local = (CELL_SHARE * logits + (1 - CELL_SHARE) * mean).softmax(-1).mean(1)
        return self._mixed(local + GLOBAL_WEIGHT * mean.squeeze(1).softmax(-1), kept)

    def local(self, logits: Tensor, kept: int) -> Tensor:
        """Return the same for what each place says by itself."""
        return self._mixed(logits.softmax(-1).mean(1), kept)

    def _mixed(self, chances: Tensor, kept: int) -> Tensor:
        best, classes = chances.topk(kept, -1)
        return functional.normalize((best**self._power)[..., None].mul(self.vectors[classes]).sum(1), dim=-1)
