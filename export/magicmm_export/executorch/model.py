"""The model with a recipe's weights: codes and scales where XNNPACK multiplies in 8 bits, float32 elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torchao.quantization.quantize_.workflows.intx.intx_unpacked_to_int8_tensor import (
    IntxUnpackedToInt8Tensor,
    IntxUnpackedToInt8TensorActivationQuantization,
)

from magicmm_export.decomposition.frame import empty_model, fill_final_norm, fill_patches, put
from magicmm_export.onnx.linear import PlainWeights, StoredWeights, UnitSource
from magicmm_quant.schemes import Int8Weights
from magicmm_quant.units import unit_plans

if TYPE_CHECKING:
    from magicmm_model.checkpoint import Checkpoint
    from magicmm_model.config import ModelConfig
    from magicmm_model.model import MagicModel
    from magicmm_quant.weights import RewrittenWeights

_ROWS = IntxUnpackedToInt8TensorActivationQuantization.INT8_ASYM_PER_TOKEN
"""Each row of activations gets a scale and a zero point when it is there; no vector depends on its neighbours."""


def quantised_model(
    checkpoint: Checkpoint, config: ModelConfig, weights: RewrittenWeights, source: UnitSource
) -> tuple[MagicModel, Tensor | None]:
    """Fill a model unit by unit; memory holds what the recipe leaves of it and one unit in float32.

    Args:
        checkpoint: For the patches, whose weights no rewrite is needed for.
        config: The variant that is exported.
        weights: The checkpoint's, rewritten, for its norms.
        source: Gives each unit as the recipe stores it.

    Returns:
        The model, without its token table, and what is multiplied behind the final norm: [dim, dim], or None.
    """
    model = empty_model(config)
    fill_patches(model, checkpoint)
    for unit, plan in unit_plans(config).items():
        stored, bias = source.weights(unit)
        start = 0
        for part in plan.parts:
            stop = start + len(cast("Tensor", model.get_submodule(part).weight))
            put(model, f"{part}.weight", linear_weight(stored, slice(start, stop)))
            if bias is not None:
                put(model, f"{part}.bias", torch.from_numpy(bias[start:stop]))
            start = stop
        if plan.norm:
            gain, shift = weights.norm(plan.norm)
            put(model, f"{plan.norm}.weight", torch.from_numpy(gain))
            if shift is not None:
                put(model, f"{plan.norm}.bias", torch.from_numpy(shift))
        if plan.layer_scale:
            put(model, plan.layer_scale, torch.ones(config.vision.hidden_size))
    return model, fill_final_norm(model, weights)


def linear_weight(stored: StoredWeights, rows: slice = slice(None)) -> Tensor:
    """Return rows of a unit, by default all, as what a linear layer takes for its weight."""
    if isinstance(stored, PlainWeights):
        return torch.from_numpy(stored.weight[rows])
    is_int8 = isinstance(stored, Int8Weights)
    codes = torch.from_numpy(stored.codes[rows])
    scales = torch.from_numpy(
        (stored.scales[:, None] if isinstance(stored, Int8Weights) else stored.group_scales)[rows]
    )
    return IntxUnpackedToInt8Tensor(
        codes,
        scales,
        torch.zeros(scales.shape, dtype=torch.int8),
        torch.int8 if is_int8 else torch.int4,  # type: ignore[attr-defined] # torch has it without a type
        (1, codes.shape[1] // scales.shape[1]),
        torch.float32,
        _ROWS,
    )
