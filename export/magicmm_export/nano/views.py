"""Make the two views of a photo that the image graph takes, and the pictures that calibrate it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from magicmm_export.nano.graph import Array
from magicmm_export.nano.image import SIDE

SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})


def views(image: Image.Image) -> Array:
    """Return the centre crop and the squashed whole as uint8 [2, 256, 256, 3]; transparency becomes white."""
    picture = _opaque(image)
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    crop = picture.crop((left, top, left + side, top + side))
    resized = [part.resize((SIDE, SIDE), Image.Resampling.BICUBIC) for part in (crop, picture)]
    return np.stack([np.asarray(part, np.uint8) for part in resized])


def folder_views(folder: Path) -> Iterator[Array]:
    """Yield the views of the photos directly in a folder, by name."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES:
            with Image.open(path) as image:
                yield views(image)


def synthetic_views(count: int, seed: int = 0) -> Iterator[Array]:
    """Yield pictures of smooth noise at several grains: colours and contrasts that few photos reach."""
    random = np.random.default_rng(seed)
    for index in range(count):
        grain = 2 ** (2 + index % 6)
        noise = Image.fromarray(random.integers(0, 256, (grain, grain, 3), np.uint8))
        yield views(noise.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _opaque(image: Image.Image) -> Image.Image:
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layer).convert("RGB")
