"""A graph reads files of its own bundle only, however it hides the name: onnx's classes write, our reader finds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from onnx import AttributeProto, ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper

from magicmm import Bundle, Embedder, ErrorCode, MagicError
from magicmm.onnx_files import INT8, external_tensors
from magicmm_export.bundle_writer import GoldenInput, write_bundle
from tiny_bundles import DIM, common_manifest, image_graph, role, sha256, tokenizer_json


def tensor(location: str | None, name: str = "w") -> TensorProto:
    if location is None:
        return numpy_helper.from_array(np.ones(4, np.float32), name)
    found = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("offset", "0"), ("location", location), ("length", "16")):
        found.external_data.add(key=key, value=value)
    return found


def model_around(*tensors: TensorProto) -> ModelProto:
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [given], [result], list(tensors))
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def found_in(model: ModelProto | bytes, tmp_path: Path) -> set[str]:
    path = tmp_path / "graph.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return {name for tensor in external_tensors(path) for name in tensor.all("location")}


def test_names_come_out_as_they_are_written(tmp_path: Path) -> None:
    assert found_in(model_around(tensor(None)), tmp_path) == set()
    assert found_in(model_around(tensor("a.data"), tensor("../../b", "v")), tmp_path) == {"a.data", "../../b"}


def test_a_tensor_may_hide_anywhere(tmp_path: Path) -> None:
    """In attributes, subgraphs, sparse tensors, functions and training graphs."""
    node = helper.make_node("Constant", [], ["c"])
    node.attribute.append(helper.make_attribute("value", tensor("attribute")))
    node.attribute.append(helper.make_attribute("list", [tensor("list"), tensor(None)]))
    sparse = SparseTensorProto(values=tensor("sparse values"), indices=tensor("sparse indices"), dims=[4])
    node.attribute.append(AttributeProto(name="s", type=AttributeProto.SPARSE_TENSOR, sparse_tensor=sparse))
    inner = helper.make_graph([node], "inner", [], [], [tensor("subgraph")])
    outer = helper.make_node("If", ["x"], ["z"], then_branch=inner)
    model = model_around(tensor("plain"))
    model.graph.node.append(outer)
    model.graph.sparse_initializer.append(SparseTensorProto(values=tensor("sparse initializer")))
    model.functions.add(name="f", domain="d").node.append(helper.make_node("Constant", [], ["k"], value=tensor("body")))
    model.training_info.add().algorithm.CopyFrom(helper.make_graph([], "t", [], [], [tensor("training")]))
    assert found_in(model, tmp_path) == {
        *("plain", "attribute", "list", "sparse values", "sparse indices", "subgraph", "sparse initializer"),
        *("body", "training"),
    }


def test_unusual_encodings_of_the_same_message(tmp_path: Path) -> None:
    """Value before key, a key given twice (the last counts), lengths as overlong numbers."""

    def text(number: int, value: bytes, overlong: bool = False) -> bytes:
        length = bytes([len(value) | 0x80, 0x80, 0x00]) if overlong else bytes([len(value)])
        return bytes([number << 3 | 2]) + length + value

    entry = text(2, b"../evil", overlong=True) + text(1, b"offset") + text(1, b"location", overlong=True)
    plain = ModelProto()
    weight = text(13, entry) + text(8, b"w")
    message = text(7, text(5, weight, overlong=True))
    assert found_in(message, tmp_path) == {"../evil"}
    plain.ParseFromString(message)
    assert plain.graph.initializer[0].external_data[0].value == "../evil"  # onnx reads it so, too


def test_a_tensor_comes_with_name_type_shape_and_place(tmp_path: Path) -> None:
    weight = TensorProto(name="w8", data_type=TensorProto.INT8, dims=[300, 2], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "a"), ("offset", "7"), ("location", "b"), ("", "")):
        weight.external_data.add(key=key, value=value)
    inner = helper.make_graph([], "inner", [], [], [tensor("c", "deep")])
    model = model_around(weight, tensor(None, "stored"))
    model.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=inner))
    model.training_info.add().algorithm.CopyFrom(helper.make_graph([], "t", [], [], [tensor("d", "trained")]))
    path = tmp_path / "graph.onnx"
    path.write_bytes(model.SerializeToString())
    found = {tensor.name: tensor for tensor in external_tensors(path)}
    assert {name: tensor.is_initializer for name, tensor in found.items()} == {
        "w8": True,
        "deep": False,
        "trained": False,
    }
    assert (found["w8"].data_type, found["w8"].shape) == (INT8, (300, 2))
    assert (found["w8"].all("location"), found["w8"].all("offset"), found["w8"].all("length")) == (
        ["a", "b"],
        ["7"],
        [],
    )
    assert (found["deep"].data_type, found["deep"].shape) == (TensorProto.FLOAT, (4,))


def test_sizes_of_a_shape_that_share_one_field(tmp_path: Path) -> None:
    entry = b"\x0a\x08location\x12\x01a"
    weight = b"\x0a\x03\xac\x02\x05" + b"\x6a" + bytes([len(entry)]) + entry
    message = b"\x2a" + bytes([len(weight)]) + weight
    path = tmp_path / "graph.onnx"
    path.write_bytes(b"\x3a" + bytes([len(message)]) + message)
    assert ModelProto.FromString(path.read_bytes()).graph.initializer[0].dims == [300, 5]
    assert [tensor.shape for tensor in external_tensors(path)] == [(300, 5)]


@pytest.mark.parametrize("cut", [1, 7, 20, 60])
def test_damaged_files_are_value_errors(cut: int, tmp_path: Path) -> None:
    data = model_around(tensor("a.data")).SerializeToString()
    with pytest.raises(ValueError):
        found_in(data[:-cut] + b"location", tmp_path)


def test_an_empty_file_is_a_value_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="empty"):
        found_in(b"", tmp_path)


def bundle_with(location: str, tmp_path: Path) -> Path:
    """Write a bundle with its bias in a file of its own, then let the graph name `location` instead."""
    model = ModelProto.FromString(image_graph(2))
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "bias")
    values = numpy_helper.to_array(bias).astype("<f4").tobytes()
    bias.ClearField("raw_data")
    bias.data_location = TensorProto.EXTERNAL
    for key, value in (("offset", "0"), ("length", str(len(values))), ("location", "weights/bias.bin")):
        bias.external_data.add(key=key, value=value)
    staged = tmp_path / "staged"
    (staged / "weights").mkdir(parents=True)
    (staged / "weights/bias.bin").write_bytes(values)
    (tmp_path / "secret.bin").write_bytes(values)
    (staged / "image.onnx").write_bytes(model.SerializeToString())
    (staged / "tokenizer.json").write_text(tokenizer_json())
    facts = common_manifest() | {
        "id": "external",
        "architecture": "dual_encoder",
        "weights": sha256(values),
        "roles": {"photo": role([], []), "query": role([2], [3])},
        "composed": {"text_weight": 1.0},
        "graphs": {"onnx": {"image": "image.onnx", "text": "image.onnx"}},
    }
    golden = [GoldenInput("photo", rgb=np.zeros((8, 8, 3), np.uint8))]
    path = write_bundle(staged, tmp_path / "external.magicmm", facts, golden).path
    bias.external_data[-1].value = location
    graph = model.SerializeToString()
    (path / "image.onnx").write_bytes(graph)
    manifest = json.loads((path / "manifest.json").read_text("utf-8"))
    manifest["files"]["image.onnx"] = {"bytes": len(graph), "sha256": sha256(graph)}
    (path / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    return path


def embed_black(path: Path) -> np.ndarray:
    return Embedder.open(path).embed_image(np.zeros((8, 8, 3), np.uint8))


def test_external_data_of_the_bundle_is_read(tmp_path: Path) -> None:
    assert embed_black(bundle_with("weights/bias.bin", tmp_path)).shape == (DIM,)


@pytest.mark.parametrize("how", ["parent", "through a folder", "absolute"])
def test_a_file_outside_the_bundle_is_refused_before_any_runtime_sees_its_name(how: str, tmp_path: Path) -> None:
    location = {
        "parent": "../secret.bin",
        "through a folder": "weights/../../secret.bin",
        "absolute": str(tmp_path / "secret.bin"),
    }[how]
    path = bundle_with(location, tmp_path)
    assert (path / location).read_bytes(), "the name leads to a file that could be read"
    with pytest.raises(MagicError) as caught:
        embed_black(path)
    assert caught.value.code is ErrorCode.BUNDLE_INVALID
    assert "not listed" in caught.value.message


@pytest.mark.parametrize("location", ["weights/none.bin", "../../none.bin", "././//secret.bin", "/secret/bias.bin", ""])
def test_a_name_that_the_manifest_does_not_list_is_refused(location: str, tmp_path: Path) -> None:
    path = bundle_with(location, tmp_path)
    with pytest.raises(MagicError) as caught:
        embed_black(path)
    assert caught.value.code is ErrorCode.BUNDLE_INVALID


def test_a_listed_name_that_is_a_link_out_of_the_bundle_is_refused(tmp_path: Path) -> None:
    path = bundle_with("weights/bias.bin", tmp_path)
    (path / "weights/bias.bin").unlink()
    os.symlink(tmp_path / "secret.bin", path / "weights/bias.bin")
    with pytest.raises(MagicError) as caught:
        Bundle.load(path)
    assert caught.value.code is ErrorCode.BUNDLE_INVALID
