"""The vision graph for OpenVINO: the same weights in the same file, and the tokens of an integer model in numpy."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor

from graph_runs import FOUR, SIDE, cosine, options, pictures, run_here
from magicmm import Bundle, Embedder, ErrorCode, MagicError, openvino_runtime
from magicmm.runtime import open_session
from magicmm_export import isolated
from magicmm_export.bench import measure
from magicmm_export.inspection import inspect_bundle
from magicmm_export.ladder import check_bundle
from magicmm_export.observed import Item, ObservedEncoder
from magicmm_export.onnx.calibrated import calibrated
from magicmm_export.onnx.export import OPENVINO_VISION, OnnxOptions, export_onnx
from magicmm_export.scenes import sample_scene
from magicmm_model.checkpoint import Checkpoint
from magicmm_model.model import MagicModel
from magicmm_model.tokenizer import PromptTokenizer
from magicmm_quant.samples import synthetic_samples

Array = NDArray[Any]


@pytest.fixture(scope="module")
def lowering(tiny: Checkpoint, tokenizer: PromptTokenizer) -> OnnxOptions:
    return replace(calibrated(tiny, options(), synthetic_samples(3), tokenizer), openvino=True)


@pytest.fixture(scope="module")
def bundle(tiny: Checkpoint, lowering: OnnxOptions, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(isolated, "_run", run_here)
        return export_onnx(tiny, tmp_path_factory.mktemp("openvino") / "tiny.magicmm", lowering)


def graphs(bundle: Bundle) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    paths = (bundle.file("onnx/vision.onnx"), bundle.file(OPENVINO_VISION))
    first, second = (onnx.load(str(path), load_external_data=False) for path in paths)
    return first, second


def constants(bundle: Bundle, model: onnx.ModelProto) -> dict[str, Array]:
    for tensor in model.graph.initializer:
        if tensor.external_data:
            load_external_data_for_tensor(tensor, str(bundle.path / "onnx"))
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_weights_are_stored_once(bundle: Bundle) -> None:
    first, second = graphs(bundle)
    places = {
        tensor.name: [(entry.key, entry.value) for entry in tensor.external_data]
        for tensor in first.graph.initializer
        if tensor.external_data
    }
    again = {tensor.name: tensor for tensor in second.graph.initializer if tensor.external_data}
    assert places and again.keys() == places.keys()
    for name, tensor in again.items():
        assert [(entry.key, entry.value) for entry in tensor.external_data] == places[name]
    ours, theirs = constants(bundle, first), constants(bundle, second)
    weights = {name for name in ours if name.endswith((".weight", ".scales", ".bias", ".gain"))}
    assert weights <= theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in weights)


def test_every_product_of_the_vision_tower_stands_between_two_roundings(bundle: Bundle) -> None:
    _, model = graphs(bundle)
    maker = {node.output[0]: node for node in model.graph.node}
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    assert len(products) == 1 + 4 * 2 + 2 and products[0].input[1] == "vision.patches.weight", "patches are in float32"
    for node in products[1:]:
        assert [maker[name].op_type for name in node.input] == ["DequantizeLinear", "DequantizeLinear"]
        assert maker[maker[node.input[0]].input[0]].op_type == "QuantizeLinear"
    onnx.checker.check_model(str(bundle.file(OPENVINO_VISION)))


class IntegerVision:
    """The tower in numpy: whole numbers between roundings, everything else in float64."""

    def __init__(self, values: dict[str, Array], model: MagicModel, side: int) -> None:
        self.values = values
        self.config = model.config.variant(image_size=side)

    def linear(self, rows: Array, unit: str) -> Array:
        weight = self.values[f"{unit}.weight"]
        if weight.dtype != np.int8:
            return rows @ weight.astype(np.float64)
        step = np.float64(self.values[f"{unit}.step"])
        codes = np.clip(np.rint(rows / step), -128, 127).astype(np.int64)
        found = (codes @ weight.astype(np.int64)) * step * self.values[f"{unit}.scales"].astype(np.float64)
        return found + self.values.get(f"{unit}.bias", np.float64(0))

    def norm(self, rows: Array, name: str, eps: float) -> Array:
        centred = rows - rows.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
        found: Array = scaled * self.values[f"{name}.gain"] + self.values[f"{name}.bias"]
        return found

    def attend(self, qkv: Array) -> Array:
        heads = self.config.vision.heads
        query, key, value = (part.reshape(len(qkv), heads, -1).transpose(1, 0, 2) for part in np.split(qkv, 3, axis=-1))
        scores = query @ key.transpose(0, 2, 1) / np.sqrt(query.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed: Array = (weights / weights.sum(-1, keepdims=True)) @ value
        return mixed.transpose(1, 0, 2).reshape(len(qkv), -1)

    def tile(self, pixels: Array) -> Array:
        vision = self.config.vision
        grid, patch = vision.grid, vision.patch_size
        cells = pixels.reshape(grid, patch, grid, patch, 3).transpose(0, 2, 1, 3, 4).reshape(grid**2, -1)
        state = self.linear(cells.astype(np.float64), "vision.patches") + self.values["vision.positions"][0]
        state = np.concatenate([self.values["vision.class"][0], state])
        for place in range(vision.layers):
            name = f"vision.layers.{place}"
            normed = self.norm(state, f"{name}.norm1", vision.norm_eps)
            state = state + self.linear(self.attend(self.linear(normed, f"{name}.qkv")), f"{name}.proj")
            normed = self.norm(state, f"{name}.norm2", vision.norm_eps)
            state = state + self.linear(gelu(self.linear(normed, f"{name}.fc1")), f"{name}.fc2")
        cells = state[1:].reshape(grid // 2, 2, grid // 2, 2, -1).mean((1, 3))
        half = grid // 2
        joined = cells.reshape(half // 2, 2, half // 2, 2, -1).transpose(0, 2, 1, 3, 4).reshape((half // 2) ** 2, -1)
        normed = self.norm(joined, "connector.layer_norm", 1e-5)
        return self.linear(gelu(self.linear(normed, "connector.linear_1")), "connector.linear_2")


def gelu(values: Array) -> Array:
    return np.asarray(torch.nn.functional.gelu(torch.from_numpy(values)).numpy())


@pytest.fixture
def float32_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take no bfloat16, which rounds, on processors that have it."""
    monkeypatch.setattr(openvino_runtime, "attention_type", lambda: "f32")


