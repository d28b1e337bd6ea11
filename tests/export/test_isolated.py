"""The child process that runs a staged bundle: what it says comes back, and so does that it was killed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from exported_bundles import importable_in_children
from magicmm import Bundle, Embedder, ErrorCode, MagicError
from magicmm_export.bundle_writer import GoldenInput
from magicmm_export.isolated import embed_staged, seal_bundle
from magicmm_export.scenes import sample_scene


@pytest.fixture
def staged(int8_bundle: Path, tmp_path: Path) -> Path:
    """A bundle before it is sealed."""
    folder = tmp_path / "staged"
    shutil.copytree(int8_bundle, folder)
    (folder / "manifest.json").unlink()
    shutil.rmtree(folder / "golden")
    return folder


def facts(bundle: Path) -> dict[str, object]:
    data: dict[str, object] = json.loads((bundle / "manifest.json").read_text())
    return {key: value for key, value in data.items() if key not in ("files", "format", "format_version", "golden")}


def test_vectors_are_those_of_the_sealed_bundle(staged: Path, int8_bundle: Path, tmp_path: Path) -> None:
    scene, file = sample_scene(), tmp_path / "photo.npy"
    np.save(file, scene[:, ::-1])
    embedder = Embedder.open(int8_bundle)
    with importable_in_children():
        photos, texts = embed_staged(staged, facts(int8_bundle), [scene, file], ["a dog"])
        empty, none = embed_staged(staged, facts(int8_bundle), [], [])
    assert np.array_equal(photos, embedder.embed_images([scene, scene[:, ::-1].copy()]))
    assert np.array_equal(texts, embedder.embed_text("a dog")[None])
    assert empty.shape == none.shape == (0, embedder.dim)
    assert not (staged / "golden" / "cases.json").read_text().count("vector")


def test_an_error_of_the_child_comes_back_as_it_was(staged: Path, int8_bundle: Path, tmp_path: Path) -> None:
    (staged / "onnx" / "language.onnx").write_bytes(b"\xff\xff\xff")
    with importable_in_children(), pytest.raises(MagicError) as caught:
        seal_bundle(staged, tmp_path / "out.magicmm", facts(int8_bundle), [GoldenInput("a", "a dog")])
    assert caught.value.code is ErrorCode.BUNDLE_INVALID
    assert "language.onnx" in caught.value.message and "ended with" not in caught.value.message
    assert not (tmp_path / "out.magicmm").exists()


@pytest.mark.parametrize("script", ["kill -9 $$", "echo no memory >&2; exit 3", "echo '{}'; exit 1"])
def test_a_killed_child_is_a_clear_error(
    staged: Path, int8_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(MagicError) as caught:
        seal_bundle(staged, tmp_path / "out.magicmm", facts(int8_bundle), [])
    assert caught.value.code is ErrorCode.RUNTIME_FAILED
    assert "memory" in caught.value.remedy + caught.value.message
    assert not (tmp_path / "out.magicmm").exists()


def test_the_child_loads_no_torch(int8_bundle: Path) -> None:
    with importable_in_children():
        code = "import sys, magicmm_export.isolated; print('torch' in sys.modules, 'onnx' in sys.modules)"
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["False", "False"]


def test_sealing_replaces_what_was_there(staged: Path, int8_bundle: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.magicmm"
    target.mkdir()
    (target / "old").write_bytes(b"")
    with importable_in_children():
        bundle = seal_bundle(staged, target, facts(int8_bundle), [GoldenInput("a", "a dog", sample_scene())])
    assert bundle.path == target and not (target / "old").exists() and not staged.exists()
    report = Bundle.load(target).verify()
    assert report.passes and [check.name for check in report.checks] == ["a"]
