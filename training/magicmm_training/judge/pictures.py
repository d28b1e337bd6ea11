"""Pictures for models that bring their own preprocessing: decoded as our own models see them."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from PIL import Image

from magicmm.image import decode_photo
from magicmm_training.entries import image_bytes

if TYPE_CHECKING:
    from magicmm_training.judge.message import Picture

_LONGEST = 2048
"""Longest side in pixels: a page stays readable, a request stays small."""


def decoded(picture: Picture) -> Image.Image:
    """Return a picture upright, in RGB, no larger than 2,048 pixels.

    Raises:
        PhotoSkipped: `image_invalid` with the reason.
    """
    image = Image.fromarray(decode_photo(image_bytes(picture.image)).rgb)
    image.thumbnail((_LONGEST, _LONGEST))
    return image


def png(picture: Picture) -> bytes:
    """Return a picture as the bytes of a PNG file; see `decoded`."""
    file = BytesIO()
    decoded(picture).save(file, "PNG")
    return file.getvalue()
