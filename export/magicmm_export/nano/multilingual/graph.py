"""Write the multilingual text graph: an encoder of any depth, token rows in 4 bits, and a map behind the pooling."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, TensorProto

from magicmm_export.graph import Array, GraphWriter
from magicmm_export.nano.encoder import EncoderWriter
from magicmm_export.nano.multilingual.e5_file import BLOCK, PackedRows
from magicmm_export.nano.normalise import unit_length
from magicmm_model.nano.config import NanoConfig

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
    graph = GraphWriter(NAME)
    ids = graph.input("ids", TensorProto.INT64, ("b", "s"))
    mask = graph.node("Cast", graph.input("mask", TensorProto.INT64, ("b", "s")), to=TensorProto.FLOAT)
    rest = {name: tensor for name, tensor in tensors.items() if name not in HEAD}
    config = NanoConfig(layers=layers, vocab=len(words.codes))
    encoder = EncoderWriter(graph, rest, peaks, config)
    hidden = encoder.hidden(mask)
    rows = encoder.layers(encoder.enter(_unpacked(graph, words, ids), ids), hidden, ids)
    vector = _mapped(graph, encoder.pool(rows, mask, ids), *(tensors[name] for name in HEAD))
    graph.output(vector, TensorProto.FLOAT, ("b", config.width))
    encoder.check_used()
    return graph.model()


def _unpacked(graph: GraphWriter, words: PackedRows, ids: str) -> str:
    """Unpack only the rows [b, s, width] that a text needs; with floats, because not every runtime shifts bytes."""
    blocks = words.scales.shape[1]
    codes = graph.node("Cast", graph.node("Gather", graph.constant("words", words.codes), ids), to=TensorProto.FLOAT)
    high = graph.node("Floor", graph.node("Mul", codes, graph.scalar(1 / 16)))
    low = graph.node("Sub", codes, graph.node("Mul", high, graph.scalar(16)))
    halves = (graph.node("Reshape", half, graph.ints(0, 0, blocks, BLOCK // 2)) for half in (low, high))
    centred = graph.node("Sub", graph.node("Concat", *halves, axis=-1), graph.scalar(8))
    scales = graph.node("Gather", graph.constant("words.scale", words.scales.astype(np.float16)), ids)
    scales = graph.node("Unsqueeze", graph.node("Cast", scales, to=TensorProto.FLOAT), graph.ints(-1))
    return graph.node("Reshape", graph.node("Mul", centred, scales), graph.ints(0, 0, blocks * BLOCK))


def _mapped(graph: GraphWriter, pooled: str, weight: Array, bias: Array) -> str:
    """Add the map of unit rows [b, width], and unit length again; of two equal rows, see `EncoderWriter.pool`."""
    pair = graph.node("Concat", *[graph.node("Unsqueeze", pooled, graph.ints(1))] * 2, axis=1)
    product = graph.node("MatMul", pair, graph.constant(HEAD[0], weight.T))
    both = graph.node("Add", product, graph.constant(HEAD[1], bias))
    return unit_length(graph, graph.node("ReduceSum", both, graph.ints(1), keepdims=0), name="vector")
