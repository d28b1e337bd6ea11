"""OpenVINO behind `Session`: exact products, items apart, clear errors, and no word to anybody that it is used."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from magicmm import Bundle, Embedder, ErrorCode, MagicError
from magicmm import openvino_runtime as runtime
from magicmm.cli import main
from magicmm.openvino_runtime import OpenvinoSession
from magicmm.runtime import OnnxSession, open_session
from tiny_bundles import dual_bundle, image_graph, sha256

DEPTH, WIDTH = 192, 40


def write_product(folder: Path, weights: Any, step: float = 0.5, offset: int = 4096) -> Path:
    """Write y = round(x / step) @ weights x step, with weights in a file beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.data").write_bytes(bytes(offset) + weights.tobytes())
    stored = TensorProto(name="w", data_type=TensorProto.INT8, dims=weights.shape)
    stored.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.data"), ("offset", offset), ("length", weights.nbytes)):
        stored.external_data.add(key=key, value=str(value))
    small = {"step": np.float32(step), "zero": np.int8(0), "scales": np.ones(weights.shape[1], np.float32)}
    tensors = [stored, *(numpy_helper.from_array(np.array(value), name) for name, value in small.items())]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "step", "zero"], ["rounded"]),
        helper.make_node("DequantizeLinear", ["w", "scales"], ["weights"], axis=1),
        helper.make_node("MatMul", ["rounded", "weights"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", None, size])
        for name, size in (("x", weights.shape[0]), ("y", weights.shape[1]))
    ]
    graph = helper.make_graph(nodes, "product", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    (folder / "product.onnx").write_bytes(model.SerializeToString())
    return folder / "product.onnx"


@pytest.mark.parametrize("case", ["largest", "random"])
def test_products_of_8_bits_are_those_of_whole_numbers(case: str, tmp_path: Path) -> None:
    """Without dot-product instructions, sums of neighbours are cut to 16 bits unless somebody cares."""
    rng = np.random.default_rng(0)
    weights = rng.integers(-127, 128, (DEPTH, WIDTH), np.int8)
    codes = rng.integers(-127, 128, (2, 9, DEPTH))
    if case == "largest":
        weights[:], codes[:] = 127, 127
    session = OpenvinoSession(write_product(tmp_path, weights), 1)
    found = session.run({"x": (codes * 0.5).astype(np.float32)})
    wanted = (codes @ weights.astype(np.int64)) * 0.5
    assert np.abs(found - wanted).max() <= 1e-6 * np.abs(wanted).max()


def test_codes_are_cut_where_the_range_ends(tmp_path: Path) -> None:
    session = OpenvinoSession(write_product(tmp_path, np.eye(8, dtype=np.int8), step=0.25), 1)
    found = session.run({"x": np.array([[[-1e6, -32, -0.3, 0, 0.12, 0.13, 31.75, 1e6]]], np.float32)})
    assert found.tolist() == [[[-32, -32, -0.25, 0, 0, 0.25, 31.75, 31.75]]]


def test_an_item_gives_the_same_bits_alone_and_beside_others(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    session = OpenvinoSession(write_product(tmp_path, rng.integers(-127, 128, (DEPTH, WIDTH), np.int8)), 1)
    items = rng.standard_normal((3, 9, DEPTH), np.float32)
    together = session.run({"x": items})
    assert together.shape == (3, 9, WIDTH) and together.dtype == np.float32
    for place in range(3):
        assert np.array_equal(session.run({"x": items[place : place + 1]})[0], together[place])


def test_a_run_gives_arrays_of_its_own(tmp_path: Path) -> None:
    session = OpenvinoSession(write_product(tmp_path, np.eye(8, dtype=np.int8)), 1)
    first = session.run({"x": np.full((1, 1, 8), 5, np.float32)})
    session.run({"x": np.full((1, 1, 8), 7, np.float32)})
    assert (first == 5).all()


def test_values_inside_can_be_watched(tmp_path: Path) -> None:
    session = OpenvinoSession(write_product(tmp_path, np.full((8, 4), 3, np.int8)), 1, ("rounded",))
    output, rounded = session.run_watched({"x": np.full((2, 1, 8), 0.6, np.float32)})
    assert session.output_name == "y" and session.input_names == {"x"}
    assert (rounded == 0.5).all() and (output == 12).all()


def test_the_answers_are_those_of_onnxruntime(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    path = write_product(tmp_path, rng.integers(-127, 128, (DEPTH, WIDTH), np.int8))
    items = {"x": rng.standard_normal((2, 9, DEPTH), np.float32) * 20}
    wanted = OnnxSession(path, 1).run(items)
    assert np.abs(OpenvinoSession(path, 1).run(items) - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"x": np.zeros((0, 1, 8), np.float32)},
        {"x": np.zeros((1, 1, 7), np.float32)},
        {"x": np.zeros((1, 1, 8), np.float64)},
        {"other": np.zeros((1, 1, 8), np.float32)},
    ],
    ids=["missing", "no items", "wrong shape", "wrong type", "wrong name"],
)
def test_wrong_inputs(inputs: dict[str, Any], tmp_path: Path) -> None:
    session = OpenvinoSession(write_product(tmp_path, np.eye(8, dtype=np.int8)), 1)
    with pytest.raises(MagicError) as caught:
        session.run(inputs)
    assert caught.value.code is ErrorCode.RUNTIME_FAILED


@pytest.mark.parametrize("data", [b"", b"no graph"], ids=["empty", "text"])
def test_a_file_that_is_no_graph(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(data)
    with pytest.raises(MagicError, match=r"broken\.onnx") as caught:
        OpenvinoSession(tmp_path / "broken.onnx", 1)
    assert caught.value.code is ErrorCode.RUNTIME_FAILED


def test_a_processor_without_exact_products_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_product(tmp_path, np.eye(8, dtype=np.int8))
    monkeypatch.setattr(runtime, "_largest_sum", lambda properties: 8160.0)
    monkeypatch.setattr(runtime, "saturates", lambda: True)
    with pytest.raises(MagicError, match="exact"):
        OpenvinoSession(path, 1)


@pytest.mark.parametrize(("capabilities", "hint"), [(["FP32", "INT8"], "f32"), (["FP32", "BF16", "INT8"], "bf16")])
def test_bfloat16_is_asked_for_where_the_processor_has_it(
    capabilities: list[str], hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Core:
        def get_property(self, device: str, name: str) -> list[str]:
            assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
            return capabilities

    monkeypatch.setattr(runtime, "_core", Core)
    monkeypatch.setattr(runtime, "saturates", lambda: False)
    assert runtime._properties(3) == {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": hint,
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_NUM_THREADS": 3,
    }
    assert "INFERENCE_NUM_THREADS" not in runtime._properties(0)


def test_opening_a_graph_reports_to_nobody(tmp_path: Path) -> None:
    """A plain `import openvino` writes a client id into the home folder and sends an event."""
    path = write_product(tmp_path / "graph", np.eye(8, dtype=np.int8))
    code = (
        "import sys, threading; seen = []\n"
        "sys.addaudithook(lambda name, _: seen.append(name) if name.startswith(('socket.', 'subprocess.')) else None)\n"
        "from pathlib import Path; from magicmm.openvino_runtime import OpenvinoSession\n"
        f"OpenvinoSession(Path({str(path)!r}), 1)\n"
        "import openvino; openvino.convert_model\n"
        "print([name for name in sys.modules if 'telemetry' in name and 'openvino_telemetry' in name], seen)"
    )
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path)), "HOME": str(tmp_path), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "[] []"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["graph"]


def with_alternative(source: Path, target: Path, graph: bytes | None, names: dict[str, Any] | None = None) -> Bundle:
    """Copy a dual encoder with an alternative image graph."""
    shutil.copytree(source, target)
    manifest = json.loads((target / "manifest.json").read_text())
    if graph is not None:
        (target / "image.openvino.onnx").write_bytes(graph)
        manifest["files"]["image.openvino.onnx"] = {"bytes": len(graph), "sha256": sha256(graph)}
    manifest["alternatives"] = names or {"openvino": {"image": "image.openvino.onnx"}}
    (target / "manifest.json").write_text(json.dumps(manifest))
    return Bundle.load(target)


@pytest.fixture(scope="module")
def dual_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dual_bundle(tmp_path_factory.mktemp("dual") / "dual.magicmm")


def test_a_runtime_runs_its_own_graphs_and_leaves_the_others(dual_path: Path, tmp_path: Path) -> None:
    bundle = with_alternative(dual_path, tmp_path / "b", image_graph(1))
    assert isinstance(open_session(bundle, "image", 1, "openvino"), OpenvinoSession)
    assert isinstance(open_session(bundle, "text", 1, "openvino"), OnnxSession)
    assert isinstance(open_session(bundle, "image", 1, "onnx"), OnnxSession)
    assert Embedder.open(bundle, 1, "openvino").fingerprint == Bundle.load(dual_path).fingerprint


def test_a_bundle_without_a_graph_for_it_is_refused_at_once(dual_path: Path) -> None:
    with pytest.raises(MagicError, match="no graph for OpenVINO") as caught:
        Embedder.open(dual_path, runtime="openvino")
    assert caught.value.code is ErrorCode.RUNTIME_FAILED
    assert "--openvino" in caught.value.remedy


def test_a_runtime_that_is_named_without_a_graph_runs_nothing_else(dual_path: Path, tmp_path: Path) -> None:
    bundle = with_alternative(dual_path, tmp_path / "b", None, {"openvino": {}})
    with pytest.raises(MagicError, match="no graph for OpenVINO"):
        Embedder.open(bundle, runtime="openvino")


def test_the_command_line_passes_it_on(dual_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    commands = (["verify", str(dual_path)], ["index", str(tmp_path / "photos"), "--bundle", str(dual_path)])
    for command in commands:
        place = [] if command[0] == "verify" else ["--index", str(tmp_path / "index.db")]
        assert main([*command, *place, "--runtime", "openvino"]) == 1
        assert "no graph for OpenVINO" in capsys.readouterr().err


def test_a_missing_package_is_named_with_its_command(
    dual_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = with_alternative(dual_path, tmp_path / "b", image_graph(1))
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else find(name))
    with pytest.raises(MagicError, match="not installed") as caught:
        Embedder.open(bundle, runtime="openvino")
    assert "pip install 'magicmm[openvino]'" in caught.value.remedy


def test_weights_outside_of_the_bundle_are_not_read(dual_path: Path, tmp_path: Path) -> None:
    model = onnx.load(str(write_product(tmp_path / "graph", np.eye(8, dtype=np.int8))), load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "../graph/weights.data"
    bundle = with_alternative(dual_path, tmp_path / "b", model.SerializeToString())
    with pytest.raises(MagicError, match="not listed") as caught:
        open_session(bundle, "image", 1, "openvino")
    assert caught.value.code is ErrorCode.BUNDLE_INVALID
