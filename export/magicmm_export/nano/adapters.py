"""Low-rank adapters beside the products of the encoder, float32; stored in 8 bits they become float as a graph opens."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import TensorProto

from magicmm_export.graph import Array, GraphWriter
from magicmm_export.nano.linear import Precision, quantise_rows


class AdapterWriter:
    """Adds adapters; those of joined products share their first product."""

    def __init__(self, graph: GraphWriter, tensors: Mapping[str, Array], precision: Precision) -> None:
        """Begin.

        Args:
            graph: Where the nodes go.
            tensors: `LAYER.PART.down` [rank, in] and `LAYER.PART.up` [out, rank].
            precision: Of what is stored.
        """
        self._graph = graph
        self._tensors = tensors
        self._precision = precision

    def __call__(self, rows: str, found: str, layer: str, parts: tuple[str, ...]) -> str:
        """Add what the adapters of some parts of a layer say of rows [m, in] to what was found, [m, outs]."""
        graph = self._graph
        downs = [self._tensors[f"{layer}.{part}.down"] for part in parts]
        name = f"adapter.{layer}.{parts[0]}"
        narrow = graph.node("MatMul", rows, self._turned(f"{name}.down", np.concatenate(downs)))
        pieces: tuple[str, ...] = (narrow,)
        if len(parts) > 1:
            names = tuple(f"adapter.{layer}.{part}" for part in parts)
            pieces = graph.nodes("Split", narrow, names=names, axis=1, num_outputs=len(parts))
        wide = [
            graph.node("MatMul", piece, self._rows(f"adapter.{layer}.{part}.up", self._tensors[f"{layer}.{part}.up"].T))
            for piece, part in zip(pieces, parts, strict=True)
        ]
        said = graph.node("Concat", *wide, axis=1) if len(parts) > 1 else wide[0]
        return graph.node("Add", found, said)

    def _rows(self, name: str, matrix: Array) -> str:
        """Store a matrix, with a scale for each of its rows."""
        if self._precision is Precision.FP32:
            return self._graph.constant(name, matrix)
        codes, scale = quantise_rows(matrix)
        return self._loaded(name, codes, scale[:, None])

    def _turned(self, name: str, matrix: Array) -> str:
        """Store the transpose of a matrix, with a scale for each of its columns."""
        if self._precision is Precision.FP32:
            return self._graph.constant(name, matrix.T)
        codes, scale = quantise_rows(matrix)
        return self._loaded(name, codes.T, scale)

    def _loaded(self, name: str, codes: Array, scale: Array) -> str:
        graph = self._graph
        values = graph.node("Cast", graph.constant(name, codes), to=TensorProto.FLOAT)
        return graph.node("Mul", values, graph.constant(f"{name}.scale", scale))
