"""Thousands of damaged inputs with fixed seeds: a `MagicError` or a sane answer may come out, and nothing else."""

from __future__ import annotations

import io
import json
import math
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, features

from gallery_fixtures import bundle, counting, make_photos, synced
from magicmm.bundle import Bundle
from magicmm.embedder import Embedder
from magicmm.errors import ErrorCode, MagicError, PhotoSkipped
from magicmm.filters import Filter
from magicmm.gallery import Gallery
from magicmm.image import decode_photo
from tiny_bundles import vision_language_bundle

IMAGES_A_FORMAT = 110
MANIFESTS = 400
INDEXES = 360
SCANS = 200
TOKENIZERS = 150
GRAPHS = 100


# -- how bytes are damaged -------------------------------------------------------------------------------------


def flip(data: bytes, random: Random, most: int | None = None) -> bytes:
    """Change one to eight bytes, anywhere or among the first `most`."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 8)):
        changed[random.randrange(min(len(data), most or len(data)))] = random.choice([0, 255, random.randrange(256)])
    return bytes(changed)


def flip_header(data: bytes, random: Random) -> bytes:
    """Change bytes near the start."""
    return flip(data, random, 100)


def truncate(data: bytes, random: Random) -> bytes:
    """Cut the end off."""
    return data[: random.randrange(len(data))]


def splice(data: bytes, random: Random) -> bytes:
    """Copy a piece over another place."""
    start, goal, length = random.randrange(len(data)), random.randrange(len(data)), random.randint(1, 64)
    piece = data[start : start + length]
    return data[:goal] + piece + data[goal + random.choice([0, len(piece)]) :]


def stuff(data: bytes, random: Random) -> bytes:
    """Insert or remove bytes."""
    at, length = random.randrange(len(data)), random.randint(1, 40)
    return data[:at] + random.choice([b"", random.randbytes(length)]) + data[at + random.choice([0, length]) :]


def number(data: bytes, random: Random) -> bytes:
    """Put an extreme 16- or 32-bit number somewhere in the first part."""
    size = random.choice([2, 4])
    value = random.choice([0, 1, (1 << 8 * size - 1) - 1, 1 << 8 * size - 1, (1 << 8 * size) - 1])
    at = random.randrange(min(len(data), 400))
    return data[:at] + value.to_bytes(size, random.choice(["big", "little"])) + data[at + size :]


MUTATIONS = (flip, flip, flip_header, truncate, splice, stuff, number)


def mutate(data: bytes, seed: int) -> bytes:
    random = Random(seed)
    return random.choice(MUTATIONS)(data, random)


def assert_only_our_errors(calls: list[Callable[[], object]]) -> list[ErrorCode]:
    """Call all; anything but a `MagicError` fails the test by itself."""
    codes = []
    for call in calls:
        try:
            call()
        except MagicError as error:
            assert error.message
            codes.append(error.code)
    return codes


# -- images ----------------------------------------------------------------------------------------------------


@cache
def image_seeds() -> dict[str, bytes]:
    """Return a small photo in each format, the JPEG with a full EXIF block."""
    rng = np.random.default_rng(3)
    ramp = np.linspace(0, 255, 48)[None, :, None] + np.zeros((40, 48, 3)) + rng.integers(0, 30, (40, 48, 3))
    photo = Image.fromarray(ramp.clip(0, 255).astype(np.uint8))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2024:05:06 07:08:09"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (48.0, 51.0, 30.0)
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLongitude] = (2.0, 17.0, 40.0)
    options: dict[str, dict[str, Any]] = {
        "JPEG": {"exif": exif, "quality": 80},
        "JPEG progressive": {"progressive": True},
        "PNG": {},
        "PNG 16": {},
        "PNG palette": {},
        "WEBP": {"exif": exif},
        "GIF": {"save_all": True},
        "TIFF": {"compression": "tiff_lzw"},
        "TIFF raw": {},
        "BMP": {},
    }
    if features.check("avif"):
        options["AVIF"] = {"quality": 50}
    pictures = {
        "PNG 16": Image.fromarray((ramp[..., 0] * 200).astype(np.uint16)),
        "PNG palette": photo.convert("P", palette=Image.Palette.ADAPTIVE),
    }
    seeds = {}
    for name, extra in options.items():
        out = io.BytesIO()
        pictures.get(name, photo).save(out, name.split()[0], **extra)
        seeds[name] = out.getvalue()
    return seeds


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", image_seeds())
def test_damaged_images_are_skipped_with_a_reason_or_decoded(name: str) -> None:
    original = image_seeds()[name]
    assert decode_photo(original).rgb.size
    skipped = 0
    for seed in range(IMAGES_A_FORMAT):
        try:
            photo = decode_photo(mutate(original, seed), min_side=32)
        except PhotoSkipped as skip:
            assert skip.code is ErrorCode.IMAGE_INVALID
            assert skip.message
            skipped += 1
            continue
        assert photo.rgb.dtype == np.uint8
        assert photo.rgb.ndim == 3
        assert photo.rgb.shape[2] == 3
        assert photo.rgb.size > 0
        assert photo.width > 0
        assert photo.height > 0
        numbers = [value for value in (photo.taken, photo.latitude, photo.longitude) if value is not None]
        assert all(map(math.isfinite, numbers))
    assert skipped > 0


# -- manifests -------------------------------------------------------------------------------------------------

ODD_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 1 << 31, 1 << 53, 1 << 64, -(1 << 70), 10**400, 0.5, -0.0, 1e308, math.nan, math.inf,
    -math.inf, "", "x", "\0", "../escape", "/etc/passwd", "a/../../b", "C:\\x", "\ud800", "ü", "0" * 64, [], [None],
    [[]], [1, "2"], {}, {"": {}}, {"x": 1}, {"image": "../image.onnx"},
]  # fmt: skip


def places_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every value inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, child in inner for place in [(*path, key), *places_of(child, (*path, key))]]


def mutate_json(value: Any, random: Random) -> None:
    """Replace, delete, rename, or swap something in place."""
    *way, key = random.choice(places_of(value))
    holder = value
    for step in way:
        holder = holder[step]
    action = random.choice(["replace", "replace", "replace", "delete", "rename", "swap"])
    if action == "delete":
        del holder[key]
    elif action == "rename" and isinstance(holder, dict):
        holder[random.choice(["", "..", "../x", "/abs", "x" * 300, "a\0b", "\ud800", "x"])] = holder.pop(key)
    elif action == "swap":
        other = random.choice(places_of(value))
        found = value
        for step in other:
            found = found[step]
        holder[key] = json.loads(json.dumps(found))
    else:
        holder[key] = random.choice(ODD_VALUES)


def assert_unit(vectors: np.ndarray) -> None:
    assert np.isfinite(vectors).all()
    assert np.allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-4)


def use_bundle(folder: Path, with_image: bool = True) -> None:
    embedder = Embedder.open(Bundle.load(folder), threads=1)
    assert len(embedder.fingerprint) == 64
    assert_unit(embedder.embed_text("a red dog"))
    if with_image:
        assert_unit(embedder.embed_image(np.full((9, 7, 3), 80, np.uint8)))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One bundle of each architecture, to be damaged."""
    folder = tmp_path_factory.mktemp("bundles")
    dual = Path(shutil.copytree(bundle().path, folder / "dual.magicmm"))
    return [dual, vision_language_bundle(folder / "vlm.magicmm")]


