"""Write the multilingual text graph: a BERT of any depth, token rows in 4 bits, and a map behind the pooling."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, TensorProto

from magicmm_export.graph import Array
from magicmm_export.nano.minilm import WIDTH, BertGraph
from magicmm_export.nano.multilingual.e5_file import BLOCK, PackedRows
from magicmm_export.nano.normalise import unit_length

NAME = "multilingual-e5"
HEAD = ("head.weight", "head.bias")


def multilingual_graph(
    tensors: Mapping[str, Array], words: PackedRows, layers: int, peaks: Mapping[str, Array] | None
) -> ModelProto:
    """Return the model `ids` int64 [b, s], `mask` int64 [b, s] -> `vector` float32 [b, 384].

    Args:
        tensors: Of the encoder by their names in BERT but the token rows, and the map: `HEAD`.
        words: The token rows; both precisions store them in the 4 bits that they come in.
        layers: How many the encoder has.
        peaks: As of `text_graph`: given, products are int8; None: float32.
    """
    return _E5Graph(dict(tensors), words, layers, peaks).build()


class _E5Graph(BertGraph):
    def __init__(
        self, tensors: dict[str, Array], words: PackedRows, layers: int, peaks: Mapping[str, Array] | None
    ) -> None:
        super().__init__(NAME, tensors, layers, peaks)
        self._packed = words

    def _words(self, ids: str) -> str:
        """Unpack only the rows that a text needs; with floats, because not every runtime shifts bytes."""
        graph = self._graph
        blocks = WIDTH // BLOCK
        picked = graph.node("Gather", graph.constant("words", self._packed.codes), ids)
        codes = graph.node("Cast", picked, to=TensorProto.FLOAT)
        high = graph.node("Floor", graph.node("Mul", codes, graph.scalar(1 / 16)))
        low = graph.node("Sub", codes, graph.node("Mul", high, graph.scalar(16)))
        halves = (graph.node("Reshape", half, graph.ints(0, 0, blocks, BLOCK // 2)) for half in (low, high))
        centred = graph.node("Sub", graph.node("Concat", *halves, axis=-1), graph.scalar(8))
        scales = graph.node("Gather", graph.constant("words.scale", self._packed.scales.astype(np.float16)), ids)
        scales = graph.node("Unsqueeze", graph.node("Cast", scales, to=TensorProto.FLOAT), graph.ints(-1))
        return graph.node("Reshape", graph.node("Mul", centred, scales), graph.ints(0, 0, WIDTH))

    def _mapped(self, pooled: str) -> str:
        graph = self._graph
        weight, bias = (self._take(name) for name in HEAD)
        product = graph.node("MatMul", unit_length(graph, pooled), graph.constant(HEAD[0], weight.T))
        return graph.node("Add", product, graph.constant(HEAD[1], bias))
