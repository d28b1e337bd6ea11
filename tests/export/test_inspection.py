"""`inspect_bundle`: what it counts is what onnx, safetensors and the file system say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest

from exported_bundles import tiny_bundle, tiny_checkpoint
from magicmm import Bundle
from magicmm_export.inspection import Graph, inspect_bundle
from magicmm_export.providers import check_providers
from magicmm_quant.recipe import Recipe, Rule
from magicmm_quant.schemes import Scheme

MIXED = Recipe(
    "mixed",
    (
        Rule(r"vision\.patches", Scheme("float32")),
        Rule(r"vision\.layers\.\d+\.fc1", Scheme("int4", 32)),
        Rule(r"vision\.layers\.\d+\.proj", Scheme("float32")),
        Rule(".*", Scheme("int8")),
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inspection")


@pytest.fixture(scope="module")
def mixed(folder: Path) -> Path:
    return tiny_bundle(tiny_checkpoint(folder / "tiny"), folder / "mixed.magicmm", MIXED)


def graph_of(path: Path, part: str) -> Graph:
    return next(graph for graph in inspect_bundle(path).graphs if graph.part == part)


def test_operators_are_counted_by_domain(mixed: Path) -> None:
    model = onnx.load(str(mixed / "onnx" / "vision.onnx"), load_external_data=False)
    found = graph_of(mixed, "vision").operators
    assert sum(found.values()) == len(model.graph.node)
    assert found["com.microsoft.MultiHeadAttention"] == 2
    assert found["LayerNormalization"] == 5
    assert found["com.microsoft.MatMulIntegerToFloat"] == 2 * len(("qkv", "fc1", "fc2")) + len(("linear_1", "linear_2"))
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_bytes_by_purpose_are_those_of_all_files(mixed: Path) -> None:
    found = inspect_bundle(mixed)
    assert sum(found.bytes.values()) == Bundle.load(mixed).total_bytes
    assert found.bytes["tokens"] == (mixed / "tokens.bin").stat().st_size
    assert found.bytes["prefixes"] == sum(file.stat().st_size for file in (mixed / "prefix").iterdir())
    assert found.bytes["golden"] == sum(file.stat().st_size for file in (mixed / "golden").iterdir())
    vision = sum(file.stat().st_size for file in (mixed / "onnx").iterdir() if file.name.startswith("vision"))
    assert found.bytes["vision graph"] == vision
    assert "other" not in found.bytes


def test_bytes_of_constants_are_sorted_by_kind_of_unit(mixed: Path) -> None:
    found = graph_of(mixed, "vision")
    assert found.kinds["vision proj"] == 2 * (32 * 32 + 32) * 4
    assert found.kinds["vision qkv"] == 2 * (96 * 32 + 96 * 4 + 96 * 4)
    assert found.kinds["vision fc1"] == 2 * (64 * 32 // 2 + 64 + 64 * 4 + 64 * 4)
    assert found.kinds["vision positions"] == 1024 * 32 * 4
    assert sum(found.kinds.values()) == sum(found.types.values())
    assert found.types["packed int8"] == 2 * (64 * 32 // 2 + 64)


def test_schemes_count_products_by_the_type_of_their_weights(mixed: Path) -> None:
    found = graph_of(mixed, "vision").schemes
    assert found == {"int8": 2 * 2 + 2, "float32": 1 + 2, "4 bits, packed": 2}


def test_low_memory_bundles_show_blocks_of_four_bits(folder: Path) -> None:
    path = tiny_bundle(tiny_checkpoint(folder / "again"), folder / "low.magicmm", MIXED, low_memory=True)
    found = graph_of(path, "vision")
    assert found.schemes["4 bits in blocks"] == 2
    assert found.operators["com.microsoft.MatMulNBits"] == 2


def test_inputs_outputs_and_opset(mixed: Path) -> None:
    vision, language = inspect_bundle(mixed).graphs
    assert [(value.name, value.type, value.shape) for value in vision.inputs] == [
        ("pixels", "uint8", ("n", 448, 448, 3))
    ]
    assert [(value.name, value.type, value.shape) for value in language.outputs] == [("vector", "float32", ("b", 48))]
    assert [value.name for value in language.inputs[:3]] == ["embeds", "last", "past_key_0"]
    assert vision.opset == {"": 20, "com.microsoft": 1}


def test_the_built_in_model_loads_and_its_products_are_found() -> None:
    found = inspect_bundle(Bundle.default().path, load=True)
    assert [graph.part for graph in found.graphs] == ["image", "text"]
    assert [graph.load for graph in found.graphs] == ["loads", "loads"]
    image, text = found.graphs
    assert image.schemes["int8"] == image.operators["QLinearConv"]
    assert set(text.schemes) == {"uint8"}
    assert sum(found.bytes.values()) == Bundle.default().total_bytes


def test_a_graph_that_onnxruntime_refuses_says_why(mixed: Path, folder: Path) -> None:
    broken = folder / "broken.magicmm"
    shutil.copytree(mixed, broken)
    path = broken / "onnx" / "vision.onnx"
    path.write_bytes(path.read_bytes().replace(b"MultiHeadAttention", b"MultiHeadAttentiox"))
    vision, language = inspect_bundle(broken, load=True).graphs
    assert "MultiHeadAttentiox" in vision.load
    assert language.load == "loads"


def test_everything_is_json_and_the_table_names_what_was_found(mixed: Path) -> None:
    found = inspect_bundle(mixed)
    assert json.loads(json.dumps(found.to_json()))["graphs"][0]["schemes"] == found.graphs[0].schemes
    text = found.table()
    for word in ("4 bits, packed", "vision qkv", "com.microsoft.RotaryEmbedding", "past_key_{i}", "XNNPACK", "tokens"):
        assert word in text
    assert "past_key_1" not in text


def test_types_are_named_as_people_do(mixed: Path) -> None:
    assert set(graph_of(mixed, "vision").types) == {"int8", "float32", "packed int8", "int64", "uint8"}


def test_providers_say_only_what_is_known() -> None:
    used = ["MatMul", "Softmax", "LayerNormalization", "com.microsoft.MatMulIntegerToFloat", "com.microsoft.QuickGelu"]
    found = {check.provider: check for check in check_providers(used, is_dynamic=True)}
    assert found["XNNPACK"].unsupported == (
        "LayerNormalization",
        "com.microsoft.MatMulIntegerToFloat",
        "com.microsoft.QuickGelu",
    )
    assert found["QNN"].unsupported is None
    assert found["WebGPU"].unsupported == ("com.microsoft.MatMulIntegerToFloat",)
    assert found["CoreML"].unsupported == ("com.microsoft.MatMulIntegerToFloat",)
    assert found["NNAPI"].unsupported == used_without(used, "MatMul", "Softmax")
    assert any("free dimensions" in note for note in found["QNN"].notes)


def used_without(used: list[str], *supported: str) -> tuple[str, ...]:
    return tuple(name for name in used if name not in supported)


def test_fixed_shapes_need_no_warning() -> None:
    notes = [note for check in check_providers(["Conv"], is_dynamic=False) for note in check.notes]
    assert not any("free dimensions" in note for note in notes)


def test_lists_that_onnxruntime_does_not_install_are_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magicmm_export.providers._listed", lambda file: None)
    found = {check.provider: check.unsupported for check in check_providers(["Add"], is_dynamic=False)}
    assert found["NNAPI"] is None and found["CoreML"] is None
    assert found["XNNPACK"] == ("Add",)