@pytest.mark.parametrize("kind", [0, 1])
def test_damaged_manifests_are_refused_or_work(bundles: list[Path], kind: int) -> None:
    path = bundles[kind] / "manifest.json"
    original = path.read_text()
    refused = 0
    for seed in range(MANIFESTS // 2):
        random = Random(seed)
        manifest = json.loads(original)
        for _ in range(random.choice([1, 1, 1, 2, 5])):
            mutate_json(manifest, random)
        path.write_text(json.dumps(manifest))
        refused += bool(assert_only_our_errors([lambda: use_bundle(bundles[kind])]))
    for seed in range(100):
        path.write_bytes(mutate(original.encode(), seed))
        refused += bool(assert_only_our_errors([lambda: use_bundle(bundles[kind], with_image=False)]))
    path.write_text(original)
    use_bundle(bundles[kind])
    assert refused > MANIFESTS // 4


@pytest.mark.parametrize("text", ["", "[]", "null", "1", '"x"', "{", "[" * 100_000, '{"a":' * 50_000, "\ufeff{}"])
def test_a_manifest_that_is_no_object_is_refused(bundles: list[Path], text: str) -> None:
    path = bundles[0] / "manifest.json"
    original = path.read_text()
    path.write_text(text)
    try:
        with pytest.raises(MagicError) as caught:
            Bundle.load(bundles[0])
    finally:
        path.write_text(original)
    assert caught.value.code is ErrorCode.BUNDLE_INVALID


@pytest.mark.parametrize(
    ("kind", "name", "count"),
    [
        (0, "tokenizer.json", TOKENIZERS),
        (0, "text.onnx", GRAPHS),
        (0, "image.onnx", GRAPHS),
        (1, "language.onnx", GRAPHS),
        (1, "vision.onnx", GRAPHS),
        (1, "tokens.bin", GRAPHS // 2),
        (1, "prefix/query.safetensors", GRAPHS),
    ],
)
def test_damaged_files_of_a_bundle_are_refused_or_give_unit_vectors(
    bundles: list[Path], kind: int, name: str, count: int
) -> None:
    path = bundles[kind] / name
    original = path.read_bytes()
    differing = 0
    for seed in range(count):
        path.write_bytes(flip(original, Random(seed), Random(seed).choice([None, 200])))  # the size must stay
        differing += path.read_bytes() != original
        assert_only_our_errors([lambda: use_bundle(bundles[kind], with_image="image" in name or kind == 1)])
        if path.read_bytes() != original:
            assert_only_our_errors_of_hashes(bundles[kind])
    path.write_bytes(original)
    use_bundle(bundles[kind])
    assert differing > count // 2


def assert_only_our_errors_of_hashes(folder: Path) -> None:
    with pytest.raises(MagicError) as caught:
        Bundle.load(folder).check_hashes()
    assert caught.value.code is ErrorCode.BUNDLE_INVALID


# -- indexes and scan files ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of thirty photos, some of them skipped, with a scan file, and its photos beside it."""
    folder = tmp_path_factory.mktemp("library")
    make_photos(folder / "photos", 30)
    for name in range(4):
        (folder / "photos" / f"junk-{name}.jpg").write_bytes(b"junk %d" % name)
    with Gallery.open(folder / "index.db", counting(), [folder / "photos"]) as gallery:
        synced(gallery)
    return folder


def search(gallery: Gallery, **options: Any) -> None:
    results = gallery.search("red", **options)
    scores = [match.score for match in results.matches]
    assert np.isfinite(scores).all()
    assert scores == sorted(scores, reverse=True)


def use_index(folder: Path) -> list[ErrorCode]:
    """Open, ask, sync, ask again."""
    try:
        gallery = Gallery.open(folder / "index.db", bundle(), [folder / "photos"])
    except MagicError as error:
        return [error.code]
    with gallery:
        return assert_only_our_errors(
            [
                gallery.status,
                lambda: search(gallery),
                lambda: search(gallery, where=Filter(min_side=1, ids=range(1, 20))),
                lambda: gallery.similar(3),
                gallery.duplicates,
                gallery.plan,
                lambda: synced(gallery),
                lambda: search(gallery),
            ]
        )


def restore(library: Path, folder: Path) -> None:
    for path in folder.glob("index.db*"):
        path.unlink()
    for name in ("index.db", "index.db.scan"):
        shutil.copy(library / name, folder / name)


INDEX_ERRORS = {
    ErrorCode.INDEX_CORRUPT,
    ErrorCode.INDEX_TOO_NEW,
    ErrorCode.SOURCE_UNAVAILABLE,
    ErrorCode.MODEL_MISMATCH,
    ErrorCode.ARGUMENT_INVALID,
    ErrorCode.STORAGE_FAILED,
}


@pytest.mark.parametrize("part", range(4))
def test_damaged_indexes_are_reported_or_work(library: Path, tmp_path: Path, part: int) -> None:
    original = (library / "index.db").read_bytes()
    shutil.copytree(library / "photos", tmp_path / "photos")
    reported = 0
    for seed in range(part, INDEXES, 4):
        restore(library, tmp_path)
        random = Random(seed)
        damage = random.choice([flip, flip, flip_header, truncate, splice, number, flip_pages])
        (tmp_path / "index.db").write_bytes(damage(original, random))
        if random.random() < 0.5:
            (tmp_path / "index.db.scan").unlink()
        codes = use_index(tmp_path)
        assert set(codes) <= INDEX_ERRORS
        reported += bool(codes)
    assert reported > INDEXES // 20


def flip_pages(data: bytes, random: Random) -> bytes:
    """Change the first bytes of pages, where the trees of SQLite are described."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        page = random.randrange(len(data) // 4096)
        changed[page * 4096 + random.randrange(16) + (100 if page == 0 else 0)] = random.randrange(256)
    return bytes(changed)


@pytest.mark.parametrize("name", ["index.db-wal", "index.db-journal"])
def test_rubbish_beside_the_index_does_no_harm(library: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(library / "photos", tmp_path / "photos")
    for seed in range(20):
        restore(library, tmp_path)
        (tmp_path / name).write_bytes(Random(seed).randbytes(5000))
        assert use_index(tmp_path)[:1] in ([], [ErrorCode.MODEL_MISMATCH])


def test_damaged_scan_files_change_nothing_but_scores(library: Path, tmp_path: Path) -> None:
    original = (library / "index.db.scan").read_bytes()
    codes_at = len(original) - 30 * 8
    (tmp_path / "photos").mkdir()
    restore(library, tmp_path)
    with Gallery.open(tmp_path / "index.db", bundle()) as gallery:
        expected = gallery.search("red", k=100)
    for seed in range(SCANS):
        damaged = mutate(original, seed)
        (tmp_path / "index.db.scan").write_bytes(damaged)
        with Gallery.open(tmp_path / "index.db", bundle()) as gallery:
            found = gallery.search("red", k=100)
            assert sorted(match.id for match in found.matches) == sorted(match.id for match in expected.matches)
            search(gallery, where=Filter(ids=range(1, 9)))
            if damaged[codes_at:] == original[codes_at:] or len(damaged) != len(original):
                assert found == expected
