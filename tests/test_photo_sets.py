"""Sets of photos that models are judged on: what their files say, and how photos are taken out of packages."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import pytest

import photo_sets
from photo_sets import QUERIES, locate
from qt_resources import ResourceFile

RESERVED = {"gcompris-qt-data", "scratch", "kphotoalbum"}


@pytest.mark.parametrize(("name", "least"), [("held_out", 100), ("development", 50)])
def test_queries_name_photos_of_their_set(name: str, least: int) -> None:
    content = json.loads((QUERIES / f"{name}.json").read_text(encoding="utf-8"))
    photos, queries = content["photos"], content["queries"]
    assert len(queries) >= least
    assert len({query["text"] for query in queries}) == len(queries)
    assert len(set(photos.values())) == len(photos)
    for query in queries:
        assert query["photos"] and set(query["photos"]) <= photos.keys(), query
        assert len(set(query["photos"])) == len(query["photos"])
    packages = {address.partition(":")[0] for address in photos.values()}
    assert packages == RESERVED if name == "held_out" else not packages & RESERVED


def resource_file(files: dict[str, tuple[bytes, int]]) -> bytes:
    """Write a resource file of format 1, all files in one directory; content and flags by name."""
    names, data, nodes = b"", b"", []
    places = {}
    for name in ("photos", *files):
        places[name] = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    for name, (content, flags) in files.items():
        nodes.append(struct.pack(">IHHHI", places[name], flags, 0, 0, len(data)))
        packed = struct.pack(">I", len(content)) + zlib.compress(content) if flags & 1 else content
        data += struct.pack(">I", len(packed)) + packed
    root = struct.pack(">IHII", 0, 2, 1, 1)
    folder = struct.pack(">IHII", places["photos"], 2, len(files), 2)
    tree = root + folder + b"".join(nodes)
    return b"qres" + struct.pack(">IIII", 1, 20, 20 + len(tree), 20 + len(tree) + len(data)) + tree + data + names


def test_files_come_out_of_resource_files_plain_and_compressed(tmp_path: Path) -> None:
    path = tmp_path / "some.rcc"
    path.write_bytes(resource_file({"ä.webp": (b"plain", 0), "b.png": (b"packed" * 50, 1), "c.png": (b"?", 4)}))
    assert dict(ResourceFile(path).files()) == {"/photos/ä.webp": b"plain", "/photos/b.png": b"packed" * 50}


def test_other_files_are_no_resource_files(tmp_path: Path) -> None:
    (tmp_path / "a.rcc").write_bytes(b"PK")
    with pytest.raises(ValueError, match="resource file"):
        ResourceFile(tmp_path / "a.rcc")


def test_photos_are_found_in_unpacked_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_sets, "FETCHED", tmp_path)
    package = tmp_path / "scratch"
    package.mkdir()
    (package / "beach.gif").write_bytes(b"beach")
    (package / "all.rcc").write_bytes(resource_file({"fish.webp": (b"fish", 0), "bird.webp": (b"bird", 1)}))
    photos = {"beach": "scratch:beach.gif", "fish": "scratch:all.rcc!/photos/fish.webp"}
    for _ in range(2):  # the second time nothing is read again
        found = locate(photos)
        assert {name: path.read_bytes() for name, path in found.items()} == {"beach": b"beach", "fish": b"fish"}
        (package / "all.rcc").write_bytes(b"")
    with pytest.raises(ValueError, match="lack"):
        locate({"dog": "scratch:dog.gif"})
