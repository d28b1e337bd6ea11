"""`Bundle.verify`: a sound bundle passes, and each kind of drift is seen for what it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from magicmm import Bundle, ErrorCode, MagicError
from magicmm.verify import LEAST_COSINE, GoldenCheck, VerifyReport
from test_encoders import changed
from tiny_bundles import image_graph, language_graph, tokenizer_json


def with_cases(path: Path, to: Path, edit: Callable[[list[Any]], object]) -> Bundle:
    """Copy a bundle with other golden cases."""
    content = json.loads((path / "golden/cases.json").read_text(encoding="utf-8"))
    replaced = edit(content["cases"])
    data = json.dumps(content if replaced is None else replaced).encode()
    return changed(path, to, files={"golden/cases.json": data})


def test_a_sound_bundle_passes(bundle_path: Path) -> None:
    bundle = Bundle.load(bundle_path)
    report = bundle.verify(threads=1)
    assert report.passes
    assert [check.name for check in report.checks] == ["text", "photo", "composed"]
    assert report.least_cosine > 0.99999
    assert report.fingerprint == bundle.fingerprint
    assert (report.files, report.bytes) == (len(bundle.manifest.files), bundle.total_bytes)


def test_golden_cases_hold_inputs_and_vectors(bundle_path: Path) -> None:
    cases = json.loads((bundle_path / "golden/cases.json").read_text(encoding="utf-8"))["cases"]
    assert [sorted(case) for case in cases] == [
        ["ids", "name", "text", "vector"],
        ["height", "image", "name", "pixels_sha256", "vector", "width"],
        ["height", "ids", "image", "name", "pixels_sha256", "text", "vector", "width"],
    ]
    assert all(np.linalg.norm(case["vector"]) == pytest.approx(1, abs=1e-5) for case in cases)


def test_a_wrong_hash_is_an_error_and_no_report(dual_path: Path, tmp_path: Path) -> None:
    bundle = changed(dual_path, tmp_path / "copy")
    data = bytearray((bundle.path / "golden/photo.rgb").read_bytes())
    data[0] ^= 1
    (bundle.path / "golden/photo.rgb").write_bytes(data)
    with pytest.raises(MagicError, match=r"golden/photo\.rgb") as caught:
        bundle.verify()
    assert caught.value.code is ErrorCode.BUNDLE_INVALID


def test_other_weights_drift(dual_path: Path, vlm_path: Path, tmp_path: Path) -> None:
    import onnx

    for path, name, data, weight in (
        (dual_path, "image.onnx", image_graph(2), "lift"),
        (vlm_path, "language.onnx", language_graph(), "one"),
    ):
        graph = onnx.load_from_string(data)
        for tensor in graph.graph.initializer:
            if tensor.name == weight:
                values = onnx.numpy_helper.to_array(tensor)
                other = values[::-1] * 3 if values.ndim else values * np.float32(-100)
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(other), weight))
        bundle = changed(path, tmp_path / name, files={name: graph.SerializeToString()})
        report = bundle.verify()
        assert not report.passes
        assert report.least_cosine < LEAST_COSINE
        assert all(check.inputs_equal for check in report.checks)


def test_another_tokenizer_is_seen_in_the_ids(dual_path: Path, tmp_path: Path) -> None:
    other = tokenizer_json().replace('"red": 4', '"red": 5').replace('"green": 5', '"green": 4')
    report = changed(dual_path, tmp_path / "copy", files={"tokenizer.json": other.encode()}).verify()
    assert [check.inputs_equal for check in report.checks] == [False, True, True]
    assert not report.passes


def test_another_resize_is_seen_in_the_pixels(dual_path: Path, tmp_path: Path) -> None:
    bundle = with_cases(dual_path, tmp_path / "copy", lambda cases: cases[1].update(pixels_sha256="0" * 64))
    report = bundle.verify()
    assert [check.inputs_equal for check in report.checks] == [True, False, True]
    assert not report.passes
    assert report.least_cosine > 0.9999


@pytest.mark.parametrize(
    "edit",
    [
        lambda cases: [],
        lambda cases: 7,
        lambda cases: {"cases": [1]},
        lambda cases: {"cases": ["x"]},
        lambda cases: {"other": []},
        lambda cases: cases[0].pop("vector") and None,
        lambda cases: cases[0].update(vector=[1.0]),
        lambda cases: cases[0].update(vector="x"),
        lambda cases: cases[0].update(vector=[None] * 8),
        lambda cases: cases[0].update(vector=[0.0] * 8),
        lambda cases: cases[0].pop("ids") and None,
        lambda cases: cases[1].update(height=10**9),
        lambda cases: cases[1].update(width="wide"),
        lambda cases: cases[1].update(image="../../secret"),
        lambda cases: cases[1].update(image="manifest.json"),
    ],
)
def test_broken_golden_cases_are_an_invalid_bundle(edit: Callable[[Any], Any], dual_path: Path, tmp_path: Path) -> None:
    with pytest.raises(MagicError) as caught:
        with_cases(dual_path, tmp_path / "copy", edit).verify()
    assert caught.value.code is ErrorCode.BUNDLE_INVALID


def test_a_case_passes_only_with_equal_inputs_and_a_close_vector() -> None:
    assert GoldenCheck("a", True, LEAST_COSINE).passes
    assert not GoldenCheck("a", True, LEAST_COSINE - 1e-6).passes
    assert not GoldenCheck("a", False, 1.0).passes
    assert not GoldenCheck("a", True, float("nan")).passes


def test_a_report_is_as_good_as_its_worst_case() -> None:
    report = VerifyReport("f", 1, 1, (GoldenCheck("a", True, 1.0), GoldenCheck("b", True, 0.5)))
    assert not report.passes
    assert report.least_cosine == 0.5