def test_attention_in_its_own_type_stays_close(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = pictures(4, SIDE)
    own = open_session(bundle, "vision", 1, "openvino").run({"pixels": pixels})
    monkeypatch.setattr(openvino_runtime, "attention_type", lambda: "f32")
    exact = open_session(bundle, "vision", 1, "openvino").run({"pixels": pixels})
    assert min(cosine(one, other) for one, other in zip(own, exact, strict=True)) > 0.999


def test_openvino_gives_the_tokens_of_an_integer_model(
    bundle: Bundle, reference: MagicModel, float32_attention: None
) -> None:
    """A number on the edge of two codes may fall to either side; attention spreads that over its tile, not further."""
    pixels = pictures(4, SIDE)
    found = open_session(bundle, "vision", 1, "openvino").run({"pixels": pixels})
    _, model = graphs(bundle)
    oracle = IntegerVision(constants(bundle, model), reference, SIDE)
    wanted = np.stack([oracle.tile(tile) for tile in pixels])
    cosines = [cosine(one, other) for one, other in zip(found, wanted, strict=True)]
    assert min(cosines) > 0.999
    assert max(cosines) > 1 - 1e-9, "no tile is equal"
    plain = open_session(bundle, "vision", 1, "onnx").run({"pixels": pixels})
    assert max(cosine(one, other) for one, other in zip(plain, wanted, strict=True)) < 1 - 1e-5, (
        "a scale a row is another"
    )


def test_a_tile_gives_the_same_bits_alone_and_beside_others(bundle: Bundle) -> None:
    session = open_session(bundle, "vision", 1, "openvino")
    pixels = pictures(3, SIDE)
    pixels[1] = 255 * (pixels[1] > 250)
    together = session.run({"pixels": pixels})
    for place in range(3):
        assert np.array_equal(session.run({"pixels": pixels[place : place + 1]})[0], together[place])


def test_the_bundle_verifies_on_both_runtimes_and_they_are_close(bundle: Bundle) -> None:
    assert bundle.manifest.alternatives == {"openvino": {"vision": OPENVINO_VISION}}
    assert bundle.verify(1).passes and bundle.verify(1, "openvino").passes
    cases = json.loads(bundle.file("golden/cases.json").read_text())["cases"]
    for case in cases:
        plain, other = (np.array(vector) for vector in (case["vector"], case["alternatives"]["openvino"]))
        assert plain @ other > 0.995
        assert np.array_equal(plain, other) == ("image" not in case), "text does not pass through the vision tower"


def test_verify_compares_a_runtime_with_itself(bundle: Bundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle.path, tmp_path / "copy.magicmm"))
    golden = copy / "golden" / "cases.json"
    cases = json.loads(golden.read_text())["cases"]
    cases[0]["alternatives"]["openvino"] = cases[1]["vector"]
    golden.write_text(json.dumps({"cases": cases}))
    manifest = json.loads((copy / "manifest.json").read_text())
    data = golden.read_bytes()
    manifest["files"]["golden/cases.json"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert Bundle.load(copy).verify(1).passes
    report = Bundle.load(copy).verify(1, "openvino")
    assert [check.passes for check in report.checks] == [False, True, True, True, True]


def test_the_graph_changes_neither_weights_nor_fingerprint(
    tiny: Checkpoint, bundle: Bundle, lowering: OnnxOptions, tmp_path: Path, in_process: None
) -> None:
    plain = export_onnx(tiny, tmp_path / "tiny.magicmm", replace(lowering, openvino=False))
    assert plain.manifest.weights == bundle.manifest.weights
    assert plain.fingerprint == bundle.fingerprint
    assert not plain.manifest.alternatives
    assert "alternatives" not in json.loads(plain.file("golden/cases.json").read_text())["cases"][0]


def test_pieces_and_the_embedder_agree(bundle: Bundle, float32_attention: None) -> None:
    embedder = Embedder.open(bundle, 1, "openvino")
    wanted = embedder.embed_image(sample_scene())
    pixels = embedder.prepare(sample_scene())
    encoder = ObservedEncoder(bundle, {"vision": ["vision.layers.0"]}, 1, runtime="openvino")
    found = encoder.vectors([Item(bundle.manifest.roles["photo"], pixels=pixels)])
    assert found[0] @ wanted > 0.9999999
    (run,) = encoder.runs["vision"]
    assert run.values.keys() == {"visual", "vision.layers.0"}
    assert run.values["vision.layers.0"].shape == ((SIDE // 14) ** 2 + 1, 32)


def test_the_ladder_climbs_it(tiny: Checkpoint, bundle: Bundle) -> None:
    plain, other = (check_bundle(tiny, bundle.path, threads=1, runtime=name) for name in ("onnx", "openvino"))
    assert other.passes and not other.unnamed
    assert [stage.name for stage in other.stages] == [stage.name for stage in plain.stages]
    assert other.stages[1].cosine != plain.stages[1].cosine


def test_inspection_lists_it_and_counts_shared_bytes_once(bundle: Bundle) -> None:
    found = inspect_bundle(bundle.path, load=True)
    assert [(graph.runtime, graph.part) for graph in found.graphs] == [
        ("onnx", "vision"),
        ("onnx", "language"),
        ("openvino", "vision"),
    ]
    assert all(graph.load == "loads" for graph in found.graphs)
    assert sum(found.bytes.values()) == bundle.total_bytes
    assert found.bytes["vision graph for openvino"] == bundle.manifest.files[OPENVINO_VISION].bytes
    assert found.graphs[2].schemes == {"int8": 4 * 2 + 2, "float32": 1}
    assert "vision for openvino" in found.table()


def test_the_clock_takes_it(bundle: Bundle) -> None:
    _, timings = measure(bundle, 1, 1, "openvino")
    assert {"vision", "language photo"} <= {timing.task for timing in timings}


def test_without_ranges_nothing_is_written(tiny: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(MagicError, match="range") as caught:
        export_onnx(tiny, tmp_path / "tiny.magicmm", options(openvino=True))
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID and "--calibrate" in caught.value.remedy
    assert not list(tmp_path.iterdir())


def test_a_vision_tower_in_4_bits_is_refused(tiny: Checkpoint, lowering: OnnxOptions, tmp_path: Path) -> None:
    rules = tuple(replace(rule, pattern=rule.pattern.replace("language", "vision")) for rule in FOUR.rules)
    with pytest.raises(MagicError, match="4 bits") as caught:
        export_onnx(tiny, tmp_path / "tiny.magicmm", replace(lowering, recipe=replace(FOUR, rules=rules)))
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
    assert not list(tmp_path.iterdir())
