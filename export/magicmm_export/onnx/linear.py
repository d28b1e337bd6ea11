"""Linear layers as ONNX nodes, in the scheme that the recipe gives each unit.

Activations are quantised per row: a scale per tensor would let one outlier token ruin the others, and would make a
vector depend on its neighbours in the batch (docs/decisions/0006).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from magicmm_export.graph import CONTRIB, GraphWriter
from magicmm_quant.schemes import Int4Weights, Int8Weights

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PlainWeights:
    """Weights left in float32: [out, in]."""

    weight: Array


StoredWeights = PlainWeights | Int8Weights | Int4Weights


class UnitSource(Protocol):
    """Gives the weights of a unit, quantised by the recipe."""

    def weights(self, unit: str) -> tuple[StoredWeights, Array | None]:
        """Return weights and bias."""
        ...


@dataclass(slots=True)
class Rows:
    """Activations [m, in] in a graph, quantised at most once however many linears read them."""

    value: str
    _quantised: tuple[str, str] | None = None

    def quantised(self, graph: GraphWriter) -> tuple[str, str]:
        """Return uint8 codes [m, in] around 128, and the scale of each row [m]."""
        if self._quantised is None:
            peak = graph.node("ReduceMax", graph.node("Abs", self.value), graph.ints(1), keepdims=0)
            scale = graph.node("Max", graph.node("Mul", peak, graph.scalar(1 / 127)), graph.scalar(1e-12))
            zero = np.array([128], np.uint8)
            zeros = graph.node("Expand", graph.shared(zero), graph.node("Shape", scale))
            self._quantised = graph.node("QuantizeLinear", self.value, scale, zeros, axis=0), scale
        return self._quantised

    def gathered(self, graph: GraphWriter, places: str) -> Rows:
        """Return some of the rows; codes and scales are taken along instead of being computed again."""
        taken = Rows(graph.node("Gather", self.value, places, axis=0))
        if self._quantised is not None:
            codes, scale = (graph.node("Gather", part, places, axis=0) for part in self._quantised)
            taken._quantised = codes, scale
        return taken


class Linears(Protocol):
    """Adds the linears of a graph, each as one product however its weights are stored."""

    def add(self, rows: Rows, unit: str) -> str:
        """Add a unit's product: [m, in] -> [m, out]."""
        ...


class LinearWriter:
    """Adds the linears of a graph."""

    def __init__(self, graph: GraphWriter, source: UnitSource, low_memory: bool = False) -> None:
        """Write 4-bit units unpacked to int8 when the session opens, or with low_memory as they are (slower)."""
        self._graph = graph
        self._source = source
        self._low_memory = low_memory

    def add(self, rows: Rows, unit: str) -> str:
        """Add a unit's product: [m, in] -> [m, out]."""
        weights, bias = self._source.weights(unit)
        return self._product(rows, unit, weights, bias)

    def add_split(self, rows: Rows, unit: str, at: int) -> tuple[PartialUnit, PartialUnit]:
        """Split a unit's outputs in two products that may read different rows."""
        weights, bias = self._source.weights(unit)
        return tuple(
            PartialUnit(self, f"{unit}.{name}", _outputs(weights, part), None if bias is None else bias[part])
            for name, part in (("first", slice(0, at)), ("second", slice(at, None)))
        )  # type: ignore[return-value]

    def _product(self, rows: Rows, unit: str, weights: StoredWeights, bias: Array | None) -> str:
        graph = self._graph
        if isinstance(weights, PlainWeights):
            product = graph.node("MatMul", rows.value, graph.constant(f"{unit}.weight", weights.weight.T))
        elif isinstance(weights, Int4Weights) and self._low_memory:
            product = self._blocks(rows, unit, weights)
        else:
            product = self._int8(rows, unit, weights)
        if bias is None:
            return product
        return graph.node("Add", product, graph.constant(f"{unit}.bias", bias))

    def _int8(self, rows: Rows, unit: str, weights: Int8Weights | Int4Weights) -> str:
        graph = self._graph
        codes, row_scale = rows.quantised(graph)
        if isinstance(weights, Int4Weights):
            stored = graph.packed(f"{unit}.weight", weights.codes.T, weights.multipliers.T)
        else:
            stored = graph.constant(f"{unit}.weight", weights.codes.T)
        one, zero = graph.scalar(1.0), graph.shared(np.array(128, np.uint8))
        scales = graph.constant(f"{unit}.scales", weights.scales)
        product = graph.node("MatMulIntegerToFloat", codes, stored, one, scales, zero, domain=CONTRIB)
        return graph.node("Mul", product, graph.node("Unsqueeze", row_scale, graph.ints(1)))

    def _blocks(self, rows: Rows, unit: str, weights: Int4Weights) -> str:
        """Multiply by 4-bit blocks; the runtime quantises the rows itself, block by block."""
        graph = self._graph
        outputs, inputs = weights.codes.shape
        groups = weights.multipliers.shape[1]
        nibbles = (weights.codes + 8).astype(np.uint8).reshape(outputs, groups, inputs // groups)
        packed = nibbles[..., 0::2] | nibbles[..., 1::2] << 4
        scales = weights.multipliers * weights.scales[:, None]
        return graph.node(
            "MatMulNBits",
            rows.value,
            graph.constant(f"{unit}.weight", packed),
            graph.constant(f"{unit}.scales", scales.astype(np.float32)),
            domain=CONTRIB,
            K=inputs,
            N=outputs,
            bits=4,
            block_size=inputs // groups,
            accuracy_level=4,  # int8 activations per row and block
        )


@dataclass(frozen=True, slots=True)
class PartialUnit:
    """Some outputs of a unit."""

    _writer: LinearWriter
    _name: str
    _weights: StoredWeights
    _bias: Array | None

    def add(self, rows: Rows) -> str:
        """Add the product: [m, in] -> [m, part]."""
        return self._writer._product(rows, self._name, self._weights, self._bias)


def _outputs(weights: StoredWeights, part: slice) -> StoredWeights:
    if isinstance(weights, PlainWeights):
        return PlainWeights(weights.weight[part])
    if isinstance(weights, Int8Weights):
        return Int8Weights(weights.codes[part], weights.scales[part])
    return Int4Weights(weights.codes[part], weights.multipliers[part], weights.scales[part])
