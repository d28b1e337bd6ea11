"""One part of a model in torch, with the rewritten weights of a checkpoint: what is converted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magicmm_export.decomposition.frame import empty_model, fill_final_norm, fill_patches
from magicmm_quant.sources import RewrittenSource
from magicmm_quant.streaming import CONNECTOR, LANGUAGE, VISION

if TYPE_CHECKING:
    from torch import Tensor

    from magicmm_model.checkpoint import Checkpoint
    from magicmm_model.config import ModelConfig
    from magicmm_model.model import MagicModel
    from magicmm_quant.weights import RewrittenWeights


def vision_model(checkpoint: Checkpoint, config: ModelConfig, weights: RewrittenWeights) -> MagicModel:
    """Return a model whose vision tower and connector hold float32 values; the rest takes no memory."""
    model = empty_model(config)
    fill_patches(model, checkpoint)
    source = RewrittenSource(weights, config)
    for place, layer in enumerate(model.vision.layers):
        source.fill(layer, f"{VISION}.layers.{place}")
    source.fill(model.connector, CONNECTOR)
    return model


def language_model(config: ModelConfig, weights: RewrittenWeights, layers: range) -> tuple[MagicModel, Tensor | None]:
    """Return a model some of whose language layers hold float32 values; the rest, the token table too, takes no memory.

    Returns:
        The model, and the matrix [dim, dim] behind the final norm where the residual stream is rotated, or None.
    """
    model = empty_model(config)
    source = RewrittenSource(weights, config)
    for place in layers:
        source.fill(model.language.layers[place], f"{LANGUAGE}.layers.{place}")
    return model, fill_final_norm(model, weights)
