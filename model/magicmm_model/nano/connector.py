"""Cells of the feature map to rows that the encoder can read: "soft words"."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from magicmm_model.nano.config import NanoConfig


class SoftWords(nn.Module):
    """An MLP whose hidden layer starts as the ImageNet classifier, and its output layer as the classes' words.

    Each cell, with the mean of all cells mixed in, is classified; the roots of the chances of its likeliest classes
    weigh rows of a table that starts as the mean word rows of the class names. A token that is the mean alone leads.
    """

    def __init__(self, config: NanoConfig) -> None:
        """Allocate; `classifier` is frozen."""
        super().__init__()
        self._kept, self._share = config.kept, config.local_share
        self.classifier = nn.Linear(config.channels, config.classes).requires_grad_(False)
        self.table = nn.Parameter(torch.zeros(config.classes, config.width))
        self.shift = nn.Parameter(torch.zeros(config.width))
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, cells: Tensor) -> Tensor:
        """[b, cells, channels] -> [b, 1 + cells, width]."""
        # The classifier is linear: logits of a mixture are the mixture of logits.
        own = self.classifier(cells)
        mean = own.mean(1, keepdim=True)
        logits = torch.cat([mean, self._share * own + (1 - self._share) * mean], 1)
        best, classes = logits.softmax(-1).topk(self._kept, -1)
        weights = best.clamp_min(1e-9).sqrt()
        weights = weights / weights.sum(-1, keepdim=True)
        words = (weights[..., None] * self.table[classes]).sum(2)
        return words * self.log_scale.exp() + self.shift
