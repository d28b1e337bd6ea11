"""Made-up vectors, indexes and photos to measure with; what is expensive is kept in build/bench."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from magicmm.index import Index
from magicmm.quantise import quantise
from magicmm.records import Model, PhotoFacts, Stamp
from magicmm.scan import write_scan_file
from magicmm.sources import path_uri

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

CHUNK = 50_000
PHOTOS_A_FOLDER = 500
_ROWS_A_TRANSACTION = 10_000


def unit_rows(rng: np.random.Generator, rows: int, dim: int) -> Floats:
    """Return random unit vectors."""
    return _unit(rng.standard_normal((rows, dim), dtype=np.float32))


def clustered_rows(rng: np.random.Generator, centres: Floats, rows: int, spread: float) -> Floats:
    """Return unit vectors around some of `centres`; `spread` is the length of the random part."""
    rows_at = centres[rng.integers(len(centres), size=rows)]
    noise = rng.standard_normal(rows_at.shape, dtype=np.float32)
    return _unit(rows_at + np.float32(spread / centres.shape[1] ** 0.5) * noise)


def vector_chunks(rows: int, dim: int) -> Iterator[Floats]:
    """Yield `rows` random unit vectors, the same ones every time."""
    rng = np.random.default_rng(1)
    for start in range(0, rows, CHUNK):
        yield unit_rows(rng, min(CHUNK, rows - start), dim)


def many_files(folder: Path, count: int) -> list[Path]:
    """Return `count` tiny photos in folders of 500; they are made unless they are there."""
    places = [folder / f"{number // PHOTOS_A_FOLDER:03}" for number in range(count)]
    paths = [place / f"IMG_{number:06}.jpg" for number, place in enumerate(places)]
    done = folder / ".complete"
    if not done.exists():
        from PIL import Image

        stream = io.BytesIO()
        Image.new("RGB", (8, 8)).save(stream, "JPEG")
        for place in sorted(set(places)):
            place.mkdir(parents=True, exist_ok=True)
        for number, path in enumerate(paths):
            path.write_bytes(stream.getvalue() + number.to_bytes(4, "big"))
        done.touch()
    return paths


def filled_index(path: Path, paths: list[Path], source: Path, fingerprint: str, dim: int) -> Path:
    """Return an index that holds a random vector for each of `paths`, with its scan file; made unless it is there."""
    if path.exists():
        return path
    draft = path.with_name("draft-" + path.name)
    for leftover in path.parent.glob(draft.name + "*"):
        leftover.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(Index(draft, create=True)) as index:
        with index.transaction():
            index.add_source(path_uri(source) + "/")
            model = index.add_model(fingerprint, "synthetic", dim, is_active=True)
        rest = iter(paths)
        for vectors in vector_chunks(len(paths), dim):
            codes, scales = quantise(vectors)
            for start in range(0, len(vectors), _ROWS_A_TRANSACTION):
                rows = slice(start, start + _ROWS_A_TRANSACTION)
                _put_rows(index, model, rest, codes[rows], scales[rows])
        write_scan_file(index, model)
    draft.with_name(draft.name + ".scan").replace(path.with_name(path.name + ".scan"))
    draft.replace(path)  # last: it says that the rest is there
    return path


def _put_rows(index: Index, model: Model, paths: Iterator[Path], codes: Any, scales: Any) -> None:
    with index.transaction():
        for row, scale in zip(codes, scales, strict=True):
            path = next(paths)
            found = path.stat()
            digest = path.name.encode().ljust(16, b"\0")
            facts = PhotoFacts(
                path_uri(path), Stamp(found.st_size, found.st_mtime_ns), digest, 1.5e9, None, None, 4000, 3000
            )
            index.put_vector(index.put_photo(facts, None), model, row, float(scale))
        index.bump_generation()


def jpeg_library(folder: Path, count: int, size: tuple[int, int], quality: int = 90) -> list[Path]:
    """Return `count` JPEG photos with the detail of camera pictures; they are made unless they are there."""
    paths = [folder / f"{number:04}.jpg" for number in range(count)]
    missing = [(number, path) for number, path in enumerate(paths) if not path.exists()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        texture = _texture(size)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda item: _save_photo(item[1], texture, size, item[0], quality), missing))
    return paths


def spread_over_folders(paths: list[Path], folder: Path, share: int) -> list[Path]:
    """Link photos into folders of `share` each, anew, and return the folders."""
    shutil.rmtree(folder, ignore_errors=True)
    folders = []
    for start in range(0, len(paths) - share + 1, share):
        part = folder / f"{start // share:03}"
        part.mkdir(parents=True)
        for path in paths[start : start + share]:
            (part / path.name).hardlink_to(path)
        folders.append(part)
    return folders


def _texture(size: tuple[int, int]) -> NDArray[np.float32]:
    """Return noise of many scales, larger than a photo: coarse shapes, edges, fine detail, sensor grain."""
    from PIL import Image

    rng = np.random.default_rng(2)
    width, height = size[0] * 3 // 2, size[1] * 3 // 2
    layers = np.zeros((height, width, 3), np.float32)
    for cell, strength in ((512, 60), (128, 30), (32, 18), (8, 10), (3, 6)):
        small = rng.uniform(0, 255, (height // cell + 2, width // cell + 2, 3)).astype(np.uint8)
        grown = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        layers += (np.asarray(grown, np.float32) - 127) * np.float32(strength / 74)
    layers += rng.standard_normal((height, width, 1), dtype=np.float32) * 4
    return layers


def _save_photo(path: Path, texture: Any, size: tuple[int, int], seed: int, quality: int) -> None:
    """Cut a part out of the texture, shift its colours, and save it with the EXIF block of a camera."""
    from PIL import ExifTags, Image

    rng = np.random.default_rng(seed)
    width, height = size
    top, left = (int(rng.integers(0, room + 1)) for room in (texture.shape[0] - height, texture.shape[1] - width))
    part = texture[top : top + height, left : left + width] * np.float32(rng.uniform(0.7, 1.1))
    shade = np.clip(part + rng.uniform(60, 190, 3).astype(np.float32), 0, 255).astype(np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Camera"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = f"2024:05:{1 + seed % 28:02} 12:00:00"
    aside = path.with_suffix(".new")
    Image.fromarray(shade).save(aside, "JPEG", quality=quality, exif=exif)
    aside.replace(path)


def _unit(rows: Floats) -> Floats:
    found: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found
