"""Write the text graph: all-MiniLM-L6-v2 (BERT, 6 layers of 384), mean pooling, unit length."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto
from safetensors.numpy import load_file

from magicmm_export.graph import Array, GraphWriter
from magicmm_export.nano.linear import float_linear, int8_linear, quantise_rows
from magicmm_export.nano.normalise import unit_length

WIDTH = 384
HEADS = 12
LAYERS = 6
HEAD_WIDTH = WIDTH // HEADS
LAYER_NORM_EPSILON = 1e-12
GELU_FLOOR = -0.17  # the least value of GELU, -0.16997, rounded down
# Not part of the sentence vector: the pooler serves next-sentence prediction, the ids are 0, 1, 2, ...
UNUSED = frozenset({"pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"})


# The values whose channels `peaks` describes: what every attention and every feed-forward block reads.
BLOCK_INPUTS = (
    "embeddings.LayerNorm",
    *(f"encoder.layer.{i}.{part}.LayerNorm" for i in range(LAYERS) for part in ("attention.output", "output")),
)[:-1]


def text_graph(weights: Path, peaks: Mapping[str, Array] | None) -> ModelProto:
    """Return the model `ids` int64 [b, s], `mask` int64 [b, s] -> `vector` float32 [b, 384].

    Args:
        weights: The safetensors file.
        peaks: Largest magnitude of each channel of `BLOCK_INPUTS`: the graph is int8. None: it is float32.
    """
    return _TextGraph(load_file(weights), peaks).build()


class _TextGraph:
    """One build; takes each tensor out of the checkpoint once, so that none can be forgotten."""

    def __init__(self, tensors: dict[str, Array], peaks: Mapping[str, Array] | None) -> None:
        self._tensors = tensors
        self._peaks = peaks
        self._graph = GraphWriter("minilm")

    def build(self) -> ModelProto:
        graph = self._graph
        ids = graph.input("ids", TensorProto.INT64, ("b", "s"))
        mask = graph.node("Cast", graph.input("mask", TensorProto.INT64, ("b", "s")), to=TensorProto.FLOAT)
        # Far below every score, so that the softmax of a padded position is exactly zero.
        hidden_keys = graph.node("Mul", graph.node("Sub", mask, graph.scalar(1)), graph.scalar(1e4))
        key_bias = graph.node("Unsqueeze", hidden_keys, graph.ints(1, 2))
        rows = self._embed(ids)
        for index in range(LAYERS):
            rows = self._layer(rows, ids, key_bias, f"encoder.layer.{index}")
        self._pool(rows, ids, mask)
        if left := set(self._tensors) - UNUSED:
            raise ValueError(f"The text checkpoint holds tensors that the graph does not use: {sorted(left)}")
        return graph.model()

    def _embed(self, ids: str) -> str:
        """Add token, position and type rows, flattened to [b * s, 384]."""
        graph = self._graph
        table = self._take("embeddings.word_embeddings.weight")
        token_type = self._take("embeddings.token_type_embeddings.weight")[0]
        positions = self._take("embeddings.position_embeddings.weight") + token_type
        if self._peaks is None:
            words = graph.node("Gather", graph.constant("words", table), ids)
        else:
            codes, scale = quantise_rows(table)
            picked = graph.node("Gather", graph.constant("words", codes), ids)
            row_scale = graph.node("Gather", graph.constant("words.scale", scale[:, None]), ids)
            words = graph.node("Mul", graph.node("Cast", picked, to=TensorProto.FLOAT), row_scale)
        length = graph.node("Shape", ids, start=1, end=2)
        used = graph.node("Slice", graph.constant("positions", positions), graph.ints(0), length, graph.ints(0))
        rows = graph.node("Reshape", graph.node("Add", words, used), graph.ints(-1, WIDTH))
        return self._norm(rows, "embeddings.LayerNorm")

    def _layer(self, rows: str, ids: str, key_bias: str, name: str) -> str:
        graph = self._graph
        attended = self._attention(rows, ids, key_bias, f"{name}.attention.self")
        mixed = self._linear(attended, (f"{name}.attention.output.dense",))
        rows = self._norm(graph.node("Add", rows, mixed), f"{name}.attention.output.LayerNorm")
        inner = graph.node("Gelu", self._linear(rows, (f"{name}.intermediate.dense",)))
        outer = self._linear(inner, (f"{name}.output.dense",), floor=GELU_FLOOR)
        return self._norm(graph.node("Add", rows, outer), f"{name}.output.LayerNorm")

    def _attention(self, rows: str, ids: str, key_bias: str, name: str) -> str:
        """Add multi-head attention; the three projections share one product and one activation scale."""
        graph = self._graph
        joined = self._linear(rows, tuple(f"{name}.{part}" for part in ("query", "key", "value")))
        shape = graph.node("Concat", graph.node("Shape", ids), graph.ints(3, HEADS, HEAD_WIDTH), axis=0)
        heads = graph.node("Transpose", graph.node("Reshape", joined, shape), perm=[2, 0, 3, 1, 4])
        query, key, value = (graph.node("Gather", heads, graph.shared(np.array(i, np.int64)), axis=0) for i in range(3))
        query = graph.node("Mul", query, graph.scalar(HEAD_WIDTH**-0.5))
        scores = graph.node("MatMul", query, graph.node("Transpose", key, perm=[0, 1, 3, 2]))
        shares = graph.node("Softmax", graph.node("Add", scores, key_bias), axis=-1)
        context = graph.node("Transpose", graph.node("MatMul", shares, value), perm=[0, 2, 1, 3])
        return graph.node("Reshape", context, graph.ints(-1, WIDTH))

    def _pool(self, rows: str, ids: str, mask: str) -> None:
        """Add the mean over real positions; its divisor is left out, because the length becomes 1 anyway.

        A product of matrices sums in one order whatever the batch and the padding; `ReduceSum` and the runtime's
        product with a single row do not. Hence two equal rows, whose sum only doubles the length.
        """
        graph = self._graph
        shape = graph.node("Concat", graph.node("Shape", ids), graph.ints(WIDTH), axis=0)
        pair = graph.node("Concat", *[graph.node("Unsqueeze", mask, graph.ints(1))] * 2, axis=1)
        total = graph.node("MatMul", pair, graph.node("Reshape", rows, shape))
        total = graph.node("ReduceSum", total, graph.ints(1), keepdims=0)
        vector = unit_length(graph, total, name="vector")
        graph.output(vector, TensorProto.FLOAT, ("b", WIDTH))

    def _linear(self, rows: str, names: tuple[str, ...], floor: float | None = None) -> str:
        """Add one product for all the layers named, which read the same rows."""
        weight = np.concatenate([self._take(f"{name}.weight") for name in names])
        bias = np.concatenate([self._take(f"{name}.bias") for name in names])
        if self._peaks is None:
            return float_linear(self._graph, rows, weight, bias, names[0])
        return int8_linear(self._graph, rows, weight, bias, names[0], self._peaks.get(rows), floor)

    def _norm(self, rows: str, name: str) -> str:
        weight = self._graph.constant(f"{name}.weight", self._take(f"{name}.weight"))
        bias = self._graph.constant(f"{name}.bias", self._take(f"{name}.bias"))
        return self._graph.node(
            "LayerNormalization", rows, weight, bias, name=name, axis=-1, epsilon=LAYER_NORM_EPSILON
        )

    def _take(self, name: str) -> Array:
        return self._tensors.pop(name)
