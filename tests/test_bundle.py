"""Bundle folders: loading, hashes, and the fingerprint that decides whether vectors belong together."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from magicmm import Bundle, ErrorCode, MagicError
from tools.bundle_cases import FILES, dual, listed
from tools.generate_vectors import VECTORS


def write(folder: Path, manifest: dict[str, Any], files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def error_of(path: Path) -> MagicError:
    with pytest.raises(MagicError) as caught:
        Bundle.load(path)
    assert caught.value.remedy
    return caught.value


def fingerprint(folder: Path, files: dict[str, bytes] | None = None, **changes: Any) -> str:
    files = FILES | (files or {})
    return Bundle.load(write(folder, dual() | {"files": listed(files)} | changes, files)).fingerprint


def test_a_bundle_gives_its_files(dual_path: Path) -> None:
    bundle = Bundle.load(str(dual_path))
    assert bundle.file("image.onnx") == dual_path / "image.onnx"
    assert bundle.total_bytes == sum(entry.bytes for entry in bundle.manifest.files.values())
    with pytest.raises(MagicError, match="not listed"):
        bundle.file("manifest.json")


def test_no_folder_and_no_manifest(tmp_path: Path) -> None:
    assert error_of(tmp_path / "none").code is ErrorCode.BUNDLE_INVALID
    assert "manifest.json" in error_of(tmp_path).message
    (tmp_path / "manifest.json").mkdir()
    assert error_of(tmp_path).code is ErrorCode.BUNDLE_INVALID


def test_a_manifest_that_is_not_utf8_or_far_too_large(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b'{"id": "\xff"}')
    assert "UTF-8" in error_of(tmp_path).message
    (tmp_path / "manifest.json").write_bytes(b" " * (5 << 20))
    assert "larger" in error_of(tmp_path).message


def test_every_wrong_hash_is_named(dual_path: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(dual_path, tmp_path / "copy"))
    for name in ("image.onnx", "tokenizer.json"):
        data = bytearray((copy / name).read_bytes())
        data[-1] ^= 1
        (copy / name).write_bytes(data)
    bundle = Bundle.load(copy)
    with pytest.raises(MagicError, match=r"image\.onnx, tokenizer\.json") as caught:
        bundle.check_hashes()
    assert caught.value.code is ErrorCode.BUNDLE_INVALID


def test_a_file_that_vanishes_after_loading_is_named(dual_path: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(dual_path, tmp_path / "copy"))
    bundle = Bundle.load(copy)
    (copy / "text.onnx").unlink()
    with pytest.raises(MagicError, match=r"text\.onnx"):
        bundle.check_hashes()


def test_links_may_not_leave_the_bundle(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(FILES["text.onnx"])
    inside = {name: data for name, data in FILES.items() if name != "text.onnx"}
    folder = write(tmp_path / "case", dual(), inside)
    for target in (secret, Path("../secret")):
        (folder / "text.onnx").symlink_to(target)
        assert "leaves the bundle" in error_of(folder).message
        (folder / "text.onnx").unlink()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/cases.json").write_bytes(FILES["golden/cases.json"])
    (folder / "text.onnx").write_bytes(FILES["text.onnx"])
    shutil.rmtree(folder / "golden")
    (folder / "golden").symlink_to(tmp_path / "elsewhere")
    assert "leaves the bundle" in error_of(folder).message


def test_a_bundle_reached_through_a_link_is_sound(dual_path: Path, tmp_path: Path) -> None:
    (tmp_path / "link.magicmm").symlink_to(dual_path)
    assert Bundle.load(tmp_path / "link.magicmm").manifest.id == "tiny-dual"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(dual_path: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(dual_path, tmp_path / "copy"))
    (copy / "text.onnx").chmod(0)
    with pytest.raises(MagicError) as caught:
        Bundle.load(copy).check_hashes()
    assert caught.value.code is ErrorCode.BUNDLE_INVALID


def test_the_fingerprint_is_the_hash_that_the_format_describes(tmp_path: Path) -> None:
    canonical = (
        '{"architecture":"dual_encoder","composed":{"text_weight":1.0},"dim":8,'
        '"image":{"resample":"bicubic","side":16,"views":["crop","squash"]},"quantisation":{"all":"float32"},'
        '"roles":{"photo":{"head":[],"image_after":[],"image_before":[],"max_tiles":1,"prefix":null,"tail":[],'
        '"text":"{text}"},"query":{"head":[2],"image_after":[],"image_before":[],"max_tiles":1,"prefix":null,'
        '"tail":[3],"text":"{text}"}},"text":{"max_tokens":32,"pad_id":0,"tokenizer":"tokenizer.json"},'
        '"tokenizer":"' + hashlib.sha256(b"{}").hexdigest() + '","tokens":null,"weights":"' + "0" * 64 + '"}'
    )
    assert fingerprint(tmp_path) == hashlib.sha256(canonical.encode()).hexdigest()


def test_the_fingerprint_follows_what_vectors_depend_on(tmp_path: Path) -> None:
    base = fingerprint(tmp_path / "base")
    changes: dict[str, dict[str, Any]] = {
        "weights": {"weights": "1" * 64},
        "quantisation": {"quantisation": {"all": "int8"}},
        "dim": {"dim": 16},
        "image": {"image": {"side": 16, "views": ["crop"], "resample": "bicubic"}},
        "text": {"text": {"tokenizer": "tokenizer.json", "max_tokens": 31, "pad_id": 0}},
        "composed": {"composed": {"text_weight": 0.5}},
        "tokenizer": {"files": {"tokenizer.json": b"{ }"}},
    }
    found = {name: fingerprint(tmp_path / name, **change) for name, change in changes.items() if name != "tokenizer"}
    found["tokenizer"] = fingerprint(tmp_path / "tokenizer", files={"tokenizer.json": b"{ }"})
    assert len({base, *found.values()}) == 1 + len(changes)


def test_the_fingerprint_does_not_follow_names_licences_graph_files_or_key_order(tmp_path: Path) -> None:
    base = fingerprint(tmp_path / "base")
    assert fingerprint(tmp_path / "id", id="renamed", licence="MIT", title="x") == base
    assert fingerprint(tmp_path / "graph", files={"image.onnx": b"the same weights, lowered again"}) == base
    reordered = dict(reversed(list(dual().items())))
    assert Bundle.load(write(tmp_path / "order", reordered, FILES)).fingerprint == base


@pytest.mark.parametrize(
    "case", json.loads((VECTORS / "bundle.json").read_text(encoding="utf-8"))["cases"], ids=lambda case: case["name"]
)
def test_contract_case(case: dict[str, Any], tmp_path: Path) -> None:
    from tools.bundle_cases import outcome

    assert outcome(case["input"], tmp_path) == {
        key: case[key] for key in ("expect", "error", "tolerance") if key in case
    }


def test_the_built_in_bundle_is_sound() -> None:
    bundle = Bundle.default()
    bundle.check_hashes()
    assert bundle.manifest.id == "nano"
