"""`write_bundle`: what it writes verifies; what does not verify replaces nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from magicmm import Bundle, Embedder, MagicError
from magicmm_export.bundle_writer import GoldenInput, weights_identity, write_bundle
from tiny_bundles import dual_bundle

GOLDEN = [
    GoldenInput("words", text="red"),
    GoldenInput("picture", rgb=np.full((9, 7, 3), 200, np.uint8)),
    GoldenInput("both", text="blue", rgb=np.full((7, 9, 3), 50, np.uint8)),
]


def stage(folder: Path) -> tuple[Path, dict]:
    """Take a tiny bundle apart: its files without manifest and golden cases, and its facts."""
    dual_bundle(folder)
    facts = json.loads((folder / "manifest.json").read_text("utf-8"))
    (folder / "manifest.json").unlink()
    shutil.rmtree(folder / "golden")
    return folder, {key: value for key, value in facts.items() if key not in ("files", "golden")}


def test_the_written_bundle_lists_every_file_and_verifies(tmp_path: Path) -> None:
    staged, facts = stage(tmp_path / "staged")
    bundle = write_bundle(staged, tmp_path / "out.magicmm", facts, GOLDEN)
    assert not staged.exists()
    on_disk = {p.relative_to(bundle.path).as_posix() for p in bundle.path.rglob("*") if p.is_file()}
    assert on_disk == {*bundle.manifest.files, "manifest.json"}
    report = Bundle.load(tmp_path / "out.magicmm").verify()
    assert [check.name for check in report.checks] == ["words", "picture", "both"]
    assert report.passes


def test_golden_vectors_are_those_of_the_embedder(tmp_path: Path) -> None:
    staged, facts = stage(tmp_path / "staged")
    bundle = write_bundle(staged, tmp_path / "out.magicmm", facts, GOLDEN)
    cases = json.loads(bundle.file("golden/cases.json").read_text("utf-8"))["cases"]
    expected = Embedder.open(bundle).embed_query("blue", GOLDEN[2].rgb)
    assert np.allclose(cases[2]["vector"], expected, atol=1e-6)


def test_a_bundle_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = dual_bundle(tmp_path / "out.magicmm", "old", seed=1)
    (target / "extra").write_text("of the old one")
    staged, facts = stage(tmp_path / "staged")
    assert write_bundle(staged, target, facts, GOLDEN).manifest.id == "tiny-dual"
    assert not (target / "extra").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out.magicmm"]


def test_a_failure_leaves_the_target_alone(tmp_path: Path) -> None:
    target = dual_bundle(tmp_path / "out.magicmm", "old", seed=1)
    staged, facts = stage(tmp_path / "staged")
    with pytest.raises(MagicError):
        write_bundle(staged, target, facts | {"dim": 9}, GOLDEN)
    assert Bundle.load(target).manifest.id == "old"


def test_the_identity_of_weights_depends_on_content_and_order(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    assert weights_identity([one, two]) != weights_identity([two, one])
    assert len(weights_identity([one])) == 64
