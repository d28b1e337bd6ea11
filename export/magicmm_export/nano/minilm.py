"""Write the text graph: all-MiniLM-L6-v2 (BERT, 6 layers of 384), mean pooling, unit length."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from onnx import ModelProto, TensorProto
from safetensors.numpy import load_file

from magicmm_export.graph import Array, GraphWriter
from magicmm_export.nano.encoder import EncoderWriter, block_inputs
from magicmm_model.nano.config import NanoConfig

NANO = NanoConfig()
HEADS = NANO.heads
HEAD_WIDTH = NANO.width // NANO.heads
BLOCK_INPUTS = block_inputs(NANO.layers)


def text_graph(weights: Path, peaks: Mapping[str, Array] | None, config: NanoConfig = NANO) -> ModelProto:
    """Return the model `ids` int64 [b, s], `mask` int64 [b, s] -> `vector` float32 [b, 384].

    Args:
        weights: The safetensors file.
        peaks: Largest magnitude of each channel of `BLOCK_INPUTS`: the graph is int8. None: it is float32.
        config: Shapes.
    """
    graph = GraphWriter("minilm")
    ids = graph.input("ids", TensorProto.INT64, ("b", "s"))
    mask = graph.node("Cast", graph.input("mask", TensorProto.INT64, ("b", "s")), to=TensorProto.FLOAT)
    encoder = EncoderWriter(graph, load_file(weights), peaks, config)
    hidden = encoder.hidden(mask)
    rows = encoder.layers(encoder.enter(encoder.words(ids), ids), hidden, ids)
    graph.output(encoder.pool(rows, mask, ids, name="vector"), TensorProto.FLOAT, ("b", config.width))
    encoder.check_used()
    return graph.model()
