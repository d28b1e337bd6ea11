"""A model without weights, and those that every runtime fills in alike: what no recipe rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from magicmm_model.config import Head
from magicmm_model.model import MagicModel
from magicmm_model.vision import resize_positions

if TYPE_CHECKING:
    from magicmm_model.checkpoint import Checkpoint
    from magicmm_model.config import ModelConfig
    from magicmm_quant.weights import RewrittenWeights


def empty_model(config: ModelConfig) -> MagicModel:
    """Return a model whose parameters have shapes and take no memory."""
    with torch.device("meta"):
        return MagicModel(config.variant(head=Head.NONE)).requires_grad_(False).eval()


def put(model: MagicModel, name: str, values: Tensor) -> None:
    """Set one parameter by its full name."""
    module_name, _, own_name = name.rpartition(".")
    setattr(model.get_submodule(module_name), own_name, nn.Parameter(values, requires_grad=False))


def fill_patches(model: MagicModel, checkpoint: Checkpoint) -> None:
    """Set what the vision tower holds in front of its layers, float32."""
    for name, parameter in list(model.vision.named_parameters()):
        if not name.startswith("layers."):
            values = checkpoint.read(f"vision.{name}").float()
            if values.shape != parameter.shape:  # only the positions have another shape at another side
                values = resize_positions(values, model.config.vision.grid)
            put(model, f"vision.{name}", values)


def fill_final_norm(model: MagicModel, weights: RewrittenWeights) -> Tensor | None:
    """Set the gain of the language model's final norm, float32.

    Returns:
        The matrix [dim, dim] behind the norm where the residual stream is rotated, or None.
    """
    closing = torch.from_numpy(weights.closing()).float()
    is_matrix = closing.ndim == 2
    put(model, "language.norm.weight", torch.ones(model.config.dim) if is_matrix else closing)
    return closing if is_matrix else None
