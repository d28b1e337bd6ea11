"""Photos, counting models, a source in memory and an independent search, shared by the tests of the gallery."""

from __future__ import annotations

import atexit
import hashlib
import io
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from magicmm.bundle import Bundle
from magicmm.embedder import Embedder
from magicmm.errors import ErrorCode, MagicError, PhotoSkipped, SkipReason
from magicmm.gallery import Gallery
from magicmm.quantise import quantise
from magicmm.records import Stamp
from magicmm.results import Progress, Results
from magicmm.sources import Changes, PhotoFile, PhotoRef
from magicmm.sync import Budget
from tiny_bundles import COLOURS, dual_bundle


@cache
def bundle(seed: int = 0) -> Bundle:
    """Return a tiny model; another seed is another model."""
    folder = Path(tempfile.mkdtemp(prefix="magicmm-bundle-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Bundle.load(dual_bundle(folder / "tiny.magicmm", f"tiny-{seed}", seed))


@dataclass(frozen=True)
class CountingEmbedder(Embedder):
    """A model that counts the photos it has seen, and that refuses some on demand."""

    batches: list[int] = field(default_factory=list)
    refusals: list[Callable[[Any], bool]] = field(default_factory=list)
    before: list[Callable[[], object]] = field(default_factory=list)

    def embed_pixels(self, pixels: Any, role: str = "photo") -> Any:
        """Count, refuse or embed."""
        for hook in self.before:
            hook()
        if any(refuses(one) for refuses in self.refusals for one in pixels):
            raise MagicError(ErrorCode.RUNTIME_FAILED, "The model cannot take this photo.", "Verify the bundle.")
        if pixels:
            self.batches.append(len(pixels))
        return super().embed_pixels(pixels, role)

    @property
    def count(self) -> int:
        """How many photos were embedded."""
        return sum(self.batches)


def counting(seed: int = 0) -> CountingEmbedder:
    """Return a fresh model."""
    return CountingEmbedder.open(bundle(seed), threads=1)  # type: ignore[return-value]


def is_nearly(colour: str) -> Callable[[Any], bool]:
    """Return a test for photos of one colour."""
    return lambda pixels: bool(np.abs(pixels.mean(axis=(0, 1, 2)) - COLOURS[colour]).max() < 20)


def photo_bytes(seed: int, colour: str | None = None, format_name: str = "PNG", side: int = 20) -> bytes:
    """Return a small photo: noise, or a colour with a little noise that makes its bytes unique."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    if colour is not None:
        pixels = np.clip(np.array(COLOURS[colour]) + rng.integers(-9, 9, pixels.shape), 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format_name)
    return out.getvalue()


def make_photo(path: Path, seed: int, colour: str | None = None) -> Path:
    """Write a small photo, folders included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(photo_bytes(seed, colour))
    return path


def make_photos(folder: Path, count: int, first: int = 0) -> list[Path]:
    """Write photos of noise."""
    return [make_photo(folder / f"{seed:04}.png", seed) for seed in range(first, first + count)]


def touch(path: Path, seconds: int = 5) -> None:
    """Move the modification time on."""
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + seconds * 10**9))


def synced(gallery: Gallery, budget: Budget | None = None) -> Progress:
    """Sync to the end and return the last event."""
    *_, last = gallery.sync(budget)
    return last


def rebuilt(gallery: Gallery, budget: Budget | None = None) -> Progress:
    """Rebuild to the end and return the last event."""
    *_, last = gallery.rebuild(budget)
    return last


def uris(results: Results) -> list[str]:
    """Return where the matches lie."""
    return [match.uri for match in results.matches]


def rows_of(index_path: Path, query: str, *values: object) -> list[Any]:
    """Ask the index file without the SDK."""
    with closing(sqlite3.connect(index_path)) as database:
        return database.execute(query, values).fetchall()


