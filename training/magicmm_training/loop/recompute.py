"""Gradient checkpointing: layers keep their inputs only, and run again in the backward pass."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from magicmm_model.model import MagicModel


def recompute_layers(model: MagicModel) -> None:
    """Make every transformer layer of both towers recompute; random numbers (dropout) are drawn the same again."""
    for layer in (*model.vision.layers, *model.language.layers):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
