"""From the bytes of a photo to the pixels a graph reads: decode, EXIF orientation, RGB, views (docs/FORMAT.md, part 2).

Only the decoder may differ between platforms. What follows it is integer arithmetic that every language reproduces
bit for bit: Pillow's 8-bit bicubic resize over a whole picture or an integer box of it.
"""

from __future__ import annotations

import contextlib
import io
import math
import struct
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from magicmm.errors import PhotoSkipped, SkipReason
from magicmm.tiling import tile_boxes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magicmm.manifest import ImageSpec

    RgbImage = NDArray[np.uint8]
    """uint8 [height, width, 3], upright, sRGB values as decoded."""

# The formats of photo libraries. Formats whose readers start other programs (EPS) or hide other files are left out.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
MAX_PIXELS = 256_000_000
"""A header that announces more is refused: no camera makes it, and bombs do."""
MAX_DECODED_PIXELS = 100_000_000
"""What may be unpacked into memory at once, after the reduced-scale decoding that JPEG allows (300 MB as RGB)."""
_BACKGROUND = (255, 255, 255)
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"hevm", b"mif1", b"msf1")


@dataclass(frozen=True, slots=True)
class DecodedPhoto:
    """An upright photo and what its header says of it.

    Attributes:
        rgb: uint8 [h, w, 3]; possibly decoded at a reduced scale.
        width: Pixels of the full, upright photo.
        height: Pixels of the full, upright photo.
        taken: The camera's wall clock as seconds since 1970-01-01 00:00 of that same clock, or None.
        latitude: Degrees north, or None.
        longitude: Degrees east, or None.
    """

    rgb: RgbImage
    width: int
    height: int
    taken: float | None
    latitude: float | None
    longitude: float | None


def decode_photo(data: bytes, min_side: int = 0) -> DecodedPhoto:
    """Decode the bytes of one photo.

    Args:
        data: The whole file.
        min_side: Let JPEG decode at 1/2, 1/4 or 1/8 as long as both sides stay at least this long; 0 = full scale.

    Raises:
        PhotoSkipped: With the `SkipReason`, whatever is wrong with the bytes.
    """
    if not data:
        raise PhotoSkipped(SkipReason.EMPTY_FILE, "The file has no bytes.")
    try:
        image = _open(data)
        full_size = image.size
        if math.prod(full_size) > MAX_PIXELS:
            raise _too_large(full_size, MAX_PIXELS)
        if min_side:
            image.draft(None, (min_side, min_side))
        if math.prod(image.size) > MAX_DECODED_PIXELS:
            raise _too_large(image.size, MAX_DECODED_PIXELS)
        taken, latitude, longitude = _read_exif(image)
        image.load()  # TIFF turns upright by itself here, and its header gave the upright size
        turned = _orientation(image) >= 5
        upright = _to_rgb(_upright(image))
    except PhotoSkipped:
        raise
    except MemoryError:
        raise PhotoSkipped(SkipReason.TOO_MANY_PIXELS, "The photo does not fit in memory.") from None
    except Exception as error:  # decoders raise anything on broken bytes; the photo is skipped with what they said
        raise _decoding_failed(error) from None
    width, height = reversed(full_size) if turned else full_size
    return DecodedPhoto(np.asarray(upright), width, height, taken, latitude, longitude)


def as_rgb(image: object) -> RgbImage:
    """Accept a decoded picture: uint8 [h, w, 3], or a PIL image (turned upright).

    Raises:
        PhotoSkipped: For anything else.
    """
    if isinstance(image, Image.Image):
        try:
            return np.asarray(_to_rgb(_upright(image)))
        except PhotoSkipped:
            raise
        except Exception as error:  # a lazily opened PIL image decodes here
            raise _decoding_failed(error) from None
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[2:] == (3,) and image.size:
        return np.ascontiguousarray(image)
    found = f"{type(image).__name__} {getattr(image, 'dtype', '')}{getattr(image, 'shape', '')}".strip()
    raise PhotoSkipped(
        SkipReason.UNSUPPORTED_PIXELS,
        f"An image must be a path, bytes, a PIL image or uint8 [height, width, 3], got {found}.",
        "Convert it first, for example with numpy.asarray(pil_image.convert('RGB')).",
    )


def render_views(rgb: RgbImage, spec: ImageSpec) -> NDArray[np.uint8]:
    """Resize one photo into the views of a bundle.

    `crop` is the centred square of side min(w, h) at integer offsets, `squash` the whole photo.

    Returns:
        uint8 [views, side, side, 3].
    """
    height, width = rgb.shape[:2]
    short = min(height, width)
    left, top = (width - short) // 2, (height - short) // 2
    boxes = {"crop": (left, top, left + short, top + short), "squash": (0, 0, width, height)}
    return np.stack([resize(rgb, (spec.side, spec.side), boxes[view]) for view in spec.views])


def render_tiles(rgb: RgbImage, side: int, max_tiles: int) -> NDArray[np.uint8]:
    """Cut a document into tiles by InternVL's rule, plus a thumbnail when there is more than one (paper section 1.2).

    Returns:
        uint8 [tiles, side, side, 3].
    """
    height, width = rgb.shape[:2]
    columns, rows, boxes = tile_boxes(width, height, side, max_tiles)
    sheet = resize(rgb, (columns * side, rows * side), (0, 0, width, height))
    tiles = [sheet[top : top + side, left : left + side] for left, top in boxes]
    if len(tiles) > 1:
        tiles.append(resize(rgb, (side, side), (0, 0, width, height)))
    return np.stack(tiles)


