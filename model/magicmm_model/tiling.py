"""A picture to the tiles that the vision tower reads (paper fact sheet 1.2).

Decoding, resizing and InternVL's tiling rule are those of the SDK: a model is trained on exactly the pixels that a
phone will show it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from magicmm.image import as_rgb, decode_photo, render_tiles
from magicmm.reading import read_photo
from magicmm.tiling import tile_grid

if TYPE_CHECKING:
    from torch import Tensor


def photo_tiles(image: object, side: int, max_tiles: int = 1) -> Tensor:
    """Return the tiles of one picture, row by row, and a thumbnail after them when there is more than one.

    Args:
        image: A path, the bytes of a file, a PIL image, or uint8 [h, w, 3].
        side: Side of a tile in pixels.
        max_tiles: 1 for photos, 4 for documents.

    Returns:
        uint8 [tiles, side, side, 3].

    Raises:
        PhotoSkipped: `image_invalid` with the reason, for anything that is no picture.
    """
    if isinstance(image, (str, os.PathLike)):
        image = read_photo(Path(image))[0]
    if isinstance(image, (bytearray, memoryview)):
        image = bytes(image)
    # Decoded at no less than twice what the model sees, like the SDK.
    rgb = decode_photo(image, 2 * side * max_tiles).rgb if isinstance(image, bytes) else as_rgb(image)
    return torch.from_numpy(render_tiles(rgb, side, max_tiles))


def count_tiles(width: int, height: int, side: int, max_tiles: int) -> int:
    """Return how many tiles `photo_tiles` cuts a picture of this size into, thumbnail included."""
    columns, rows = tile_grid(width, height, side, max_tiles)
    return columns * rows + (columns * rows > 1)
