"""Pictures to tiles, held against Pillow, transformers' image processor and the SDK."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor, get_optimal_tiled_canvas

from magicmm.errors import ErrorCode, PhotoSkipped, SkipReason
from magicmm.image import decode_photo, render_tiles
from magicmm_model.tiling import count_tiles, photo_tiles

SIDE = 32
# width and height -> columns and rows at most 4 tiles
GRIDS = {
    **{(128, 64): (2, 1), (64, 128): (1, 2), (96, 96): (2, 2), (130, 31): (4, 1), (20, 90): (1, 4)},
    **{(100, 31): (3, 1), (32, 32): (1, 1), (40, 44): (1, 1)},
}


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def bicubic(picture: Image.Image, width: int, height: int) -> np.ndarray:
    """Pillow's resize in one call, as InternVL calls it."""
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))


def across_first(picture: Image.Image, width: int, height: int) -> np.ndarray:
    """The same with the order of the two passes fixed; Pillow 13 turns it round for tall pictures."""
    return bicubic(Image.fromarray(bicubic(picture, width, picture.height)), width, height)


@pytest.mark.parametrize("form", ["path", "text path", "bytes", "bytearray", "memoryview", "PIL", "array"])
def test_one_tile_is_what_pillow_makes_of_the_whole_picture(form: str, tmp_path: Path) -> None:
    picture = noise(75, 51)
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(picture))
    given: dict[str, object] = {
        "path": path,
        "text path": str(path),
        "bytes": path.read_bytes(),
        "bytearray": bytearray(path.read_bytes()),
        "memoryview": memoryview(path.read_bytes()),
        "PIL": picture,
        "array": np.asarray(picture),
    }
    tiles = photo_tiles(given[form], SIDE)
    assert (tiles.dtype, tiles.shape) == (torch.uint8, (1, SIDE, SIDE, 3))
    assert (tiles[0].numpy() == bicubic(picture, SIDE, SIDE)).all()


@pytest.mark.parametrize(("size", "grid"), GRIDS.items())
def test_a_document_is_cut_row_by_row_and_its_thumbnail_comes_last(
    size: tuple[int, int], grid: tuple[int, int]
) -> None:
    picture, (columns, rows) = noise(*size), grid
    sheet = across_first(picture, columns * SIDE, rows * SIDE)
    parts = [part for band in np.split(sheet, rows, axis=0) for part in np.split(band, columns, axis=1)]
    if len(parts) > 1:
        parts.append(across_first(picture, SIDE, SIDE))
    tiles = photo_tiles(picture, SIDE, 4).numpy()
    assert (tiles == np.stack(parts)).all()
    assert len(tiles) == count_tiles(*size, SIDE, 4)


@pytest.mark.parametrize("most", [1, 4, 12])
@pytest.mark.parametrize("size", GRIDS)
def test_tiles_are_those_of_transformers(size: tuple[int, int], most: int) -> None:
    picture = noise(*size).point(lambda value: 96 + value // 4)  # no pass overshoots the range of a byte
    cut = GotOcr2ImageProcessor(size={"height": SIDE, "width": SIDE}, do_rescale=False, do_normalize=False)
    theirs = cut(picture, crop_to_patches=True, min_patches=1, max_patches=most, return_tensors="np")["pixel_values"]
    ours = photo_tiles(picture, SIDE, most).numpy()
    difference = np.abs(ours.transpose(0, 3, 1, 2).astype(int) - theirs)
    assert len(ours) == len(theirs)
    assert difference.max() <= (size[1] > size[0])  # one level where Pillow takes the rows of a tall picture first


@pytest.mark.parametrize("most", [1, 4])
@pytest.mark.parametrize("size", [(75, 51), (300, 520), (1200, 900)])
def test_tiles_are_those_that_the_sdk_shows_a_bundle(size: tuple[int, int], most: int) -> None:
    data = encoded(noise(*size), "JPEG")
    shown = render_tiles(decode_photo(data, 2 * SIDE * most).rgb, SIDE, most)
    assert (photo_tiles(data, SIDE, most).numpy() == shown).all()


def test_a_large_jpeg_is_decoded_small(tmp_path: Path) -> None:
    """At half scale or less, as long as twice the pixels that the model sees remain."""
    path = tmp_path / "photo.jpg"
    noise(640, 512).save(path)
    with Image.open(path) as quarter, Image.open(path) as half:
        quarter.draft(None, (2 * SIDE, 2 * SIDE))
        half.draft(None, (8 * SIDE, 8 * SIDE))
        assert (quarter.size, half.size) == ((80, 64), (320, 256))
        assert (photo_tiles(path, SIDE)[0].numpy() == bicubic(quarter, SIDE, SIDE)).all()
        assert (photo_tiles(path, SIDE, 4)[-1].numpy() == bicubic(half, SIDE, SIDE)).all()


def test_a_photo_is_turned_upright() -> None:
    picture = noise(75, 51)
    exif = Image.Exif()
    exif[0x0112] = 3
    tiles = photo_tiles(encoded(picture, exif=exif), SIDE)
    assert (tiles[0].numpy() == bicubic(picture.transpose(Image.Transpose.ROTATE_180), SIDE, SIDE)).all()


@given(width=st.integers(1, 3000), height=st.integers(1, 3000), most=st.sampled_from([1, 2, 4, 6, 12]))
def test_the_number_of_tiles_is_that_of_transformers(width: int, height: int, most: int) -> None:
    columns, rows = get_optimal_tiled_canvas((height, width), (448, 448), 1, most)
    assert count_tiles(width, height, 448, most) == (1 if columns * rows == 1 else columns * rows + 1)


@given(width=st.integers(1, 200), height=st.integers(1, 200))
def test_the_number_of_tiles_is_told_before_they_are_cut(width: int, height: int) -> None:
    blank = np.zeros((height, width, 3), np.uint8)
    assert len(photo_tiles(blank, 8, 4)) == count_tiles(width, height, 8, 4)


def broken(make: Callable[[Path], object], tmp_path: Path) -> PhotoSkipped:
    with pytest.raises(PhotoSkipped) as caught:
        photo_tiles(make(tmp_path), SIDE)
    assert caught.value.code is ErrorCode.IMAGE_INVALID
    return caught.value


def written(folder: Path, data: bytes) -> Path:
    (folder / "photo.jpg").write_bytes(data)
    return folder / "photo.jpg"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: folder / "none.jpg", SkipReason.VANISHED),
        (lambda folder: folder, SkipReason.READ_FAILED),
        (lambda folder: written(folder, b""), SkipReason.EMPTY_FILE),
        (lambda folder: b"", SkipReason.EMPTY_FILE),
        (lambda folder: b"no picture at all", SkipReason.NOT_AN_IMAGE),
        (lambda folder: written(folder, encoded(noise(64, 64), "JPEG")[:900]), SkipReason.TRUNCATED),
        (lambda folder: np.zeros((4, 4, 3), np.float32), SkipReason.UNSUPPORTED_PIXELS),
        (lambda folder: np.zeros((4, 4), np.uint8), SkipReason.UNSUPPORTED_PIXELS),
        (lambda folder: np.zeros((0, 4, 3), np.uint8), SkipReason.UNSUPPORTED_PIXELS),
        (lambda folder: 7, SkipReason.UNSUPPORTED_PIXELS),
    ],
)
def test_what_is_no_picture_is_skipped_with_the_reason(
    make: Callable[[Path], object], reason: SkipReason, tmp_path: Path
) -> None:
    error = broken(make, tmp_path)
    assert error.reason is reason
    assert error.message
