"""onnxruntime behind `Session`: what it refuses becomes `runtime_failed`, and nothing outside the bundle is read."""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import save

from magicmm import Bundle, Embedder, ErrorCode, MagicError
from magicmm.runtime import OnnxSession, open_session, unit_vectors
from tiny_bundles import image_graph, packed_dual_bundle, packed_image_graph, sha256, unstored


@pytest.fixture(scope="module")
def packed_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed_dual_bundle(tmp_path_factory.mktemp("packed") / "packed.magicmm")


def error_of(path: Path) -> MagicError:
    with pytest.raises(MagicError) as caught:
        OnnxSession(path, 1)
    assert caught.value.remedy
    return caught.value


def model_with(nodes: list[Any], outputs: list[Any], tensors: tuple[Any, ...] = ()) -> bytes:
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])
    graph = helper.make_graph(nodes, "small", [given], outputs, list(tensors))
    model: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    return model


def test_a_graph_runs(tmp_path: Path) -> None:
    (tmp_path / "image.onnx").write_bytes(image_graph(1))
    session = OnnxSession(tmp_path / "image.onnx", 1)
    assert session.input_names == {"pixels"}
    output = session.run({"pixels": np.full((2, 16, 16, 3), 255, np.uint8)})
    assert output.dtype == np.float32
    assert output.shape == (2, 8)
    assert output[0, :3].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("data", [b"", b"no graph", b"\x08\x08" * 100], ids=["empty", "text", "noise"])
def test_a_file_that_is_no_graph(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(data)
    error = error_of(tmp_path / "broken.onnx")
    assert error.code is ErrorCode.RUNTIME_FAILED
    assert "broken.onnx" in error.message


def test_a_missing_graph(tmp_path: Path) -> None:
    assert error_of(tmp_path / "none.onnx").code is ErrorCode.RUNTIME_FAILED


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"pixels": np.zeros((1, 16, 16, 3), np.float32)},
        {"pixels": np.zeros((1, 15, 16, 3), np.uint8)},
        {"other": np.zeros((1, 16, 16, 3), np.uint8)},
    ],
    ids=["missing", "wrong type", "wrong shape", "wrong name"],
)
def test_wrong_inputs(inputs: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "image.onnx").write_bytes(image_graph(1))
    session = OnnxSession(tmp_path / "image.onnx", 1)
    with pytest.raises(MagicError) as caught:
        session.run(inputs)
    assert caught.value.code is ErrorCode.RUNTIME_FAILED


def test_an_output_that_is_no_array_of_numbers(tmp_path: Path) -> None:
    sequence = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    nodes = [helper.make_node("SequenceConstruct", ["x", "shorter"], ["y"])]
    shorter = onnx.numpy_helper.from_array(np.zeros(3, np.float32), "shorter")
    (tmp_path / "list.onnx").write_bytes(model_with(nodes, [sequence], (shorter,)))
    session = OnnxSession(tmp_path / "list.onnx", 1)
    with pytest.raises(MagicError) as caught:
        session.run({"x": np.zeros(4, np.float32)})
    assert caught.value.code is ErrorCode.RUNTIME_FAILED


@pytest.mark.parametrize("runtime", ["coreml", "ONNX", ""])
def test_a_runtime_that_this_sdk_does_not_have(runtime: str, dual_path: Path) -> None:
    with pytest.raises(MagicError, match="onnx") as caught:
        open_session(Bundle.load(dual_path), "text", 1, runtime)
    assert caught.value.code is ErrorCode.RUNTIME_FAILED


