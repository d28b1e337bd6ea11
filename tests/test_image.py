"""Decoding, EXIF and the exact steps after it; the oracles are Pillow itself and integer arithmetic without Pillow."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from magicmm import image as module
from magicmm.errors import ErrorCode, PhotoSkipped, SkipReason
from magicmm.image import as_rgb, decode_photo, heic_supported, render_tiles, render_views, resize
from magicmm.manifest import ImageSpec
from tools import bicubic

Encode = Callable[..., bytes]
RANDOM = np.random.default_rng(7)
NOISE = RANDOM.integers(0, 256, (40, 60, 3), dtype=np.uint8)


def reason_for(data: bytes, min_side: int = 0) -> SkipReason:
    with pytest.raises(PhotoSkipped) as caught:
        decode_photo(data, min_side)
    assert caught.value.code is ErrorCode.IMAGE_INVALID
    assert caught.value.message
    return caught.value.reason


# -- resize ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(150))
def test_resize_equals_integer_arithmetic(seed: int) -> None:
    random = np.random.default_rng(seed)
    height, width = (int(number) for number in random.integers(1, 160, 2))
    size = (int(random.integers(1, 90)), int(random.integers(1, 90)))
    left, top = int(random.integers(0, width)), int(random.integers(0, height))
    box = (left, top, int(random.integers(left + 1, width + 1)), int(random.integers(top + 1, height + 1)))
    rgb = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if seed % 3 == 0:
        rgb = (rgb > 127).astype(np.uint8) * 255  # hard edges overshoot and clip
    assert np.array_equal(resize(rgb, size, box), bicubic.resize(rgb, size, box))


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [(1, 1, (448, 448)), (3000, 2, (16, 16)), (2, 3000, (16, 16)), (1200, 900, (224, 224)), (448, 448, (448, 448))],
)
def test_resize_equals_integer_arithmetic_at_extremes(width: int, height: int, size: tuple[int, int]) -> None:
    rgb = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    box = (0, 0, width, height)
    assert np.array_equal(resize(rgb, size, box), bicubic.resize(rgb, size, box))


def test_resize_equals_pillow_where_every_pillow_agrees_with_itself() -> None:
    for width, height, size in ((60, 40, (24, 24)), (90, 60, (16, 16)), (60, 40, (100, 80)), (64, 64, (16, 16))):
        rgb = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
        pillow = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))
        assert np.array_equal(resize(rgb, size, (0, 0, width, height)), pillow)


def test_resize_of_a_tall_picture_takes_the_columns_first_whatever_pillow_does() -> None:
    rgb = np.random.default_rng(3).integers(0, 256, (300, 20, 3), dtype=np.uint8)
    across = Image.fromarray(rgb).resize((16, 300), Image.Resampling.BICUBIC)
    expected = np.asarray(across.resize((16, 16), Image.Resampling.BICUBIC))
    assert np.array_equal(resize(rgb, (16, 16), (0, 0, 20, 300)), expected)


def test_pixels_outside_the_box_do_not_bleed_in() -> None:
    rgb = np.full((20, 20, 3), 255, np.uint8)
    rgb[5:15, 5:15] = 0
    assert resize(rgb, (4, 4), (5, 5, 15, 15)).max() == 0


def test_resize_of_one_colour_keeps_it() -> None:
    for level in (0, 1, 127, 254, 255):
        rgb = np.full((37, 53, 3), level, np.uint8)
        assert np.unique(resize(rgb, (16, 24), (0, 0, 53, 37))).tolist() == [level]


# -- views and tiles -----------------------------------------------------------------------------------------------


def test_crop_is_the_centred_square() -> None:
    wide = np.zeros((10, 31, 3), np.uint8)
    wide[:, 10:20] = 200
    (view,) = render_views(wide, ImageSpec(5, ("crop",)))
    assert view.shape == (5, 5, 3)
    assert np.unique(view).tolist() == [200]


def test_squash_shows_the_whole_photo() -> None:
    halves = np.zeros((10, 40, 3), np.uint8)
    halves[:, 20:] = 255
    (view,) = render_views(halves, ImageSpec(4, ("squash",)))
    assert (view[:, 0] < 30).all()
    assert (view[:, -1] > 225).all()


def test_views_come_in_the_order_of_the_bundle() -> None:
    crop_first = render_views(NOISE, ImageSpec(8, ("crop", "squash")))
    squash_first = render_views(NOISE, ImageSpec(8, ("squash", "crop")))
    assert np.array_equal(crop_first, squash_first[::-1])
    assert not np.array_equal(crop_first[0], crop_first[1])


def test_one_tile_has_no_thumbnail() -> None:
    assert render_tiles(NOISE[:, :40], 16, 4).shape == (4 + 1, 16, 16, 3)
    assert render_tiles(NOISE[:10, :10], 16, 4).shape == (1, 16, 16, 3)
    assert render_tiles(NOISE, 16, 1).shape == (1, 16, 16, 3)


def test_tiles_are_cut_from_one_sheet_and_the_thumbnail_comes_last() -> None:
    tiles = render_tiles(NOISE[:30], 16, 2)
    sheet = bicubic.resize(NOISE[:30], (32, 16), (0, 0, 60, 30))
    assert np.array_equal(tiles[0], sheet[:, :16])
    assert np.array_equal(tiles[1], sheet[:, 16:])
    assert np.array_equal(tiles[2], bicubic.resize(NOISE[:30], (16, 16), (0, 0, 60, 30)))


# -- decoding ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_decode_exactly(kind: str, encoded: Encode) -> None:
    photo = decode_photo(encoded(NOISE, kind))
    assert np.array_equal(photo.rgb, NOISE)
    assert (photo.width, photo.height) == (60, 40)
    assert photo.rgb.dtype == np.uint8


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF", "GIF"])
def test_lossy_formats_decode_as_pillow_does(kind: str, encoded: Encode) -> None:
    data = encoded(NOISE, kind)
    with Image.open(io.BytesIO(data)) as pillow:
        assert np.array_equal(decode_photo(data).rgb, np.asarray(pillow.convert("RGB")))


def test_zero_bytes() -> None:
    assert reason_for(b"") is SkipReason.EMPTY_FILE


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_file_that_stops_in_its_pixels_is_truncated(kind: str, share: float, encoded: Encode) -> None:
    data = encoded(np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8), kind)
    assert reason_for(data[: int(len(data) * share)]) is SkipReason.TRUNCATED


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_file_cut_anywhere_is_skipped_or_decoded_but_never_crashes(kind: str, encoded: Encode) -> None:
    data = encoded(NOISE, kind)
    lasting = {reason for reason in SkipReason if not reason.is_transient}
    for length in range(1, len(data) - 40, max(1, len(data) // 60)):
        assert reason_for(data[:length]) in lasting


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "AVIF"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_flipped_bytes_are_skipped_or_decoded_but_never_crash(kind: str, encoded: Encode) -> None:
    data = encoded(NOISE, kind)
    random = np.random.default_rng(1)
    outcomes = set()
    for _ in range(120):
        broken = bytearray(data)
        for place in random.integers(0, min(len(data), 400), 3):
            broken[place] ^= 1 << int(random.integers(8))
        try:
            outcomes.add(decode_photo(bytes(broken)).rgb.dtype.name)
        except PhotoSkipped as skip:
            outcomes.add(skip.reason.value)
    assert outcomes & {"decode_failed", "not_an_image", "truncated", "too_many_pixels"}


@pytest.mark.parametrize(
    "data",
    [
        b"hello, this is a text and no picture",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
        b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'></svg>",
        b"MZ" + bytes(100),
        b"\x00" * 1000,
        b"P6\n2 2\n255\n" + bytes(12),
        b"\x00\x00\x00\x20ftypisom" + bytes(40),
    ],
    ids=["text", "eps", "pdf", "svg", "program", "zeros", "ppm", "video"],
)
def test_what_is_no_photo_format(data: bytes) -> None:
    assert reason_for(data) is SkipReason.NOT_AN_IMAGE


@pytest.mark.parametrize("kind", ["EPS", "PDF", "PPM", "ICO", "TGA", "DDS"])
def test_formats_of_other_uses_are_refused(kind: str, encoded: Encode) -> None:
    assert reason_for(encoded(Image.fromarray(NOISE), kind)) is SkipReason.NOT_AN_IMAGE


def test_grey_one_bit_and_palette_pictures(encoded: Encode) -> None:
    grey = Image.fromarray(NOISE).convert("L")
    assert np.array_equal(decode_photo(encoded(grey)).rgb, np.asarray(grey.convert("RGB")))
    bits = grey.convert("1")
    assert set(np.unique(decode_photo(encoded(bits)).rgb)) == {0, 255}
    palette = Image.fromarray(NOISE).quantize(16)
    assert np.array_equal(decode_photo(encoded(palette)).rgb, np.asarray(palette.convert("RGB")))


def test_cmyk_decodes_as_pillow_does(encoded: Encode) -> None:
    data = encoded(Image.fromarray(NOISE).convert("CMYK"), "JPEG")
    with Image.open(io.BytesIO(data)) as pillow:
        assert pillow.mode == "CMYK"
        assert np.array_equal(decode_photo(data).rgb, np.asarray(pillow.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_high_byte(kind: str, encoded: Encode) -> None:
    samples = np.arange(0, 65536, 13, dtype=np.uint16)[:5000].reshape(50, 100)
    rgb = decode_photo(encoded(samples, kind)).rgb
    assert np.array_equal(rgb, np.repeat((samples >> 8).astype(np.uint8)[..., None], 3, axis=2))


def test_big_endian_16_bit_tiff(encoded: Encode) -> None:
    image = Image.frombytes("I;16B", (2, 1), bytes([0x12, 0x34, 0xFE, 0xDC]))
    assert as_rgb(image)[0, :, 0].tolist() == [0x12, 0xFE]


def test_32_bit_integers_are_read_when_they_are_16_bit_numbers_in_disguise(encoded: Encode) -> None:
    assert decode_photo(encoded(np.full((4, 4), 0x8000, np.int32), "TIFF")).rgb.max() == 0x80
    assert reason_for(encoded(np.full((4, 4), 0x10000, np.int32), "TIFF")) is SkipReason.UNSUPPORTED_PIXELS
    assert reason_for(encoded(np.full((4, 4), -1, np.int32), "TIFF")) is SkipReason.UNSUPPORTED_PIXELS


def test_floating_point_pixels_are_refused(encoded: Encode) -> None:
    assert reason_for(encoded(np.zeros((4, 4), np.float32), "TIFF")) is SkipReason.UNSUPPORTED_PIXELS


def on_white(rgba: np.ndarray) -> np.ndarray:
    """Blend over white as docs/FORMAT.md says."""
    wide = rgba.astype(np.int64)
    total = 255 * (255 - wide[..., 3:]) + wide[..., :3] * wide[..., 3:] + 128
    return (((total >> 8) + total) >> 8).astype(np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparent_pixels_lie_on_white(kind: str, encoded: Encode) -> None:
    rgba = np.random.default_rng(2).integers(0, 256, (30, 30, 4), dtype=np.uint8)
    options: dict[str, Any] = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    assert np.array_equal(decode_photo(encoded(rgba, kind, **options)).rgb, on_white(rgba))


def test_every_alpha_and_level_blends_by_the_formula() -> None:
    alpha, level = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    rgba = np.stack([level, level, level, alpha], axis=2)
    assert np.array_equal(as_rgb(Image.fromarray(rgba, "RGBA")), on_white(rgba))


def test_grey_with_alpha(encoded: Encode) -> None:
    pair = np.random.default_rng(2).integers(0, 256, (9, 9, 2), dtype=np.uint8)
    rgba = np.concatenate([np.repeat(pair[..., :1], 3, axis=2), pair[..., 1:]], axis=2)
    assert np.array_equal(decode_photo(encoded(Image.fromarray(pair, "LA"))).rgb, on_white(rgba))


def test_palette_with_a_transparent_colour(encoded: Encode) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert decode_photo(encoded(image, transparency=0)).rgb[0].tolist() == [[255, 255, 255], [200, 100, 50]]
    assert decode_photo(encoded(image, transparency=b"\x80\xff")).rgb[0, 0].tolist() == [132, 137, 142]
    assert decode_photo(encoded(image, "GIF", transparency=0)).rgb[0].tolist() == [[255, 255, 255], [200, 100, 50]]


def test_rgb_with_a_transparent_colour(encoded: Encode) -> None:
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (9, 9, 9))
    assert decode_photo(encoded(image, transparency=(1, 2, 3))).rgb[0].tolist() == [[255, 255, 255], [9, 9, 9]]


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})])
def test_animations_give_their_first_frame(kind: str, options: dict[str, Any], encoded: Encode) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, **options)
    assert np.unique(decode_photo(data).rgb.reshape(-1, 3), axis=0).tolist() == [[255, 0, 0]]


@pytest.mark.parametrize(("width", "height"), [(1, 1), (20000, 1), (1, 20000), (3, 7000)])
def test_extreme_shapes_render(width: int, height: int, encoded: Encode) -> None:
    photo = decode_photo(encoded(Image.new("RGB", (width, height), (9, 8, 7))), 32)
    assert (photo.width, photo.height) == (width, height)
    views = render_views(photo.rgb, ImageSpec(16, ("crop", "squash")))
    assert np.unique(views.reshape(-1, 3), axis=0).tolist() == [[9, 8, 7]]


# -- bombs ---------------------------------------------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    """A PNG of one colour that says how large it is and compresses to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )


