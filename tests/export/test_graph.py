"""Graphs: names once, weights page by page in a file that the runtime can map, the same bytes every time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from graph_runs import run_model
from magicmm_export.graph import CONTRIB, EXTERNAL_ABOVE, IR_VERSION, OPSET, PAGE, DataFile, GraphWriter, save

LARGE = np.arange(2 * EXTERNAL_ABOVE // 4, dtype=np.float32).reshape(2, -1)


def test_a_value_has_one_name() -> None:
    graph = GraphWriter("test")
    graph.input("x", TensorProto.FLOAT, (1,))
    attempts: list[Callable[[], Any]] = [
        lambda: graph.input("x", TensorProto.FLOAT, (1,)),
        lambda: graph.constant("x", np.zeros(1, np.float32)),
        lambda: graph.node("Abs", "x", name="x"),
    ]
    for again in attempts:
        with pytest.raises(ValueError, match="'x'"):
            again()


def test_small_constants_are_stored_once() -> None:
    graph = GraphWriter("test")
    assert graph.ints(1, 2) == graph.ints(1, 2)
    assert graph.scalar(0.5) == graph.scalar(0.5)
    different = [graph.ints(1), graph.ints(1, 1), graph.scalar(1.0), graph.shared(np.array(1, np.int64))]
    different += [graph.shared(np.array([[1]], np.int64)), graph.shared(np.array(1, np.uint8)), graph.scalar(-1.0)]
    assert len(set(different)) == len(different)
    assert len(graph.model().graph.initializer) == len(different) + 2


def test_a_graph_computes_and_imports_only_what_it_uses() -> None:
    graph = GraphWriter("test")
    left = graph.input("x", TensorProto.FLOAT, ("n", 2))
    first, second = graph.nodes("Split", left, names=("first", "second"), axis=1, num_outputs=2)
    graph.output(graph.node("Sub", first, second, name="y"), TensorProto.FLOAT, ("n", 1))
    model = graph.model()
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert model.ir_version == IR_VERSION
    found = run_model(graph, {"x": np.array([[5, 2], [1, 4]], np.float32)})
    assert found["y"].tolist() == [[3], [-3]]
    graph.node("QuickGelu", first, domain=CONTRIB, alpha=1.0)
    assert [entry.domain for entry in graph.model().opset_import] == ["", CONTRIB]


def test_large_constants_lie_at_pages_of_the_data_file(tmp_path: Path) -> None:
    data = DataFile(tmp_path / "g.onnx.data")
    graph = GraphWriter("test", data)
    value = graph.input("x", TensorProto.FLOAT, (1,))
    odd = np.random.default_rng(0).integers(-128, 128, (257, 300), dtype=np.int8)
    arrays: dict[str, NDArray[Any]] = {
        "first": odd,
        "small": np.array([3], np.float32),
        "columns": LARGE.T,
    }  # .T: not contiguous
    for name, array in arrays.items():
        graph.constant(name, array)
    for name in arrays:
        shape = arrays[name].shape
        kind = TensorProto.INT8 if name == "first" else TensorProto.FLOAT
        graph.output(graph.node("Identity", name, name=f"{name}.out"), kind, shape)
    graph.output(graph.node("Identity", value, name="y"), TensorProto.FLOAT, (1,))
    data.close()
    places = {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data}
        for tensor in graph.model().graph.initializer
    }
    assert places["small"] == {}
    for name in ("first", "columns"):
        assert places[name]["location"] == "g.onnx.data"
        offset, length = int(places[name]["offset"]), int(places[name]["length"])
        assert offset % PAGE == 0
        stored = data.path.read_bytes()[offset : offset + length]
        assert stored == np.ascontiguousarray(arrays[name]).tobytes()
    path = tmp_path / "g.onnx"
    path.write_bytes(graph.model().SerializeToString())
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run([f"{name}.out" for name in arrays], {"x": np.ones(1, np.float32)})
    for array, wanted in zip(found, arrays.values(), strict=True):
        assert np.array_equal(array, wanted)


def test_a_wrong_operator_does_not_pass() -> None:
    graph = GraphWriter("test")
    value = graph.input("x", TensorProto.FLOAT, (1,))
    graph.output(graph.node("Abs", value, value, name="y"), TensorProto.FLOAT, (1,))
    with pytest.raises(Exception, match="Abs"):
        graph.model()


def test_saving_moves_large_weights_beside_the_graph(tmp_path: Path) -> None:
    graph = GraphWriter("test")
    value = graph.input("x", TensorProto.FLOAT, (2, 1))
    graph.output(graph.node("Mul", value, graph.constant("w", LARGE), name="y"), TensorProto.FLOAT, LARGE.shape)
    model = graph.model()
    written = save(model, tmp_path / "g.onnx")
    assert [path.name for path in written] == ["g.onnx", "g.onnx.data"]
    factors = np.array([[2], [3]], np.float32)
    assert model.graph.initializer[0].raw_data, "the model in memory was changed"
    session = ort.InferenceSession(str(written[0]), providers=["CPUExecutionProvider"])
    assert np.array_equal(session.run(None, {"x": factors})[0], LARGE * factors)
    first = [path.read_bytes() for path in written]
    save(model, tmp_path / "g.onnx")
    assert [path.read_bytes() for path in written] == first