def resize(rgb: RgbImage, size: tuple[int, int], box: tuple[int, int, int, int]) -> RgbImage:
    """Resize the box (left, top, right, bottom) of a picture to (width, height): 8-bit bicubic, across first."""
    left, top, right, bottom = box
    part = Image.fromarray(np.ascontiguousarray(rgb[top:bottom, left:right]))
    # One axis a call: Pillow 13 takes the rows of tall pictures first, older ones never do, and the bytes differ.
    across = part.resize((size[0], part.height), Image.Resampling.BICUBIC)
    return np.asarray(across.resize(size, Image.Resampling.BICUBIC))


def heic_supported() -> bool:
    """Say whether HEIC photos can be read (the `heic` extra)."""
    return _register_heic()


@cache
def _register_heic() -> bool:
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _open(data: bytes) -> Image.Image:
    is_heic = data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS
    if is_heic and not _register_heic():
        raise PhotoSkipped(
            SkipReason.HEIC_SUPPORT_MISSING,
            "HEIC photos need the optional decoder.",
            'Run: pip install "magicmm[heic]", then index again.',
        )
    try:
        return Image.open(io.BytesIO(data), formats=_formats(is_heic))
    except Image.DecompressionBombError as error:
        # Pillow stops at 179 million pixels; cameras with 200 million exist and JPEG decodes them at a reduced scale.
        if data[:3] != b"\xff\xd8\xff":
            raise PhotoSkipped(SkipReason.TOO_MANY_PIXELS, str(error)) from None
        from PIL.JpegImagePlugin import JpegImageFile

        return JpegImageFile(io.BytesIO(data))


@cache
def _formats(is_heic: bool) -> tuple[str, ...]:
    """Return the formats to try; Pillow raises KeyError for one that its build lacks."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN and (name != "HEIF" or is_heic))


def _orientation(image: Image.Image) -> int:
    with contextlib.suppress(Exception):  # a broken EXIF block says nothing of the pixels
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
        if isinstance(value, int) and 1 <= value <= 8:
            return value
    return 1


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode.startswith("I"):
        return Image.fromarray(_high_byte(np.asarray(image))).convert("RGB")
    if image.mode == "F":
        raise PhotoSkipped(SkipReason.UNSUPPORTED_PIXELS, "Pixels are floating-point numbers of unknown range.")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        layer = image.convert("RGBA")
        paper = Image.new("RGB", layer.size, _BACKGROUND)
        paper.paste(layer, mask=layer.getchannel("A"))
        return paper
    return image.convert("RGB")


def _high_byte(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Reduce 16-bit samples to 8 bits; Pillow's own conversion clips them all to white."""
    wide = values.astype(np.int64)
    if wide.min() < 0 or wide.max() > 0xFFFF:
        raise PhotoSkipped(SkipReason.UNSUPPORTED_PIXELS, "Pixels are 32-bit numbers of unknown range.")
    return (wide >> 8).astype(np.uint8)


def _read_exif(image: Image.Image) -> tuple[float | None, float | None, float | None]:
    with contextlib.suppress(Exception):  # a broken EXIF block costs the date and the place, not the photo
        exif = image.getexif()
        details = exif.get_ifd(ExifTags.IFD.Exif)
        taken = _taken(details.get(ExifTags.Base.DateTimeOriginal))
        if taken is None:  # cameras with an unset clock write zeros
            taken = _taken(exif.get(ExifTags.Base.DateTime))
        return taken, *_location(exif.get_ifd(ExifTags.IFD.GPSInfo))
    return None, None, None


def _taken(value: object) -> float | None:
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value or "")
    with contextlib.suppress(ValueError, OverflowError):
        return datetime.strptime(text.strip("\0 ")[:19], "%Y:%m:%d %H:%M:%S").replace(tzinfo=timezone.utc).timestamp()
    return None


def _location(gps: dict[int, object]) -> tuple[float | None, float | None]:
    latitude = _degrees(gps.get(ExifTags.GPS.GPSLatitude), gps.get(ExifTags.GPS.GPSLatitudeRef), "S", 90)
    longitude = _degrees(gps.get(ExifTags.GPS.GPSLongitude), gps.get(ExifTags.GPS.GPSLongitudeRef), "W", 180)
    return (None, None) if latitude is None or longitude is None else (latitude, longitude)


def _degrees(value: object, reference: object, negative: str, limit: int) -> float | None:
    with contextlib.suppress(TypeError, ValueError, ZeroDivisionError, struct.error):
        degrees, minutes, seconds = (float(part) for part in value)  # type: ignore[attr-defined]
        angle = degrees + minutes / 60 + seconds / 3600
        if math.isfinite(angle) and 0 <= angle <= limit:
            return -angle if str(reference).strip("\0 ").upper() == negative else angle
    return None


def _too_large(size: tuple[int, int], limit: int) -> PhotoSkipped:
    width, height = size
    return PhotoSkipped(SkipReason.TOO_MANY_PIXELS, f"{width} x {height} pixels; at most {limit // 10**6} million.")


def _decoding_failed(error: Exception) -> PhotoSkipped:
    if isinstance(error, UnidentifiedImageError):
        return PhotoSkipped(SkipReason.NOT_AN_IMAGE, "The content is no photo format that this SDK reads.")
    said = " ".join(str(error).split())[:200] or type(error).__name__
    if "truncated" in said.lower():
        return PhotoSkipped(SkipReason.TRUNCATED, f"The file ends too early ({said}).")
    return PhotoSkipped(SkipReason.DECODE_FAILED, f"The decoder stopped: {said}.")
