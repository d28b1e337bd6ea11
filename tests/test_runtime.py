"""onnxruntime behind `Session`: what it refuses becomes `runtime_failed`, and nothing outside the bundle is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from magicmm import Bundle, ErrorCode, MagicError
from magicmm.runtime import OnnxSession, open_session, unit_vectors
from tiny_bundles import image_graph, sha256


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
