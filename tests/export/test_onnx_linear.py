"""Linears in every scheme against numpy: rows are quantised once, one by one, and outliers stay among themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from graph_runs import cosine, distance, run_model
from magicmm.packed import read_packed
from magicmm_export.graph import CONTRIB, GraphWriter
from magicmm_export.onnx.linear import LinearWriter, PlainWeights, Rows, StoredWeights
from magicmm_export.packed_file import PackedFile
from magicmm_quant.hadamard import Rotation
from magicmm_quant.schemes import Int4Weights, Int8Weights, dequantise, quantise_int4, quantise_int8

Floats = NDArray[np.float32]
INPUTS, OUTPUTS = 128, 64


class Given:
    """Units that are at hand."""

    def __init__(self, **units: tuple[StoredWeights, Floats | None]) -> None:
        self.units = units

    def weights(self, unit: str) -> tuple[StoredWeights, Floats | None]:
        return self.units[unit]


def noise(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def quantised_rows(rows: Floats) -> tuple[NDArray[np.uint8], Floats]:
    """Quantise as docs/FORMAT.md's graphs do, in numpy."""
    scales = np.maximum(np.abs(rows).max(1) * np.float32(1 / 127), np.float32(1e-12))
    return (np.rint(rows / scales[:, None]) + 128).clip(0, 255).astype(np.uint8), scales


def graph_with_rows() -> tuple[GraphWriter, Rows]:
    graph = GraphWriter("test")
    return graph, Rows(graph.input("rows", TensorProto.FLOAT, ("m", INPUTS)))


def product(weights: StoredWeights, rows: Floats, bias: Floats | None = None, low_memory: bool = False) -> Floats:
    """Run one linear."""
    graph, given = graph_with_rows()
    value = LinearWriter(graph, Given(unit=(weights, bias)), low_memory).add(given, "unit")
    graph.output(value, TensorProto.FLOAT, ("m", len(dequantised(weights))))
    found: Floats = run_model(graph, {"rows": rows})[value]
    return found


def dequantised(weights: StoredWeights) -> Floats:
    return weights.weight if isinstance(weights, PlainWeights) else dequantise(weights)


def test_codes_and_scales_of_rows_are_those_of_numpy() -> None:
    rows = noise(9, INPUTS) * np.geomspace(1e-6, 1e6, 9, dtype=np.float32)[:, None]
    graph, given = graph_with_rows()
    codes, scales = given.quantised(graph)
    graph.output(codes, TensorProto.UINT8, ("m", INPUTS))
    graph.output(scales, TensorProto.FLOAT, ("m",))
    found = run_model(graph, {"rows": rows})
    wanted_codes, wanted_scales = quantised_rows(rows)
    assert np.array_equal(found[scales], wanted_scales)
    assert np.array_equal(found[codes], wanted_codes)
    assert (found[codes].min(1) == 1).any() and found[codes].max() == 255  # the peak of a row is 127 steps from zero


def test_an_int8_product_is_exact_but_for_the_rounding_of_its_rows() -> None:
    rows, bias = noise(5, INPUTS), noise(OUTPUTS, seed=2)
    weights = quantise_int8(noise(OUTPUTS, INPUTS, seed=1))
    codes, scales = quantised_rows(rows)
    sums = (codes.astype(np.int64) - 128) @ weights.codes.T.astype(np.int64)
    wanted = sums * weights.scales.astype(np.float64) * scales[:, None].astype(np.float64) + bias
    assert distance(product(weights, rows, bias), wanted) < 1e-6
    assert distance(product(weights, rows, bias), rows @ dequantise(weights).T + bias) > 1e-4


def test_rows_of_zeros_give_the_bias() -> None:
    bias = noise(OUTPUTS)
    rows = np.zeros((3, INPUTS), np.float32)
    rows[1] = 1
    found = product(quantise_int8(noise(OUTPUTS, INPUTS)), rows, bias)
    assert np.array_equal(found[[0, 2]], np.stack([bias, bias]))
    assert np.isfinite(found).all() and not np.allclose(found[1], bias)


@pytest.mark.parametrize("bias", [None, noise(OUTPUTS, seed=3)])
def test_a_float32_unit_is_a_plain_product(bias: Floats | None) -> None:
    rows, weight = noise(4, INPUTS), noise(OUTPUTS, INPUTS, seed=1)
    wanted = rows @ weight.T + (0 if bias is None else bias)
    assert distance(product(PlainWeights(weight), rows, bias), wanted) < 5e-6


def test_linears_that_read_the_same_rows_quantise_them_once() -> None:
    graph, rows = graph_with_rows()
    weights = quantise_int8(noise(OUTPUTS, INPUTS))
    linears = LinearWriter(graph, Given(a=(weights, None), b=(weights, None)))
    places = graph.input("places", TensorProto.INT64, ("k",))
    values = [linears.add(rows, "a"), *(part.add(rows) for part in linears.add_split(rows, "b", 16))]
    LinearWriter(graph, Given(c=(weights, None))).add(rows.gathered(graph, places), "c")
    graph.output(values[0], TensorProto.FLOAT, ("m", OUTPUTS))
    assert [node.op_type for node in graph.model().graph.node].count("QuantizeLinear") == 1


