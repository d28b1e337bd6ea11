"""Linear layers as ONNX nodes: float32, or int8 with one activation scale per row."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import numpy as np
from onnx import TensorProto

from magicmm_export.graph import Array, GraphWriter

# How far the spread of channels moves from the activations into the weights (0: not at all, 1: entirely).
# 0.7 had the best mean cosine of none, 0.3, 0.5, 0.7, 0.85 and 1; see docs/decisions/0003-nano-graphs.md.
MIGRATION = 0.7


Store = Callable[[str, Array], str]
"""Stores a constant under a name, and returns the name of its value."""


class Precision(str, Enum):
    """How the weights of a graph are stored and multiplied."""

    FP32 = "fp32"
    INT8 = "int8"


def quantise_rows(weight: Array, steps: int = 127) -> tuple[Array, Array]:
    """Return int8 codes in -steps..steps and float32 scales, one scale for each slice along axis 0."""
    scale = row_scales(weight, steps)
    codes = np.rint(weight.reshape(len(weight), -1) / scale[:, None]).clip(-steps, steps).astype(np.int8)
    return codes.reshape(weight.shape), scale


def row_scales(weight: Array, steps: int, least: Array | float = 1e-30) -> Array:
    """Return what a code is worth, float32, for each slice along axis 0; the largest number has the code `steps`."""
    found: Array = np.maximum(np.abs(weight).reshape(len(weight), -1).max(1) / np.float32(steps), least)
    return found.astype(np.float32)


def float_linear(graph: GraphWriter, rows: str, weight: Array, bias: Array, name: str) -> str:
    """Add `rows @ weight.T + bias` for rows [m, in] and a weight [out, in]."""
    product = graph.node("MatMul", rows, graph.constant(f"{name}.weight", weight.T))
    return graph.node("Add", product, graph.constant(f"{name}.bias", bias), name=name)


def int8_linear(
    graph: GraphWriter,
    rows: str,
    weight: Array,
    bias: Array,
    name: str,
    peaks: Array | None = None,
    floor: float | None = None,
    store: Store | None = None,
) -> str:
    """Add the same product with 8-bit weights (a scale per output) and uint8 rows (a scale per row).

    Args:
        graph: Where the nodes go.
        rows: Float32 value [m, in].
        weight: Float32 [out, in].
        bias: Float32 [out].
        name: Name of the resulting value, and prefix of its constants.
        peaks: Largest magnitude of each input channel; evens the channels out before they share a row's scale.
        floor: A bound that no input is below; the codes then count from there and none is spent on a sign.
        store: Stores what is small: balance, scale and bias; None = the graph does.
    """
    store = store or graph.constant
    if peaks is not None:
        balance = np.abs(weight).max(0) ** (1 - MIGRATION) / np.maximum(peaks, 1e-3) ** MIGRATION
        weight = weight / balance
        rows = graph.node("Mul", rows, store(f"{name}.balance", balance.astype(np.float32)))
    codes, scale = quantise_rows(weight)
    if floor is None:
        quantised, row_scale, zero = *_signed_rows(graph, rows), 128
    else:
        quantised, row_scale, zero = *_rows_above(graph, rows, floor), 0
        bias = bias + np.float32(floor) * (codes.astype(np.float32) * scale[:, None]).sum(1)
    # Unsigned, around 128: with signed weights, x86 processors without VNNI add pairs of products in 16 bits, which
    # overflow, and return other vectors than the rest.
    stored = graph.constant(f"{name}.weight", (codes.T.astype(np.int16) + 128).astype(np.uint8))
    zeros = (graph.shared(np.array(zero, np.uint8)), graph.shared(np.array(128, np.uint8)))
    product = graph.node("MatMulInteger", quantised, stored, *zeros)
    scaled = graph.node("Mul", graph.node("Cast", product, to=TensorProto.FLOAT), row_scale)
    scaled = graph.node("Mul", scaled, store(f"{name}.scale", scale))
    return graph.node("Add", scaled, store(f"{name}.bias", bias.astype(np.float32)), name=name)


# One scale per row, because a scale per tensor would make a vector depend on its neighbours in the batch. Codes are
# unsigned because the x86 kernels of the runtime are slow for signed activations. Cast truncates and its input is
# positive: adding a half makes it round.


def _signed_rows(graph: GraphWriter, rows: str) -> tuple[str, str]:
    """Add uint8 codes around 128 and their scales [m, 1]."""
    scale = _row_scale(graph, graph.node("Abs", rows), 127)
    shifted = graph.node("Add", graph.node("Div", rows, scale), graph.scalar(128.5))
    return graph.node("Cast", shifted, to=TensorProto.UINT8), scale


def _rows_above(graph: GraphWriter, rows: str, floor: float) -> tuple[str, str]:
    """Add uint8 codes counted from the floor and their scales [m, 1]."""
    above = graph.node("Sub", rows, graph.scalar(floor)) if floor else rows
    scale = _row_scale(graph, above, 255)
    shifted = graph.node("Add", graph.node("Div", above, scale), graph.scalar(0.5))
    return graph.node("Cast", shifted, to=TensorProto.UINT8), scale


def _row_scale(graph: GraphWriter, magnitudes: str, steps: int) -> str:
    peak = graph.node("ReduceMax", magnitudes, graph.ints(1), keepdims=1)
    return graph.node("Mul", graph.node("Max", peak, graph.scalar(1e-12)), graph.scalar(1 / steps))