def jpeg_header(data: bytes, width: int, height: int) -> bytes:
    """Say another size in the frame header of a JPEG."""
    place = data.index(b"\xff\xc0")
    return data[: place + 5] + struct.pack(">HH", height, width) + data[place + 9 :]


@pytest.mark.parametrize("side", [12_000, 20_000, 60_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_are_refused_at_once_and_without_their_memory(side: int, encoded: Encode) -> None:
    started = time.perf_counter()
    tracemalloc.start()
    assert reason_for(png_header(side, side)) is SkipReason.TOO_MANY_PIXELS
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 << 20
    if side >= 20_000:
        assert reason_for(jpeg_header(encoded(NOISE, "JPEG"), side, side), 64) is SkipReason.TOO_MANY_PIXELS
    assert time.perf_counter() - started < 2


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_huge_jpeg_is_read_only_at_a_reduced_scale(monkeypatch: pytest.MonkeyPatch, encoded: Encode) -> None:
    data = encoded(np.zeros((800, 1000, 3), np.uint8), "JPEG")
    monkeypatch.setattr(module, "MAX_DECODED_PIXELS", 500_000)
    assert reason_for(data) is SkipReason.TOO_MANY_PIXELS
    assert decode_photo(data, 100).rgb.shape == (100, 125, 3)
    monkeypatch.setattr(module, "MAX_PIXELS", 799_999)
    assert reason_for(data, 100) is SkipReason.TOO_MANY_PIXELS


def test_a_jpeg_beyond_pillows_own_limit_is_still_read(monkeypatch: pytest.MonkeyPatch, encoded: Encode) -> None:
    data = encoded(NOISE, "JPEG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert decode_photo(data).rgb.shape == (40, 60, 3)
    assert reason_for(encoded(NOISE)) is SkipReason.TOO_MANY_PIXELS


def test_running_out_of_memory_skips_the_photo(monkeypatch: pytest.MonkeyPatch, encoded: Encode) -> None:
    def fail(image: Image.Image) -> Image.Image:
        raise MemoryError

    monkeypatch.setattr(module, "_upright", fail)
    assert reason_for(encoded(NOISE)) is SkipReason.TOO_MANY_PIXELS


# -- reduced scale -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1000, 800), (801, 1203), (64, 4000), (333, 333), (50, 50)])
@pytest.mark.parametrize("min_side", [1, 32, 50, 100, 399])
def test_reduced_scale_keeps_both_sides_long_enough(size: tuple[int, int], min_side: int, encoded: Encode) -> None:
    photo = decode_photo(encoded(Image.new("RGB", size, (120, 60, 30)), "JPEG"), min_side)
    height, width = photo.rgb.shape[:2]
    assert (photo.width, photo.height) == size
    assert (width, height) == size or min(width, height) >= min_side
    assert (width, height) in [(-(-size[0] // scale), -(-size[1] // scale)) for scale in (1, 2, 4, 8)]


def test_reduced_scale_is_used_when_it_can_be(encoded: Encode) -> None:
    assert decode_photo(encoded(Image.new("RGB", (800, 640)), "JPEG"), 80).rgb.shape == (80, 100, 3)


def test_other_formats_decode_at_full_scale(encoded: Encode) -> None:
    assert decode_photo(encoded(NOISE), 2).rgb.shape == NOISE.shape


# -- EXIF ----------------------------------------------------------------------------------------------------------


def exif(
    orientation: object = None, details: dict[int, Any] | None = None, gps: dict[int, Any] | None = None
) -> Image.Exif:
    found = Image.Exif()
    if orientation is not None:
        found[0x0112] = orientation
    if details is not None:
        found[0x8769] = details
    if gps is not None:
        found[0x8825] = gps
    return found


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_every_orientation_is_turned_as_pillow_turns_it(kind: str, orientation: int, encoded: Encode) -> None:
    data = encoded(NOISE, kind, exif=exif(orientation))
    with Image.open(io.BytesIO(data)) as pillow:
        expected = np.asarray(ImageOps.exif_transpose(pillow).convert("RGB"))
    photo = decode_photo(data)
    assert np.array_equal(photo.rgb, expected)
    assert (photo.height, photo.width) == expected.shape[:2]
    assert (photo.width > photo.height) == (orientation < 5)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_pil_image_is_turned_too(orientation: int, encoded: Encode) -> None:
    data = encoded(NOISE, "PNG", exif=exif(orientation))
    with Image.open(io.BytesIO(data)) as pillow:
        assert np.array_equal(as_rgb(pillow), decode_photo(data).rgb)


def test_a_turned_photo_decoded_at_a_reduced_scale_keeps_its_full_size(encoded: Encode) -> None:
    photo = decode_photo(encoded(Image.new("RGB", (801, 400)), "JPEG", exif=exif(6)), 100)
    assert (photo.width, photo.height) == (400, 801)
    assert photo.rgb.shape == (201, 100, 3)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientations_that_do_not_exist_change_nothing(orientation: int, encoded: Encode) -> None:
    assert np.array_equal(decode_photo(encoded(NOISE, exif=exif(orientation))).rgb, NOISE)


@pytest.mark.parametrize("block", [b"", b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"garbage", b"\xff" * 200])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_broken_exif_costs_nothing_but_its_facts(block: bytes, encoded: Encode) -> None:
    photo = decode_photo(encoded(NOISE, exif=block))
    assert np.array_equal(photo.rgb, NOISE)
    assert (photo.taken, photo.latitude, photo.longitude) == (None, None, None)


def taken_of(encoded: Encode, original: object, changed: object = None) -> float | None:
    block = exif(details={0x9003: original} if original is not None else {})
    if changed is not None:
        block[0x0132] = changed
    return decode_photo(encoded(NOISE, "JPEG", exif=block)).taken


def test_the_date_is_the_cameras_wall_clock(encoded: Encode) -> None:
    expected = datetime(2020, 2, 29, 23, 59, 58, tzinfo=timezone.utc).timestamp()
    assert taken_of(encoded, "2020:02:29 23:59:58") == expected
    assert taken_of(encoded, "2020:02:29 23:59:58\0\0") == expected
    assert taken_of(encoded, None, "2020:02:29 23:59:58") == expected
    assert taken_of(encoded, "2020:02:29 23:59:58", "2021:01:01 00:00:00") == expected


def test_an_unset_camera_clock_gives_way_to_the_date_of_the_file(encoded: Encode) -> None:
    expected = datetime(2021, 1, 1, tzinfo=timezone.utc).timestamp()
    assert taken_of(encoded, "0000:00:00 00:00:00", "2021:01:01 00:00:00") == expected


@pytest.mark.parametrize(
    "date",
    ["0000:00:00 00:00:00", "2021:02:30 00:00:00", "2021-01-01 00:00:00", "    :  :     :  :  ", "soon", "x" * 500],
)
def test_bad_dates_are_no_dates(date: str, encoded: Encode) -> None:
    assert taken_of(encoded, date) is None


def test_dates_before_1970(encoded: Encode) -> None:
    assert taken_of(encoded, "1969:12:31 23:59:59") == -1


def place_of(encoded: Encode, **gps: Any) -> tuple[float | None, float | None]:
    names = {"lat_ref": 1, "lat": 2, "lon_ref": 3, "lon": 4}
    photo = decode_photo(encoded(NOISE, "JPEG", exif=exif(gps={names[name]: value for name, value in gps.items()})))
    return photo.latitude, photo.longitude


@pytest.mark.parametrize(("south", "west"), [("N", "E"), ("S", "E"), ("N", "W"), ("S", "W"), ("s", "w")])
def test_places_south_and_west_are_negative(south: str, west: str, encoded: Encode) -> None:
    found = place_of(encoded, lat_ref=south, lat=(33.0, 51.0, 35.9), lon_ref=west, lon=(151.0, 12.0, 40.0))
    latitude = 33 + 51 / 60 + 35.9 / 3600
    longitude = 151 + 12 / 60 + 40 / 3600
    signs = (-1 if south in "Ss" else 1, -1 if west in "Ww" else 1)
    assert found == (pytest.approx(signs[0] * latitude, abs=1e-6), pytest.approx(signs[1] * longitude, abs=1e-6))


@pytest.mark.parametrize("latitude", [(91.0, 0.0, 0.0), (1.0, 2.0), (90.0, 0.0, 1.0), 7.0])
def test_impossible_places_are_no_places(latitude: object, encoded: Encode) -> None:
    assert place_of(encoded, lat_ref="N", lat=latitude, lon_ref="E", lon=(1.0, 2.0, 3.0)) == (None, None)


@pytest.mark.parametrize("values", [(float("nan"), 0, 0), (-1, 0, 0), (float("inf"), 0, 0), "abc", None, 5, (1, 2)])
def test_degrees_that_are_none(values: object) -> None:
    assert module._degrees(values, "N", "S", 90) is None


def test_half_a_place_is_none(encoded: Encode) -> None:
    assert place_of(encoded, lat_ref="N", lat=(1.0, 2.0, 3.0)) == (None, None)


# -- HEIC ----------------------------------------------------------------------------------------------------------


def heic(**options: Any) -> bytes:
    pytest.importorskip("pillow_heif")
    assert heic_supported()
    file = io.BytesIO()
    Image.fromarray(np.repeat(NOISE // 4 + 90, 2, axis=0)).save(file, "HEIF", quality=90, **options)
    return file.getvalue()


def test_heic_with_the_decoder() -> None:
    photo = decode_photo(heic())
    assert (photo.width, photo.height) == (60, 80)
    assert abs(int(photo.rgb.mean()) - int((NOISE // 4 + 90).mean())) < 4


def test_the_container_turns_a_heic_and_its_exif_is_not_applied_again() -> None:
    plain, tagged = decode_photo(heic()), decode_photo(heic(exif=exif(6)))
    assert (tagged.width, tagged.height) == (60, 80)
    assert np.array_equal(plain.rgb, tagged.rgb)


def test_heic_without_the_decoder_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    data = heic()
    monkeypatch.setattr(module, "_register_heic", lambda: False)
    with pytest.raises(PhotoSkipped) as caught:
        decode_photo(data)
    assert caught.value.reason is SkipReason.HEIC_SUPPORT_MISSING
    assert "magicmm[heic]" in caught.value.remedy
    assert caught.value.reason.is_transient


# -- pictures that are decoded already -----------------------------------------------------------------------------


def test_an_array_passes_unchanged() -> None:
    assert np.array_equal(as_rgb(NOISE), NOISE)
    assert as_rgb(NOISE[::2, ::-1]).flags["C_CONTIGUOUS"]


@pytest.mark.parametrize(
    "image",
    [
        None,
        7,
        [[1, 2, 3]],
        NOISE[..., 0],
        NOISE.astype(np.float32),
        NOISE.astype(np.int8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
    ],
    ids=["none", "number", "list", "grey", "float", "int8", "rgba", "empty", "batch"],
)
def test_other_things_are_no_pictures(image: object) -> None:
    with pytest.raises(PhotoSkipped) as caught:
        as_rgb(image)
    assert caught.value.reason is SkipReason.UNSUPPORTED_PIXELS
    assert caught.value.remedy


def test_a_lazily_opened_broken_pil_image_is_skipped(encoded: Encode) -> None:
    data = encoded(NOISE, "BMP")
    with Image.open(io.BytesIO(data[:-500])) as lazy, pytest.raises(PhotoSkipped) as caught:
        as_rgb(lazy)
    assert caught.value.reason is SkipReason.TRUNCATED


def test_a_floating_point_pil_image_is_refused() -> None:
    with pytest.raises(PhotoSkipped) as caught:
        as_rgb(Image.new("F", (3, 3)))
    assert caught.value.reason is SkipReason.UNSUPPORTED_PIXELS
