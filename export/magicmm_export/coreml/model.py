"""One part of a model in torch, with the rewritten weights of a checkpoint: what is converted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from magicmm_model.config import Head
from magicmm_model.model import MagicModel
from magicmm_model.vision import resize_positions
from magicmm_quant.sources import RewrittenSource
from magicmm_quant.streaming import CONNECTOR, LANGUAGE, VISION

if TYPE_CHECKING:
    from magicmm_model.checkpoint import Checkpoint
    from magicmm_model.config import ModelConfig
    from magicmm_quant.weights import RewrittenWeights


def vision_model(checkpoint: Checkpoint, config: ModelConfig, weights: RewrittenWeights) -> MagicModel:
    """Return a model whose vision tower and connector hold float32 values; the rest takes no memory."""
    model = _frame(config)
    for name, parameter in list(model.vision.named_parameters()):
        if not name.startswith("layers."):
            values = checkpoint.read(f"vision.{name}").float()
            if values.shape != parameter.shape:  # only the positions have another shape at another side
                values = resize_positions(values, config.vision.grid)
            setattr(*_place(model.vision, name), _parameter(values))
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
    model = _frame(config)
    source = RewrittenSource(weights, config)
    for place in layers:
        source.fill(model.language.layers[place], f"{LANGUAGE}.layers.{place}")
    closing = torch.from_numpy(weights.closing()).float()
    is_matrix = closing.ndim == 2
    model.language.norm.weight = _parameter(torch.ones(config.dim) if is_matrix else closing)
    return model, closing if is_matrix else None


def _frame(config: ModelConfig) -> MagicModel:
    with torch.device("meta"):
        return MagicModel(config.variant(head=Head.NONE)).requires_grad_(False).eval()


def _place(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    owner, _, own = name.rpartition(".")
    return module.get_submodule(owner), own


def _parameter(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)
