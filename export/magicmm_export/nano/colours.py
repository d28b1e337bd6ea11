"""Write the colours of a photo as nodes (see `magicmm_model.nano.colours`)."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from magicmm_export.graph import Array, GraphWriter
from magicmm_export.nano.linear import Precision, quantise_rows
from magicmm_export.nano.normalise import unit_length
from magicmm_model.nano.colours import COLOURS, LEVELS, STEP, nearest_colours


def add_colours(graph: GraphWriter, pixels: str, views: int, side: int, vectors: Array, precision: Precision) -> str:
    """Add the vector of the first view's colours: pixels uint8 [views * n, side, side, 3] -> unit rows [n, width].

    Args:
        graph: Where the nodes go.
        pixels: The views of each photo, one after another.
        views: Of each photo.
        side: Of a view.
        vectors: Of the colour words [11, width].
        precision: How they are stored.
    """
    by_photo = graph.node("Reshape", pixels, graph.ints(-1, views, side, side, 3))
    bounds = graph.ints(0, 0, 0), graph.ints(1, side, side), graph.ints(1, 2, 3), graph.ints(1, STEP, STEP)
    looked_at = graph.node("Reshape", graph.node("Slice", by_photo, *bounds), graph.ints(-1, (side // STEP) ** 2, 3))
    levels = graph.node(
        "Div", graph.node("Cast", looked_at, to=TensorProto.INT32), graph.shared(np.array(256 // LEVELS, np.int32))
    )
    steps = graph.shared(np.array([LEVELS**2, LEVELS, 1], np.int32))
    places = graph.node("ReduceSum", graph.node("Mul", levels, steps), graph.ints(2), keepdims=0)
    named = graph.node("Gather", graph.constant("colours.nearest", nearest_colours()), places)
    marks = graph.node(
        "OneHot",
        graph.node("Cast", named, to=TensorProto.INT64),
        graph.shared(np.array(len(COLOURS), np.int64)),
        graph.shared(np.array([0, 1], np.float32)),
    )
    weights = graph.node("Sqrt", graph.node("ReduceMean", marks, graph.ints(1), keepdims=0))
    if precision is Precision.FP32:
        words = graph.constant("colours", vectors)
    else:
        codes, scale = quantise_rows(vectors)
        words = graph.node("Cast", graph.constant("colours", codes), to=TensorProto.FLOAT)
        weights = graph.node("Mul", weights, graph.constant("colours.scale", scale))
    weights = graph.node("Unsqueeze", weights, graph.ints(1, 3))
    # The runtime sums one row alone in another order than several: each photo has two equal rows, which add up.
    pair = graph.node("Concat", weights, weights, axis=1)
    rows = graph.node("ReduceSum", graph.node("Mul", pair, words), graph.ints(2), keepdims=0)
    return unit_length(graph, graph.node("ReduceSum", rows, graph.ints(1), keepdims=0))
