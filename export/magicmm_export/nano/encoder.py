"""The encoder as nodes: MiniLM (BERT, post-norm) with mean pooling, and adapters beside its products where there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from magicmm_export.graph import Array, GraphWriter
from magicmm_export.nano.linear import Store, float_linear, int8_linear, quantise_rows
from magicmm_export.nano.normalise import unit_length

if TYPE_CHECKING:
    from magicmm_model.nano.config import NanoConfig

    Adapt = Callable[[str, str, str, tuple[str, ...]], str]
    """Rows, what the pretrained product made of them, the layer, and the parts of it that the product joins."""

LAYER_NORM_EPSILON = 1e-12
GELU_FLOOR = -0.17  # the least value of GELU, -0.16997, rounded down
# Not part of the sentence vector: the pooler serves next-sentence prediction, the ids are 0, 1, 2, ...
UNUSED = frozenset({"pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"})


def block_inputs(layers: int) -> tuple[str, ...]:
    """Name the values that every attention and every feed-forward block reads; `peaks` describes their channels."""
    parts = ("attention.output", "output")
    blocks = (f"encoder.layer.{place}.{part}.LayerNorm" for place in range(layers) for part in parts)
    return ("embeddings.LayerNorm", *blocks)[:-1]


class EncoderWriter:
    """One encoder in one graph; takes each tensor out of the checkpoint once, so that none can be forgotten."""

    def __init__(
        self,
        graph: GraphWriter,
        tensors: Mapping[str, Array],
        peaks: Mapping[str, Array] | None,
        config: NanoConfig,
        adapt: Adapt | None = None,
        store: Store | None = None,
    ) -> None:
        """Begin; nothing is added yet.

        Args:
            graph: Where the nodes go.
            tensors: The pretrained encoder, by the names of BERT.
            peaks: Largest magnitude of each channel of `block_inputs`: products are int8. None: they are float32.
            config: Shapes.
            adapt: Adds what adapters say to a product; None = there are none.
            store: Stores small constants; None = the graph does.
        """
        self._graph = graph
        self._tensors = dict(tensors)
        self._peaks = peaks
        self._config = config
        self._adapt = adapt
        self._store = store or graph.constant

    def words(self, ids: str) -> str:
        """Add the rows [b, s, width] of ids [b, s]."""
        graph = self._graph
        table = self._take("embeddings.word_embeddings.weight")
        if self._peaks is None:
            return graph.node("Gather", graph.constant("words", table), ids)
        codes, scale = quantise_rows(table)
        picked = graph.node("Gather", graph.constant("words", codes), ids)
        row_scale = graph.node("Gather", graph.constant("words.scale", scale[:, None]), ids)
        return graph.node("Mul", graph.node("Cast", picked, to=TensorProto.FLOAT), row_scale)

    def enter(self, words: str, places: str) -> str:
        """Add positions and type to rows [b, s, width]; return them normed as [b * s, width].

        Args:
            words: The rows.
            places: Any value [b, s].
        """
        graph = self._graph
        token_type = self._take("embeddings.token_type_embeddings.weight")[0]
        positions = self._take("embeddings.position_embeddings.weight") + token_type
        length = graph.node("Shape", places, start=1, end=2)
        used = graph.node("Slice", graph.constant("positions", positions), graph.ints(0), length, graph.ints(0))
        rows = graph.node("Reshape", graph.node("Add", words, used), graph.ints(-1, self._config.width))
        return self._norm(rows, "embeddings.LayerNorm")

    def hidden(self, mask: str) -> str:
        """Add what the scores of filled places get, [b, 1, 1, s], for a float mask [b, s]."""
        graph = self._graph
        # Far below every score, so that the softmax of a padded position is exactly zero.
        hidden_keys = graph.node("Mul", graph.node("Sub", mask, graph.scalar(1)), graph.scalar(1e4))
        return graph.node("Unsqueeze", hidden_keys, graph.ints(1, 2))

    def layers(self, rows: str, hidden: str, places: str) -> str:
        """Add all layers, [b * s, width] -> [b * s, width]."""
        for index in range(self._config.layers):
            rows = self._layer(rows, hidden, places, str(index))
        return rows

    def pool(self, rows: str, mask: str, places: str, name: str = "") -> str:
        """Add the mean over real positions at unit length [b, width]; its divisor is left out, as the length becomes 1.

        A product of matrices sums in one order whatever the batch and the padding; `ReduceSum` and the runtime's
        product with a single row do not. Hence two equal rows, whose sum only doubles the length.
        """
        graph = self._graph
        shape = graph.node("Concat", graph.node("Shape", places), graph.ints(self._config.width), axis=0)
        pair = graph.node("Concat", *[graph.node("Unsqueeze", mask, graph.ints(1))] * 2, axis=1)
        total = graph.node("MatMul", pair, graph.node("Reshape", rows, shape))
        total = graph.node("ReduceSum", total, graph.ints(1), keepdims=0)
        return unit_length(graph, total, name=name)

    def check_used(self) -> None:
        """Refuse a checkpoint of which something is left.

        Raises:
            ValueError: Names what.
        """
        if left := set(self._tensors) - UNUSED:
            raise ValueError(f"The text checkpoint holds tensors that the graph does not use: {sorted(left)}")

    def _layer(self, rows: str, hidden: str, places: str, layer: str) -> str:
        graph, name = self._graph, f"encoder.layer.{layer}"
        attended = self._attention(rows, hidden, places, layer)
        mixed = self._linear(attended, (f"{name}.attention.output.dense",), layer, ("mixed",))
        rows = self._norm(graph.node("Add", rows, mixed), f"{name}.attention.output.LayerNorm")
        inner = graph.node("Gelu", self._linear(rows, (f"{name}.intermediate.dense",), layer, ("inner",)))
        outer = self._linear(inner, (f"{name}.output.dense",), layer, ("outer",), floor=GELU_FLOOR)
        return self._norm(graph.node("Add", rows, outer), f"{name}.output.LayerNorm")

    def _attention(self, rows: str, hidden: str, places: str, layer: str) -> str:
        """Add multi-head attention; the three projections share one product and one activation scale."""
        graph, parts = self._graph, ("query", "key", "value")
        width, heads = self._config.width, self._config.heads
        names = tuple(f"encoder.layer.{layer}.attention.self.{part}" for part in parts)
        joined = self._linear(rows, names, layer, parts)
        shape = graph.node("Concat", graph.node("Shape", places), graph.ints(3, heads, width // heads), axis=0)
        split = graph.node("Transpose", graph.node("Reshape", joined, shape), perm=[2, 0, 3, 1, 4])
        query, key, value = (graph.node("Gather", split, graph.shared(np.array(i, np.int64)), axis=0) for i in range(3))
        query = graph.node("Mul", query, graph.scalar((width // heads) ** -0.5))
        scores = graph.node("MatMul", query, graph.node("Transpose", key, perm=[0, 1, 3, 2]))
        shares = graph.node("Softmax", graph.node("Add", scores, hidden), axis=-1)
        context = graph.node("Transpose", graph.node("MatMul", shares, value), perm=[0, 2, 1, 3])
        return graph.node("Reshape", context, graph.ints(-1, width))

    def _linear(
        self, rows: str, names: tuple[str, ...], layer: str, parts: tuple[str, ...], floor: float | None = None
    ) -> str:
        """Add one product for all the layers named, which read the same rows, and what adapters say of them."""
        weight = np.concatenate([self._take(f"{name}.weight") for name in names])
        bias = np.concatenate([self._take(f"{name}.bias") for name in names])
        if self._peaks is None:
            found = float_linear(self._graph, rows, weight, bias, names[0])
        else:
            peaks = self._peaks.get(rows)
            found = int8_linear(self._graph, rows, weight, bias, names[0], peaks, floor, self._store)
        return found if self._adapt is None else self._adapt(rows, found, layer, parts)

    def _norm(self, rows: str, name: str) -> str:
        weight = self._store(f"{name}.weight", self._take(f"{name}.weight"))
        bias = self._store(f"{name}.bias", self._take(f"{name}.bias"))
        return self._graph.node(
            "LayerNormalization", rows, weight, bias, name=name, axis=-1, epsilon=LAYER_NORM_EPSILON
        )

    def _take(self, name: str) -> Array:
        return self._tensors.pop(name)
