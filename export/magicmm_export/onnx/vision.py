"""The `vision` graph: pixels to visual tokens (DESIGN section 4).

Fused where it pays and plain where it does not: merged query, key and value; MultiHeadAttention; Add and
LayerNormalization apart, since the fused one is slower on CPUs; LayerScale and pixel normalisation inside the weights.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from magicmm_export.graph import CONTRIB, GraphWriter
from magicmm_export.onnx.linear import Linears, Rows
from magicmm_model.config import ModelConfig
from magicmm_quant.weights import RewrittenWeights


def write_vision(graph: GraphWriter, linears: Linears, weights: RewrittenWeights, config: ModelConfig) -> None:
    """Add input, nodes and output of the whole graph.

    Input `pixels` uint8 [n, side, side, 3]; output `visual` float32 [n, tile_tokens, dim].
    """
    side, hidden = config.vision.image_size, config.vision.hidden_size
    pixels = graph.input("pixels", TensorProto.UINT8, ("n", side, side, 3))
    state = _embed(graph, linears, weights, config, pixels)
    for place in range(config.vision.layers):
        state = _layer(graph, linears, weights, config, f"vision.layers.{place}", state)
    patches = graph.node("Slice", _split(graph, state, config), graph.ints(1), graph.ints(1 << 31), graph.ints(1))
    rows = _connect(graph, linears, weights, config, graph.node("Reshape", patches, graph.ints(-1, hidden)))
    visual = graph.node("Reshape", rows, graph.ints(-1, config.tile_tokens, config.dim), name="visual")
    graph.output(visual, TensorProto.FLOAT, ("n", config.tile_tokens, config.dim))


def _embed(graph: GraphWriter, linears: Linears, weights: RewrittenWeights, config: ModelConfig, pixels: str) -> str:
    """Pixels to rows [n x s, hidden], class token first."""
    grid, patch, hidden = config.vision.grid, config.vision.patch_size, config.vision.hidden_size
    floats = graph.node("Cast", pixels, to=TensorProto.FLOAT)
    blocks = graph.node("Reshape", floats, graph.ints(-1, grid, patch, grid, 3 * patch))
    patches = graph.node("Transpose", blocks, perm=[0, 1, 3, 2, 4])
    rows = Rows(graph.node("Reshape", patches, graph.ints(-1, 3 * patch**2)))
    embedded = graph.node("Reshape", linears.add(rows, "vision.patches"), graph.ints(-1, grid**2, hidden))
    positions = weights.positions()
    placed = graph.node("Add", embedded, graph.constant("vision.positions", positions[None, 1:]))
    count = graph.node("Shape", pixels, start=0, end=1)
    first = graph.constant("vision.class", positions[None, :1])
    shape = graph.node("Concat", count, graph.ints(1, 1), axis=0)
    tokens = graph.node("Concat", graph.node("Expand", first, shape), placed, axis=1)
    return graph.node("Reshape", tokens, graph.ints(-1, hidden), name="vision.embedded")


def _layer(
    graph: GraphWriter, linears: Linears, weights: RewrittenWeights, config: ModelConfig, name: str, state: str
) -> str:
    hidden = config.vision.hidden_size
    normed = Rows(layer_norm(graph, weights, f"{name}.norm1", state, config.vision.norm_eps))
    query, key, value = graph.nodes(
        "Split",
        linears.add(normed, f"{name}.qkv"),
        names=(f"{name}.query", f"{name}.key", f"{name}.value"),
        axis=1,
        num_outputs=3,
    )
    heads = (_split(graph, part, config) for part in (query, key, value))
    mixed = graph.node("MultiHeadAttention", *heads, domain=CONTRIB, num_heads=config.vision.heads)
    rows = Rows(graph.node("Reshape", mixed, graph.ints(-1, hidden)))
    state = graph.node("Add", state, linears.add(rows, f"{name}.proj"))
    normed = Rows(layer_norm(graph, weights, f"{name}.norm2", state, config.vision.norm_eps))
    inner = Rows(graph.node("Gelu", linears.add(normed, f"{name}.fc1")))
    return graph.node("Add", state, linears.add(inner, f"{name}.fc2"), name=name)


def _connect(graph: GraphWriter, linears: Linears, weights: RewrittenWeights, config: ModelConfig, patches: str) -> str:
    """Compress and unshuffle the grid, [n x grid x grid, hidden] -> [n x tile_tokens, dim], and run the connector."""
    grid, hidden = config.vision.grid, config.vision.hidden_size
    if config.compression == 2:
        pairs = graph.node("Reshape", patches, graph.ints(-1, 2, grid * hidden))
        halved = graph.node("ReduceMean", pairs, graph.ints(1), keepdims=0)
        pairs = graph.node("Reshape", halved, graph.ints(-1, 2, hidden))
        patches = graph.node("ReduceMean", pairs, graph.ints(1), keepdims=0)
        grid //= 2
    cells = graph.node("Reshape", patches, graph.ints(-1, 2, grid // 2, 2 * hidden))
    joined = graph.node("Transpose", cells, perm=[0, 2, 1, 3])
    tokens = graph.node("Reshape", joined, graph.ints(-1, 4 * hidden), name="unshuffled")
    rows = Rows(layer_norm(graph, weights, "connector.layer_norm", tokens, 1e-5))
    inner = Rows(graph.node("Gelu", linears.add(rows, "connector.linear_1")))
    return linears.add(inner, "connector.linear_2")


def layer_norm(graph: GraphWriter, weights: RewrittenWeights, name: str, rows: str, eps: float) -> str:
    """Add a LayerNormalization with what is left of its gain and bias after folding."""
    gain, bias = weights.norm(name)
    constants = [graph.constant(f"{name}.gain", gain.astype(np.float32))]
    if bias is not None:
        constants.append(graph.constant(f"{name}.bias", bias.astype(np.float32)))
    return graph.node("LayerNormalization", rows, *constants, axis=-1, epsilon=eps)


def _split(graph: GraphWriter, rows: str, config: ModelConfig) -> str:
    """[n x s, hidden] -> [n, s, hidden]."""
    return graph.node("Reshape", rows, graph.ints(-1, config.vision.grid**2 + 1, config.vision.hidden_size))
