"""`manifest.json`: what is read, and errors that name the key. tests/vectors/bundle.json holds the broken ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from magicmm.errors import ErrorCode, MagicError
from magicmm.manifest import FORMAT_VERSION, parse_manifest, token_table_bytes
from tools.bundle_cases import composing, dual, vision_language


def error_of(manifest: dict[str, Any] | str) -> MagicError:
    with pytest.raises(MagicError) as caught:
        parse_manifest(manifest if isinstance(manifest, str) else json.dumps(manifest))
    return caught.value


def test_a_dual_encoder_is_read_whole() -> None:
    manifest = parse_manifest(json.dumps(dual()))
    assert (manifest.id, manifest.architecture, manifest.dim) == ("small", "dual_encoder", 8)
    assert (manifest.image.side, manifest.image.views) == (16, ("crop", "squash"))
    assert (manifest.text.tokenizer, manifest.text.max_tokens, manifest.text.pad_id) == ("tokenizer.json", 32, 0)
    assert manifest.roles["query"].head == (2,)
    assert manifest.roles["query"].tail == (3,)
    assert manifest.composed_text_weight == 1.0
    assert manifest.tokens is None
    assert manifest.graphs == {"onnx": {"image": "image.onnx", "text": "text.onnx"}}
    assert manifest.files["image.onnx"].bytes == 11


def test_a_vision_language_bundle_is_read_whole() -> None:
    manifest = parse_manifest(json.dumps(vision_language()))
    assert manifest.tokens is not None
    assert (manifest.tokens.file, manifest.tokens.rows, manifest.tokens.dim) == ("tokens.bin", 3, 8)
    assert manifest.composed_text_weight is None
    assert manifest.roles["query"].prefix == "prefix/query.safetensors"
    assert manifest.roles["photo"].prefix is None


def test_a_composed_graph_needs_its_role_and_may_have_a_weight_of_the_text() -> None:
    manifest = parse_manifest(json.dumps(composing()))
    assert manifest.composed_text_weight is None
    assert manifest.graphs["onnx"]["composed"] == "composed.onnx"
    assert manifest.roles["composed"].image_after == (3,)
    assert parse_manifest(json.dumps(composing() | {"composed": {"text_weight": 0.5}})).composed_text_weight == 0.5
    without = composing()
    del without["roles"]["composed"]
    assert "roles lacks composed" in error_of(without).message
    uneven = composing()
    uneven["graphs"]["executorch"] = {"image": "image.onnx", "text": "text.onnx"}
    assert "graphs.executorch" in error_of(uneven).message


def test_packed_weights_belong_to_a_graph() -> None:
    assert parse_manifest(json.dumps(dual())).packed == {}
    packed = {"onnx": {"image": "text.onnx"}}
    assert parse_manifest(json.dumps(dual() | {"packed": packed})).packed == packed
    for name, wrong in {"onnx": {"vision": "text.onnx"}, "coreml": {"image": "text.onnx"}}.items():
        assert f"packed.{name}" in error_of(dual() | {"packed": {name: wrong}}).message
    assert "'image.q4'" in error_of(dual() | {"packed": {"onnx": {"image": "image.q4"}}}).message


def test_alternatives_are_of_parts_that_there_are() -> None:
    assert parse_manifest(json.dumps(dual())).alternatives == {}
    given = {"openvino": {"image": "text.onnx"}}
    assert parse_manifest(json.dumps(dual() | {"alternatives": given})).alternatives == given
    message = error_of(dual() | {"alternatives": {"openvino": {"vision": "text.onnx"}}}).message
    assert "alternatives.openvino" in message and "vision" in message
    assert "'other.onnx'" in error_of(dual() | {"alternatives": {"openvino": {"image": "other.onnx"}}}).message


def test_raw_keeps_what_the_sdk_does_not_use() -> None:
    assert parse_manifest(json.dumps(dual() | {"quality": {"recall": 0.5}})).raw["quality"] == {"recall": 0.5}


def test_a_whole_number_serves_as_weight() -> None:
    weight = parse_manifest(json.dumps(dual() | {"composed": {"text_weight": 2}})).composed_text_weight
    assert weight == 2.0
    assert isinstance(weight, float)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("dim", "8", "manifest.dim"),
        ("image.side", 0, "manifest.image.side"),
        ("image.views", [1], "manifest.image.views[0]"),
        ("text.max_tokens", None, "manifest.text.max_tokens"),
        ("roles.query.head", [2, "x"], "manifest.roles.query.head[1]"),
        ("roles.photo.max_tiles", 99, "manifest.roles.photo.max_tiles"),
        ("graphs.onnx", [], "manifest.graphs.onnx"),
        ("composed.text_weight", None, "manifest.composed.text_weight"),
    ],
)
def test_errors_name_the_key_and_a_remedy(path: str, value: object, named: str) -> None:
    manifest = dual()
    *outer, last = path.split(".")
    inner = manifest
    for part in outer:
        inner = inner[part]
    inner[last] = value
    error = error_of(manifest)
    assert error.code is ErrorCode.BUNDLE_INVALID
    assert named in error.message
    assert error.remedy


def test_a_newer_format_is_told_apart_from_a_broken_one_before_anything_else_is_read() -> None:
    newer = {"format": "magicmm-bundle", "format_version": FORMAT_VERSION + 1, "dim": "changed its meaning"}
    error = error_of(newer)
    assert error.code is ErrorCode.BUNDLE_TOO_NEW
    assert "pip install -U" in error.remedy


@pytest.mark.parametrize("name", ["../x", "/x", "a/../x", "a\\x", "C:x", "", ".", "a//x", "./x", "x\n", "\ud800", ".x"])
def test_names_that_could_leave_the_folder_are_refused_as_such(name: str) -> None:
    manifest = dual()
    manifest["files"][name] = {"bytes": 0, "sha256": "0" * 64}
    assert "not a plain path" in error_of(manifest).message


@pytest.mark.parametrize(
    "name", ["a", "a/b/c.onnx", "model.onnx_data", "Data/com.apple.CoreML/weights/weight.bin", "a-b+c"]
)
def test_plain_names_are_accepted(name: str) -> None:
    manifest = dual()
    manifest["files"][name] = {"bytes": 0, "sha256": "0" * 64}
    assert name in parse_manifest(json.dumps(manifest)).files


def test_json_that_readers_understand_differently_is_refused() -> None:
    sound = json.dumps(dual())
    assert "twice" in error_of(sound.replace('"dim": 8', '"dim": 8, "dim": 9')).message
    assert "NaN" in error_of(sound[:-1] + ', "note": NaN}').message


def test_deep_nesting_is_an_error_and_no_crash() -> None:
    deep = '{"format": ' + "[" * 200_000 + "]" * 200_000 + "}"
    assert error_of(deep).code is ErrorCode.BUNDLE_INVALID


def test_numbers_of_many_digits_are_an_error_and_no_crash() -> None:
    assert error_of('{"format": ' + "9" * 10_000 + "}").code is ErrorCode.BUNDLE_INVALID


def test_the_token_table_is_padded_to_64_bytes() -> None:
    assert token_table_bytes(1, 64) == 64 + 4
    assert token_table_bytes(1, 65) == 128 + 4
    assert token_table_bytes(3, 8) == 64 + 12
    assert token_table_bytes(151_936, 1536) == 151_936 * 1536 + 4 * 151_936


CONFIDENCE = {
    "quantile": 0.7,
    "intercept": -1,
    "excess": 12.5,
    "log_photos": -0.7,
    "least_photos": 50,
    "threshold": 0.1,
}


def test_a_calibration_is_read_or_absent() -> None:
    assert parse_manifest(json.dumps(dual())).confidence is None
    found = parse_manifest(json.dumps(dual() | {"confidence": CONFIDENCE})).confidence
    assert found is not None
    assert (found.quantile, found.intercept, found.excess) == (0.7, -1.0, 12.5)
    assert (found.log_photos, found.least_photos, found.threshold) == (-0.7, 50, 0.1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("quantile", 1.5),
        ("quantile", "0.7"),
        ("intercept", None),
        ("intercept", True),
        ("excess", -1),
        ("log_photos", 1e10),
        ("least_photos", 1),
        ("least_photos", 50.0),
        ("threshold", -0.1),
    ],
)
def test_a_broken_calibration_names_its_key(key: str, value: object) -> None:
    error = error_of(dual() | {"confidence": CONFIDENCE | {key: value}})
    assert error.code is ErrorCode.BUNDLE_INVALID
    assert f"manifest.confidence.{key}" in error.message


@pytest.mark.parametrize("section", [None, [], "yes", {}])
def test_a_calibration_is_whole(section: object) -> None:
    assert "manifest.confidence" in error_of(dual() | {"confidence": section}).message