@pytest.mark.parametrize("kind", ["float32", "int8", "int4"])
def test_a_split_unit_gives_the_parts_of_the_whole_one(kind: str, tmp_path: Path) -> None:
    weight, bias, rows = noise(OUTPUTS, INPUTS), noise(OUTPUTS, seed=1), noise(6, INPUTS, seed=2)
    stored: dict[str, StoredWeights] = {
        "float32": PlainWeights(weight),
        "int8": quantise_int8(weight),
        "int4": quantise_int4(weight, 32),
    }
    graph, given = graph_with_rows()
    linears = LinearWriter(graph, Given(unit=(stored[kind], bias)), low_memory=True)
    first, second = linears.add_split(given, "unit", 24)
    some = given.gathered(graph, graph.ints(4, 1))
    values = [first.add(given), second.add(some)]
    for value, width in zip(values, (24, OUTPUTS - 24), strict=True):
        graph.output(value, TensorProto.FLOAT, (None, width))  # type: ignore[arg-type]
    found = run_model(graph, {"rows": rows})
    whole = product(stored[kind], rows, bias, low_memory=True)
    assert distance(found[values[0]], whole[:, :24]) < 1e-6
    assert distance(found[values[1]], whole[[4, 1], 24:]) < 1e-6


def massive(tokens: int, inputs: int) -> Floats:
    """Activations with one token that is a thousand times larger in two channels, and two channels hot everywhere."""
    rows = noise(tokens, inputs, seed=4)
    rows[:, [7, 90]] *= 8
    rows[3, [5, 60]] = 1000, -1000
    return rows


def per_tensor(weights: Int8Weights, rows: Floats) -> Floats:
    """Return the product as onnxruntime's own dynamic quantisation gives it: one scale for all rows."""
    graph, given = graph_with_rows()
    stored = graph.constant("weight", weights.codes.T)
    scales = graph.constant("scales", weights.scales)
    value = graph.node("DynamicQuantizeMatMul", given.value, stored, scales, domain=CONTRIB)
    graph.output(value, TensorProto.FLOAT, ("m", OUTPUTS))
    found: Floats = run_model(graph, {"rows": rows})[value]
    return found


def cosines(found: Floats, wanted: Floats) -> list[float]:
    return [cosine(found[place : place + 1], wanted[place : place + 1]) for place in range(len(found))]


def test_an_outlier_token_spoils_no_other_and_the_rotation_spreads_it() -> None:
    rows, weight = massive(24, INPUTS), noise(OUTPUTS, INPUTS, seed=5)
    wanted = rows @ weight.T
    ours = cosines(product(quantise_int8(weight), rows), wanted)
    assert min(ours) >= 0.998
    theirs = cosines(per_tensor(quantise_int8(weight), rows), wanted)
    assert min(theirs) < 0.5 and np.median(theirs) < 0.9, "a scale for all rows was meant to fail here"
    rotation = Rotation(INPUTS, 0)
    rotated = cosines(product(quantise_int8(rotation.apply(weight)), rotation.apply(rows)), wanted)
    assert 1 - np.mean(rotated) < (1 - np.mean(ours)) / 2
    assert min(rotated) > 0.9995


@pytest.mark.parametrize("group", [32, 128])
def test_4_bits_give_the_same_product_in_blocks_and_unpacked(group: int, tmp_path: Path) -> None:
    rows, bias = noise(7, INPUTS), noise(OUTPUTS, seed=1)
    weights = quantise_int4(noise(OUTPUTS, INPUTS, seed=2), group)
    wanted = rows @ dequantise(weights).T + bias
    blocks = product(weights, rows, bias, low_memory=True)
    unpacked = product(weights.as_int8(), rows, bias)
    assert cosine(blocks, wanted) > 0.9999 and cosine(unpacked, wanted) > 0.9999
    assert distance(blocks, wanted) < 0.03 and distance(unpacked, wanted) < 0.03
    assert distance(blocks, rows @ noise(OUTPUTS, INPUTS, seed=2).T + bias) > 0.05  # 4 bits are coarser than that


def test_packed_weights_are_unpacked_to_codes_times_multipliers(tmp_path: Path) -> None:
    weights: Int4Weights = quantise_int4(noise(OUTPUTS, INPUTS), 32)
    packed = PackedFile(tmp_path / "test.q4")
    graph = GraphWriter("test", packed=packed)
    rows = Rows(graph.input("rows", TensorProto.FLOAT, ("m", INPUTS)))
    LinearWriter(graph, Given(unit=(weights, None))).add(rows, "unit")
    assert packed.close()
    declared = {tensor.name: tuple(tensor.dims) for tensor in graph._graph.initializer if tensor.external_data}
    found = read_packed(packed.path, declared)
    wanted = weights.codes.astype(int) * weights.multipliers.astype(int).repeat(32, axis=1)
    assert list(found) == ["unit.weight"]
    assert np.array_equal(found["unit.weight"], wanted.T)


def test_4_bits_without_a_packed_file_are_refused() -> None:
    weights: Any = quantise_int4(noise(OUTPUTS, INPUTS), 32)
    with pytest.raises(ValueError, match="packed"):
        product(weights, noise(1, INPUTS))
