"""`doctor` names what is wrong and what to do; it changes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from magicmm import Gallery
from magicmm.doctor import Finding, examine, set_aside_if_damaged
from magicmm.scan import scan_path
from tiny_bundles import COLOURS, dual_bundle


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (20, 20), colour).save(photos / f"{name}.png")
    bundle = dual_bundle(tmp_path / "tiny.magicmm")
    with Gallery.open(tmp_path / "index.db", bundle, [photos]) as gallery:
        list(gallery.sync())
    yield tmp_path


def findings(place: Path, bundle: str = "tiny.magicmm") -> dict[str, Finding]:
    return {finding.subject: finding for finding in examine(place / "index.db", place / bundle)}


def test_a_sound_installation_has_no_failures(place: Path) -> None:
    found = findings(place)
    assert {found[subject].state for subject in ("model", "index", "scan")} == {"ok"}
    assert "6 photos" in found["index"].message


def test_no_index_yet(tmp_path: Path) -> None:
    dual_bundle(tmp_path / "tiny.magicmm")
    assert findings(tmp_path)["index"].remedy == "magicmm index DIR"


def test_an_altered_bundle_fails(place: Path) -> None:
    graph = place / "tiny.magicmm" / "text.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    found = findings(place)
    assert found["model"].state == "fail"
    assert "text.onnx" in found["model"].message


def test_another_model_fails_with_the_remedy(place: Path) -> None:
    dual_bundle(place / "other.magicmm", "other", seed=1)
    found = findings(place, "other.magicmm")
    assert found["match"].state == "fail"
    assert "rebuild" in found["match"].remedy


def test_a_damaged_scan_file_fails_and_a_missing_one_only_warns(place: Path) -> None:
    path = scan_path(place / "index.db")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert findings(place)["scan"].state == "fail"
    path.unlink()
    assert findings(place)["scan"].state == "warn"


def test_a_missing_folder_warns_and_names_it(place: Path) -> None:
    shutil.move(place / "photos", place / "unmounted")
    found = findings(place)["folder"]
    assert found.state == "warn"
    assert str(place / "photos") in found.message


def test_skipped_photos_are_counted(place: Path) -> None:
    (place / "photos" / "bad.jpg").write_bytes(b"no photo")
    with Gallery.open(place / "index.db", place / "tiny.magicmm") as gallery:
        list(gallery.sync())
    assert "1 not_an_image" in findings(place)["photos"].message


def test_a_sound_index_is_not_set_aside(place: Path) -> None:
    assert set_aside_if_damaged(place / "index.db") == (None, [])
    assert set_aside_if_damaged(place / "none.db") == (None, [])
    assert (place / "index.db").exists()


def test_a_damaged_index_is_kept_under_another_name(place: Path) -> None:
    (place / "index.db").write_bytes(b"SQLite format 3\0" + bytes(5000))
    aside, sources = set_aside_if_damaged(place / "index.db")
    assert aside is not None
    assert aside.read_bytes()[:15] == b"SQLite format 3"
    assert sources == []
    assert not (place / "index.db").exists()
    assert not scan_path(place / "index.db").exists()
