"""The `language` graph: rows of tokens and visual tokens to unit vectors (DESIGN section 4).

Attention is written out instead of GroupQueryAttention, which refuses a prefix for batches larger than one; the query
heads that share a key head are stacked as rows, so keys and values are never repeated. It measured within 15 % of the
fused operators, and is a small part of the whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from magicmm_export.graph import CONTRIB, GraphWriter
from magicmm_export.onnx.linear import LinearWriter, Rows
from magicmm_model.config import ModelConfig
from magicmm_quant.weights import RewrittenWeights


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Values of a graph that hold sizes and what follows from them; all int64 unless said otherwise.

    Attributes:
        batch: [1].
        length: [1], tokens of each sequence without the prefix.
        total: [1], with the prefix.
        before: Scalar, tokens of the prefix.
        positions: [1, s], from the length of the prefix on.
        mask: float32 [s, p + s], 0 where a token may look and a large negative number elsewhere.
        columns: [p + s], 0, 1, ...
    """

    batch: str
    length: str
    total: str
    before: str
    positions: str
    mask: str
    columns: str


def write_language(graph: GraphWriter, linears: LinearWriter, weights: RewrittenWeights, config: ModelConfig) -> None:
    """Add inputs, nodes and output of the whole graph.

    Inputs `embeds` float32 [b, s, dim], `last` int64 [b], `past_key_{i}` and `past_value_{i}` float32
    [1, kv_heads, p, head_dim] for each layer; output `vector` float32 [b, dim], unit rows.
    """
    return _LanguageWriter(graph, linears, weights, config).write()


