"""Scale vectors to unit length inside a graph."""

from __future__ import annotations

from magicmm_export.graph import GraphWriter


def unit_length(graph: GraphWriter, vectors: str, name: str = "") -> str:
    """Divide by the length along the last axis.

    `LpNormalization` would be one node, but its result for a row differs in the last bit with the size of the batch.
    """
    length = graph.node("ReduceL2", vectors, graph.ints(-1), keepdims=1)
    return graph.node("Div", vectors, graph.node("Max", length, graph.scalar(1e-12)), name=name)