def test_a_bundle_for_another_runtime_only(dual_path: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(dual_path, tmp_path / "copy"))
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    manifest["graphs"] = {"coreml": manifest["graphs"]["onnx"]}
    (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    for runtime in ("onnx", "coreml"):
        with pytest.raises(MagicError, match="graphs are for coreml") as caught:
            open_session(Bundle.load(copy), "text", 1, runtime)
        assert caught.value.code is ErrorCode.RUNTIME_FAILED


def test_shapes_are_checked_by_name() -> None:
    output = np.array([[3, 0, 4], [0, 2, 0]], np.float32)
    assert np.allclose(unit_vectors(output, 2, 3, "text"), [[0.6, 0, 0.8], [0, 1, 0]])
    for count, dim in ((2, 4), (1, 3)):
        with pytest.raises(MagicError, match=r"text graph gave \(2, 3\)") as caught:
            unit_vectors(output, count, dim, "text")
        assert caught.value.code is ErrorCode.RUNTIME_FAILED


@pytest.mark.parametrize("value", [0.0, 1e-9, np.nan, np.inf])
def test_a_vector_without_direction_never_comes_out(value: float) -> None:
    output = np.array([[1, 0], [value, 0]], np.float32)
    with pytest.raises(MagicError, match="no direction") as caught:
        unit_vectors(output, 2, 2, "image")
    assert caught.value.code is ErrorCode.RUNTIME_FAILED


def test_sha256_of_the_test_bundles_is_that_of_their_files(dual_path: Path) -> None:
    for name, entry in Bundle.load(dual_path).manifest.files.items():
        assert sha256((dual_path / name).read_bytes()) == entry.sha256


SHAPES = {"w": (64, 32), "v": (4096, 32)}


def integer_graph(location: str) -> bytes:
    """Give x * w, uint8 [n, 64] by int8 [64, 32], plus a row of v, which no kernel may rearrange."""
    nodes = [
        helper.make_node("MatMulInteger", ["x", "w"], ["product"]),
        helper.make_node("Gather", ["v", "place"], ["row"], axis=0),
        helper.make_node("Cast", ["row"], ["row_whole"], to=TensorProto.INT32),
        helper.make_node("Add", ["product", "row_whole"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["y"], to=TensorProto.FLOAT),
    ]
    given = [
        helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", 64]),
        helper.make_tensor_value_info("place", TensorProto.INT64, []),
    ]
    result = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 32])]
    tensors = [unstored(name, shape, location) for name, shape in SHAPES.items()]
    graph = helper.make_graph(nodes, "small", given, result, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


@pytest.mark.parametrize("saturating", [False, True])
def test_weights_given_from_memory_are_used_and_not_kept(
    saturating: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magicmm.runtime.saturates", lambda: saturating)
    (tmp_path / "g.onnx").write_bytes(integer_graph("g.q4"))
    (tmp_path / "g.q4").write_bytes(bytes(10))
    rng = np.random.default_rng(3)
    # 7 bits: a pair of products fits into 16 bits, so the sums are right on every processor in either mode.
    weights = {name: rng.integers(-63, 64, shape, dtype=np.int8) for name, shape in SHAPES.items()}
    copies = {name: array.copy() for name, array in weights.items()}
    held = [weakref.ref(array) for array in weights.values()]
    session = OnnxSession(tmp_path / "g.onnx", 1, weights)
    for array in weights.values():
        array[:] = 0
    weights.clear()
    del array
    assert [reference() for reference in held] == [None, None]
    x = rng.integers(0, 256, (5, 64), dtype=np.uint8)
    expected = x.astype(int) @ copies["w"].astype(int) + copies["v"][4000]
    assert np.array_equal(session.run({"x": x, "place": np.array(4000)}), expected)


def test_a_graph_whose_weights_are_not_given_is_refused(tmp_path: Path) -> None:
    (tmp_path / "g.onnx").write_bytes(integer_graph("g.q4"))
    (tmp_path / "g.q4").write_bytes(bytes(1 << 20))
    assert error_of(tmp_path / "g.onnx").code is ErrorCode.RUNTIME_FAILED
    assert OnnxSession(tmp_path / "g.onnx", 1, {name: np.ones(shape, np.int8) for name, shape in SHAPES.items()})


@pytest.mark.parametrize("saturating", [False, True])
def test_packed_weights_give_the_vectors_of_plain_ones(
    saturating: bool, packed_path: Path, dual_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magicmm.runtime.saturates", lambda: saturating)
    rgb = np.random.default_rng(4).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    packed, plain = Embedder.open(packed_path).embed_image(rgb), Embedder.open(dual_path).embed_image(rgb)
    assert np.abs(packed - plain).max() < 1e-6
    assert Bundle.load(packed_path).verify().passes


def broken(path: Path, target: Path, **changes: Any) -> Bundle:
    """Copy a bundle with other files (`image.q4` is given as arrays) or other keys of the manifest."""
    copy = Path(shutil.copytree(path, target))
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    for key, value in changes.items():
        if key not in ("graph", "stored"):
            manifest[key] = value
            continue
        name = {"graph": "onnx/image.onnx", "stored": "onnx/image.q4"}[key]
        data = value if key == "graph" else save(value)
        (copy / name).write_bytes(data)
        manifest["files"][name] = {"bytes": len(data), "sha256": sha256(data)}
    (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return Bundle.load(copy)


def refusal(bundle: Bundle) -> MagicError:
    with pytest.raises(MagicError) as caught:
        open_session(bundle, "image", 1, "onnx")
    return caught.value


def test_a_bundle_that_does_not_say_that_its_weights_are_packed_is_refused(packed_path: Path, tmp_path: Path) -> None:
    assert refusal(broken(packed_path, tmp_path / "b", packed={})).code is ErrorCode.RUNTIME_FAILED


def test_packed_weights_for_a_graph_that_declares_none(packed_path: Path, tmp_path: Path) -> None:
    error = refusal(broken(packed_path, tmp_path / "b", graph=image_graph(2)))
    assert error.code is ErrorCode.BUNDLE_INVALID
    assert "does not declare" in error.message


CODES, MULTIPLIERS = 7 * np.eye(3, 4, dtype=np.uint8), np.full((1, 8), 18, np.uint8)


@pytest.mark.parametrize(
    "stored",
    [
        {"lift8.codes": CODES},
        {"other.codes": CODES, "other.multipliers": MULTIPLIERS},
        {"lift8.codes": CODES.T.copy(), "lift8.multipliers": MULTIPLIERS[:, :6].copy()},
        {"lift8.codes": CODES + 1, "lift8.multipliers": MULTIPLIERS},
        {"lift8.codes": CODES, "lift8.multipliers": MULTIPLIERS + 1},
        {"lift8.codes": CODES, "lift8.multipliers": np.full((2, 8), 18, np.uint8)},
    ],
    ids=["no multipliers", "another name", "another shape", "code -8", "multiplier 19", "groups that do not divide"],
)
def test_broken_packed_weights(stored: dict[str, Any], packed_path: Path, tmp_path: Path) -> None:
    error = refusal(broken(packed_path, tmp_path / "b", stored=stored))
    assert error.code is ErrorCode.BUNDLE_INVALID
    assert error.remedy


def declare_float(model: onnx.ModelProto, weight: TensorProto) -> None:
    weight.data_type = TensorProto.FLOAT


def declare_a_readable_place(model: onnx.ModelProto, weight: TensorProto) -> None:
    weight.external_data[1].value = "0"


def declare_no_place(model: onnx.ModelProto, weight: TensorProto) -> None:
    del weight.external_data[1]


def declare_two_files(model: onnx.ModelProto, weight: TensorProto) -> None:
    weight.external_data.add(key="location", value="text.onnx")


def declare_twice(model: onnx.ModelProto, weight: TensorProto) -> None:
    model.graph.initializer.append(weight)


def declare_as_an_attribute(model: onnx.ModelProto, weight: TensorProto) -> None:
    model.graph.initializer.remove(weight)
    model.graph.node[0].attribute.append(helper.make_attribute("x", weight))


@pytest.mark.parametrize(
    "change",
    [
        declare_float,
        declare_a_readable_place,
        declare_no_place,
        declare_two_files,
        declare_twice,
        declare_as_an_attribute,
    ],
)
def test_a_graph_that_declares_packed_weights_in_another_way(
    change: Callable[[onnx.ModelProto, TensorProto], None], packed_path: Path, tmp_path: Path
) -> None:
    model = packed_image_graph("image.q4")
    change(model, next(tensor for tensor in model.graph.initializer if tensor.name == "lift8"))
    error = refusal(broken(packed_path, tmp_path / "b", graph=model.SerializeToString()))
    assert error.code is ErrorCode.BUNDLE_INVALID
    assert "declare" in error.message


@pytest.mark.parametrize(
    ("version", "saturating", "expected"),
    [("1.32.0", True, True), ("2.0.1+cpu", True, True), ("1.24.1", True, False), ("1.32.0", False, False)],
)
def test_exact_products_are_asked_for_only_where_needed_and_safe(
    version: str, saturating: bool, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Options(onnxruntime.SessionOptions):  # type: ignore[misc]
        def add_session_config_entry(self, key: str, value: str) -> None:
            asked.append(key)

    monkeypatch.setattr("magicmm.runtime.saturates", lambda: saturating)
    monkeypatch.setattr(onnxruntime, "__version__", version)
    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    (tmp_path / "image.onnx").write_bytes(image_graph(1))
    OnnxSession(tmp_path / "image.onnx", 1)
    assert ("session.x64quantprecision" in asked) == expected