def brute_force(index_path: Path, vector: Any, k: int, ids: Set[int] | None = None) -> list[tuple[int, str, float]]:
    """Search all rows of the active model with numpy alone: (id, uri, score), best first, equal scores by id."""
    codes, scales = quantise(vector[None])
    found = rows_of(
        index_path,
        "SELECT photo.id, uri, scale, codes FROM photo JOIN vector ON photo.id = photo_id"
        " JOIN model ON model.id = model_id WHERE is_active = 1",
    )
    ranking = []
    for photo_id, uri, scale, data in found:
        if ids is None or photo_id in ids:
            dot = int(np.frombuffer(data, np.int8).astype(np.int64) @ codes[0].astype(np.int64))
            ranking.append((photo_id, uri, float(np.float32(dot) * (np.float32(scale) * scales[0]))))
    return sorted(ranking, key=lambda row: (-row[2], row[0]))[:k]


def answers(results: Results) -> list[tuple[int, str, float]]:
    """Return matches in the form of `brute_force`."""
    return [(match.id, match.uri, match.score) for match in results.matches]


def assert_search_is_exact(gallery: Gallery, text: str = "red", k: int = 10_000) -> None:
    """Compare a search with `brute_force`."""
    vector = gallery.embedder.embed_text(text)
    assert answers(gallery.search(text, k=k)) == brute_force(gallery.index_path, vector, k)


def assert_index_is_sound(index_path: Path) -> None:
    """Check what must hold at any moment: a sound file, one row a URI, one vector of unit length a photo."""
    assert rows_of(index_path, "PRAGMA integrity_check") == [("ok",)]
    assert rows_of(index_path, "PRAGMA foreign_key_check") == []
    assert rows_of(index_path, "SELECT uri FROM photo GROUP BY uri HAVING COUNT(*) > 1") == []
    assert rows_of(index_path, "SELECT 1 FROM vector GROUP BY photo_id, model_id HAVING COUNT(*) > 1") == []
    for scale, data in rows_of(index_path, "SELECT scale, codes FROM vector"):
        assert abs(np.linalg.norm(np.frombuffer(data, np.int8) * np.float64(scale)) - 1) < 1e-6
    skipped_yet_stored = "SELECT 1 FROM vector JOIN photo ON photo.id = photo_id WHERE reason IS NOT NULL"
    assert rows_of(index_path, skipped_yet_stored) == []


class MemorySource:
    """A source that is no folder: photos in a dict; a reason in place of bytes is a photo that cannot be read."""

    def __init__(self, uri: str = "phone://camera/") -> None:
        """Start empty."""
        self.uri = uri
        self.photos: dict[str, bytes | SkipReason] = {}
        self.versions: dict[str, int] = {}
        self.loaded: list[str] = []
        self.is_reachable = True

    def put(self, name: str, data: bytes | SkipReason) -> str:
        """Add or replace a photo and return its URI."""
        uri = self.uri + name
        self.photos[uri] = data
        self.versions[uri] = self.versions.get(uri, 0) + 1
        return uri

    def changes(self, known: Mapping[str, Stamp], all_known: Set[str]) -> Changes:
        """Compare with what is known."""
        if not self.is_reachable:
            return Changes(unavailable=[self.uri])
        changes = Changes(removed=sorted(all_known - self.photos.keys()))
        for uri, data in self.photos.items():
            stamp = self._stamp(uri, data)
            if known.get(uri) != stamp:
                (changes.changed if uri in all_known else changes.new).append(PhotoRef(uri, stamp))
        return changes

    def load(self, uri: str) -> PhotoFile:
        """Hand out the bytes."""
        self.loaded.append(uri)
        data = self.photos[uri]
        if isinstance(data, SkipReason):
            raise PhotoSkipped(data, f"{uri} cannot be read.")
        return PhotoFile(data, self._stamp(uri, data), hashlib.sha256(data).digest()[:16])

    def _stamp(self, uri: str, data: bytes | SkipReason) -> Stamp:
        return Stamp(len(data), self.versions[uri])


def library(tmp_path: Path, count: int) -> Iterator[Gallery]:
    """Yield a synced gallery of noise photos; the body of a fixture."""
    make_photos(tmp_path / "photos", count)
    with Gallery.open(tmp_path / "index.db", counting(), [tmp_path / "photos"]) as gallery:
        synced(gallery)
        yield gallery