class _LanguageWriter:
    def __init__(
        self, graph: GraphWriter, linears: LinearWriter, weights: RewrittenWeights, config: ModelConfig
    ) -> None:
        self.graph, self.linears, self.weights, self.config = graph, linears, weights, config
        self.shape = config.language

    def write(self) -> None:
        graph, shape = self.graph, self.shape
        embeds = graph.input("embeds", TensorProto.FLOAT, ("b", "s", shape.hidden_size))
        last = graph.input("last", TensorProto.INT64, ("b",))
        past_shape = (1, shape.kv_heads, "p", shape.head_dim)
        past = [
            tuple(graph.input(f"past_{kind}_{place}", TensorProto.FLOAT, past_shape) for kind in ("key", "value"))
            for place in range(shape.layers)
        ]
        sizes = self._sizes(embeds, past[0][0])
        self._rotary()
        state = graph.node("Reshape", embeds, graph.ints(-1, shape.hidden_size))
        normed = self._rms_norm(state, "language.layers.0.input_layernorm")
        for place in range(shape.layers - 1):
            name = f"language.layers.{place}"
            mixed = self._attention(Rows(normed), name, past[place], sizes)
            normed, state = self._add_norm(state, mixed, f"{name}.post_attention_layernorm")
            inner = self._mlp(Rows(normed), name)
            following = f"language.layers.{place + 1}.input_layernorm"
            normed, state = self._add_norm(state, inner, following)
        name = f"language.layers.{shape.layers - 1}"
        mixed, state = self._last_attention(Rows(normed), state, last, name, past[-1], sizes)
        normed, state = self._add_norm(state, mixed, f"{name}.post_attention_layernorm")
        state = graph.node("Add", state, self._mlp(Rows(normed), name))
        graph.output(self._close(state), TensorProto.FLOAT, ("b", shape.hidden_size))

    def _sizes(self, embeds: str, past: str) -> _Sizes:
        graph = self.graph
        batch, length = (graph.node("Shape", embeds, start=axis, end=axis + 1) for axis in (0, 1))
        before = graph.node("Shape", past, start=2, end=3)
        total = graph.node("Add", before, length)
        zero, one = (graph.shared(np.array(number, np.int64)) for number in (0, 1))
        start, steps, end = (graph.node("Squeeze", value, graph.ints(0)) for value in (before, length, total))
        places = graph.node("Add", graph.node("Range", zero, steps, one), start)
        columns = graph.node("Range", zero, end, one)
        hidden = graph.node("Greater", columns, graph.node("Unsqueeze", places, graph.ints(1)))
        return _Sizes(
            batch=batch,
            length=length,
            total=total,
            before=start,
            positions=graph.node("Unsqueeze", places, graph.ints(0)),
            mask=self._blocked(hidden),
            columns=columns,
        )

    def _blocked(self, hidden: str) -> str:
        """Return 0 where False and a number below every score where True."""
        return self.graph.node("Where", hidden, self.graph.scalar(-1e9), self.graph.scalar(0.0))

    def _rotary(self) -> None:
        """Store cosines and sines of every position that a prompt may reach."""
        shape = self.shape
        steps = np.arange(0, shape.head_dim, 2, dtype=np.float32) / np.float32(shape.head_dim)
        wavelengths = np.float32(1) / np.power(np.float32(shape.rope_theta), steps, dtype=np.float32)
        angles = np.arange(self.config.max_tokens, dtype=np.float32)[:, None] * wavelengths
        self.cos = self.graph.constant("rotary.cos", np.cos(angles))
        self.sin = self.graph.constant("rotary.sin", np.sin(angles))

    def _attention(self, rows: Rows, name: str, past: tuple[str, ...], sizes: _Sizes) -> str:
        """[b x s, hidden] -> [b x s, hidden], causal."""
        graph, shape = self.graph, self.shape
        query, key, value = graph.nodes(
            "Split",
            self.linears.add(rows, f"{name}.qkv"),
            graph.ints(shape.hidden_size, *[shape.kv_heads * shape.head_dim] * 2),
            names=tuple(f"{name}.{part}" for part in ("query", "key", "value")),
            axis=1,
        )
        keys, values = self._keys_and_values(key, value, past, sizes)
        query = self._rotate(query, shape.heads, sizes.positions, sizes)
        group = shape.heads // shape.kv_heads
        split = graph.node("Reshape", query, graph.ints(0, 0, shape.kv_heads, group, shape.head_dim))
        stacked = graph.node("Transpose", split, perm=[0, 2, 3, 1, 4])
        flat = graph.node("Reshape", stacked, graph.ints(0, shape.kv_heads, -1, shape.head_dim))
        scores = graph.node("MatMul", self._scaled(flat), graph.node("Transpose", keys, perm=[0, 1, 3, 2]))
        flat_shape = graph.node("Shape", scores)
        grouped = graph.node(
            "Concat", sizes.batch, graph.ints(shape.kv_heads, group), sizes.length, sizes.total, axis=0
        )
        masked = graph.node("Add", graph.node("Reshape", scores, grouped), sizes.mask)
        shares = graph.node("Reshape", graph.node("Softmax", masked, axis=-1), flat_shape)
        mixed = graph.node("MatMul", shares, values)
        split_shape = graph.node(
            "Concat", sizes.batch, graph.ints(shape.kv_heads, group), sizes.length, graph.ints(shape.head_dim), axis=0
        )
        unstacked = graph.node("Transpose", graph.node("Reshape", mixed, split_shape), perm=[0, 3, 1, 2, 4])
        return self.linears.add(Rows(graph.node("Reshape", unstacked, graph.ints(-1, shape.hidden_size))), f"{name}.o")

    def _last_attention(
        self, rows: Rows, state: str, last: str, name: str, past: tuple[str, ...], sizes: _Sizes
    ) -> tuple[str, str]:
        """The last layer's attention for the pooled token alone: [b x s, hidden] -> [b, hidden] twice."""
        graph, shape = self.graph, self.shape
        query_part, rest = self.linears.add_split(rows, f"{name}.qkv", shape.hidden_size)
        size = shape.kv_heads * shape.head_dim
        key, value = graph.nodes(
            "Split", rest.add(rows), graph.ints(size, size), names=(f"{name}.key", f"{name}.value"), axis=1
        )
        keys, values = self._keys_and_values(key, value, past, sizes)
        zero, one = (graph.shared(np.array(number, np.int64)) for number in (0, 1))
        items = graph.node("Range", zero, graph.node("Squeeze", sizes.batch, graph.ints(0)), one)
        places = graph.node("Add", graph.node("Mul", items, sizes.length), last)
        position = graph.node("Unsqueeze", graph.node("Add", last, sizes.before), graph.ints(1))
        query = query_part.add(rows.gathered(graph, places))
        query = self._rotate(query, shape.heads, position, sizes, single=True)
        heads = graph.node("Reshape", query, graph.ints(0, shape.kv_heads, -1, shape.head_dim))
        scores = graph.node("MatMul", self._scaled(heads), graph.node("Transpose", keys, perm=[0, 1, 3, 2]))
        mask = self._blocked(graph.node("Greater", sizes.columns, position))
        masked = graph.node("Add", scores, graph.node("Unsqueeze", mask, graph.ints(1, 2)))
        mixed = graph.node("MatMul", graph.node("Softmax", masked, axis=-1), values)
        pooled = Rows(graph.node("Reshape", mixed, graph.ints(-1, shape.hidden_size)))
        return self.linears.add(pooled, f"{name}.o"), graph.node("Gather", state, places, axis=0)

    def _keys_and_values(self, key: str, value: str, past: tuple[str, ...], sizes: _Sizes) -> tuple[str, str]:
        """Return all keys (rotated) and values, prefix first: [b, kv_heads, p + s, head_dim]."""
        graph, shape = self.graph, self.shape
        rotated = self._rotate(key, shape.kv_heads, sizes.positions, sizes)
        joined = []
        for new, old in ((rotated, past[0]), (value, past[1])):
            split_shape = graph.node(
                "Concat", sizes.batch, sizes.length, graph.ints(shape.kv_heads, shape.head_dim), axis=0
            )
            heads = graph.node("Transpose", graph.node("Reshape", new, split_shape), perm=[0, 2, 1, 3])
            everywhere = graph.node("Concat", sizes.batch, graph.ints(1, 1, 1), axis=0)
            joined.append(graph.node("Concat", graph.node("Expand", old, everywhere), heads, axis=2))
        return joined[0], joined[1]

    def _rotate(self, rows: str, heads: int, positions: str, sizes: _Sizes, single: bool = False) -> str:
        """Turn the heads of [b x s, heads x head_dim] by their positions: [b, s, heads x head_dim]."""
        graph, width = self.graph, heads * self.shape.head_dim
        length = graph.ints(1) if single else sizes.length
        split = graph.node("Reshape", rows, graph.node("Concat", sizes.batch, length, graph.ints(width), axis=0))
        if not single:
            positions = graph.node("Expand", positions, graph.node("Concat", sizes.batch, sizes.length, axis=0))
        return graph.node(
            "RotaryEmbedding", split, positions, self.cos, self.sin, domain=CONTRIB, num_heads=heads, interleaved=0
        )

    def _scaled(self, query: str) -> str:
        return self.graph.node("Mul", query, self.graph.scalar(self.shape.head_dim**-0.5))

    def _mlp(self, rows: Rows, name: str) -> str:
        graph = self.graph
        gate, up = graph.nodes(
            "Split",
            self.linears.add(rows, f"{name}.gate_up"),
            names=(f"{name}.gate", f"{name}.up"),
            axis=1,
            num_outputs=2,
        )
        swish = graph.node("QuickGelu", gate, domain=CONTRIB, alpha=1.0)  # x times sigmoid(x)
        return self.linears.add(Rows(graph.node("Mul", swish, up)), f"{name}.down")

    def _rms_norm(self, rows: str, name: str) -> str:
        graph = self.graph
        gain = graph.constant(f"{name}.gain", self.weights.norm(name)[0].astype(np.float32))
        return graph.node("Mul", self._unit_rms(rows), gain)

    def _unit_rms(self, rows: str) -> str:
        graph = self.graph
        mean = graph.node("ReduceMean", graph.node("Mul", rows, rows), graph.ints(-1), keepdims=1)
        return graph.node("Div", rows, graph.node("Sqrt", graph.node("Add", mean, graph.scalar(self.shape.norm_eps))))

    def _add_norm(self, state: str, added: str, name: str) -> tuple[str, str]:
        """Return the normed sum and the sum."""
        graph = self.graph
        gain = graph.constant(f"{name}.gain", self.weights.norm(name)[0].astype(np.float32))
        normed, *_, total = graph.nodes(
            "SkipSimplifiedLayerNormalization",
            state,
            added,
            gain,
            names=(f"{name}.normed", "", "", f"{name}.sum"),
            domain=CONTRIB,
            epsilon=self.shape.norm_eps,
        )
        return normed, total

    def _close(self, state: str) -> str:
        """Final norm, out of the rotation, unit length: [b, hidden] -> [b, hidden]."""
        graph = self.graph
        normed, closing = self._unit_rms(state), self.weights.closing().astype(np.float32)
        stored = graph.constant("language.closing", closing)
        pooled = graph.node("MatMul" if closing.ndim == 2 else "Mul", normed, stored)
        length = graph.node("ReduceL2", pooled, graph.ints(1), keepdims=1)
        return graph.node("Div", pooled, graph.node("Max", length, graph.scalar(1e-12)), name="vector")
