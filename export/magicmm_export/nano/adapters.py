"""Low-rank adapters beside the products of the encoder: float32, and stored in 8 bits until a graph opens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from magicmm_export.graph import Array, GraphWriter
from magicmm_export.nano.linear import Precision

if TYPE_CHECKING:
    from magicmm_model.nano.config import NanoConfig

PRODUCTS = (("query", "key", "value"), ("mixed",), ("inner",), ("outer",))
"""The products of a layer, by the parts that each joins: these read the same rows, and their adapters share one."""


class AdapterWriter:
    """Adds adapters to a graph. All are one matrix, with a scale a row: many constants take more bytes."""

    def __init__(
        self, graph: GraphWriter, tensors: Mapping[str, Array], config: NanoConfig, precision: Precision
    ) -> None:
        """Store all adapters.

        Args:
            graph: Where the nodes go.
            tensors: `LAYER.PART.down` [rank, in] and `LAYER.PART.up` [out, rank]; in and out are multiples of width.
            config: Shapes.
            precision: Of what is stored.
        """
        self._graph = graph
        self._shapes: dict[str, tuple[int, ...]] = {}
        matrices: dict[str, Array] = {}
        for layer in map(str, range(config.layers)):
            for parts in PRODUCTS:
                matrices[_down(layer, parts)] = np.concatenate([tensors[f"{layer}.{part}.down"] for part in parts])
                matrices |= {_up(layer, part): tensors[f"{layer}.{part}.up"].T for part in parts}
        rows = [matrix.reshape(-1, config.width) for matrix in matrices.values()]
        self._shapes = {name: matrix.shape for name, matrix in matrices.items()}
        sizes = graph.constant("adapters.sizes", np.array([len(piece) for piece in rows], np.int64))
        graph.nodes("Split", self._store(np.concatenate(rows), precision), sizes, names=tuple(matrices), axis=0)
        self._width = config.width

    def __call__(self, rows: str, found: str, layer: str, parts: tuple[str, ...]) -> str:
        """Add what the adapters of some parts of a layer say of rows [m, in] to what was found, [m, outs]."""
        graph = self._graph
        down = graph.node("Transpose", self._matrix(_down(layer, parts)), perm=[1, 0])
        narrow = graph.node("MatMul", rows, down)
        if len(parts) == 1:
            return graph.node("Add", found, graph.node("MatMul", narrow, self._matrix(_up(layer, parts[0]))))
        names = tuple(f"adapter.{layer}.{part}" for part in parts)
        pieces = graph.nodes("Split", narrow, names=names, axis=1, num_outputs=len(parts))
        wide = [
            graph.node("MatMul", piece, self._matrix(_up(layer, part)))
            for piece, part in zip(pieces, parts, strict=True)
        ]
        return graph.node("Add", found, graph.node("Concat", *wide, axis=1))

    def _store(self, matrix: Array, precision: Precision) -> str:
        if precision is Precision.FP32:
            return self._graph.constant("adapters", matrix)
        # Rounded up, so that no code is beyond 127.
        scale = np.nextafter((np.abs(matrix).max(1) / 127).astype(np.float16), np.float16(np.inf))
        codes = np.rint(matrix / scale[:, None].astype(np.float32)).astype(np.int8)
        values = self._graph.node("Cast", self._graph.constant("adapters", codes), to=TensorProto.FLOAT)
        scales = self._graph.node("Cast", self._graph.constant("adapters.scale", scale[:, None]), to=TensorProto.FLOAT)
        return self._graph.node("Mul", values, scales)

    def _matrix(self, name: str) -> str:
        """Return a matrix in its shape; it was stored in rows of the width."""
        shape = self._shapes[name]
        return name if shape[1] == self._width else self._graph.node("Reshape", name, self._graph.ints(*shape))


def _down(layer: str, parts: tuple[str, ...]) -> str:
    return f"adapter.{layer}.{parts[0]}.down"


def _up(layer: str, part: str) -> str:
    return f"adapter.{layer}.{part}.up"
