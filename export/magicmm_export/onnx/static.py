"""The vision tower a second time, as OpenVINO fuses it: quantised with scales that are known beforehand.

OpenVINO has no kernel for per-row scales. It wants QuantizeLinear and DequantizeLinear with one constant scale in front
of a product, and DequantizeLinear behind the weights. The weights are those of the first graph, in the same data file.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, TensorProto

from magicmm import ErrorCode, MagicError
from magicmm_export.graph import GraphWriter
from magicmm_export.onnx.linear import Rows
from magicmm_export.onnx.vision import write_vision
from magicmm_model.config import ModelConfig
from magicmm_quant.recipe import Recipe
from magicmm_quant.schemes import INT4
from magicmm_quant.weights import RewrittenWeights


def static_vision(
    vision: ModelProto, scales: Mapping[str, float], weights: RewrittenWeights, config: ModelConfig
) -> ModelProto:
    """Return the second graph; it points into the data file of the first one and adds nothing to it.

    Args:
        vision: The `vision` graph, whose large constants lie in a file beside it.
        scales: Of the activations of every unit, from `static_scales`.
        weights: Those that `vision` was written from, for its norms.
        config: Of `vision`.
    """
    graph = GraphWriter("vision", stored={tensor.name: tensor for tensor in vision.graph.initializer})
    write_vision(graph, StaticLinears(graph, scales), weights, config)
    return graph.model()


class StaticLinears:
    """Adds linears whose weights another graph has stored."""

    def __init__(self, graph: GraphWriter, scales: Mapping[str, float]) -> None:
        """Use the scale of each unit for what it reads."""
        self._graph = graph
        self._scales = scales

    def add(self, rows: Rows, unit: str) -> str:
        """Add a unit's product: [m, in] -> [m, out]."""
        graph, weight = self._graph, self._graph.stored(f"{unit}.weight")
        if graph.has_stored(f"{unit}.weight", TensorProto.INT8):
            value = self._rounded(rows.value, unit)
            weight = graph.node("DequantizeLinear", weight, graph.stored(f"{unit}.scales"), axis=1)
        else:
            value = rows.value
        product = graph.node("MatMul", value, weight)
        return graph.node("Add", product, graph.stored(f"{unit}.bias")) if graph.has_stored(f"{unit}.bias") else product

    def _rounded(self, value: str, unit: str) -> str:
        """Round to the codes -128 to 127."""
        graph = self._graph
        zero = graph.shared(np.array(0, np.int8))
        step = graph.constant(f"{unit}.step", np.array(self._scales[unit], np.float32))
        return graph.node("DequantizeLinear", graph.node("QuantizeLinear", value, step, zero), step, zero)


def check_static(recipe: Recipe, weights: RewrittenWeights) -> None:
    """Check that a recipe leaves the vision tower as OpenVINO reads it: it cannot unpack 4-bit weights.

    Raises:
        MagicError: `argument_invalid`.
    """
    owned = [unit for unit in weights.unit_names() if unit.startswith(("vision.", "connector."))]
    packed = [unit for unit in owned if recipe.scheme_for(unit).kind == INT4]
    if packed:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"The recipe {recipe.name} packs {packed[0]} into 4 bits, which OpenVINO cannot read.",
            "Leave out --openvino, or take a recipe that keeps vision and connector in int8, such as int8 or mixed.",
        )


def no_ranges() -> MagicError:
    """Return the error for an export that was given no photos."""
    return MagicError(
        ErrorCode.ARGUMENT_INVALID,
        "The graph for OpenVINO holds the range of all activations, and there are no photos to take it from.",
        "Add --calibrate PHOTOS, or leave out --openvino.",
    )
