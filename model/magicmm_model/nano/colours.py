"""The colours of a photo as a vector of words: the classes of a photo network say little of them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

COLOURS = {
    "red": (200, 30, 35),
    "orange": (235, 130, 30),
    "yellow": (240, 215, 50),
    "green": (60, 130, 50),
    "blue": (45, 85, 185),
    "purple": (115, 50, 140),
    "pink": (240, 150, 180),
    "brown": (120, 75, 40),
    "black": (20, 20, 20),
    "white": (240, 240, 240),
    "grey": (130, 130, 130),
}
"""The eleven basic colour words of English, and an sRGB value that each stands for."""
STEP = 4
"""Every fourth pixel in both directions is looked at."""
LEVELS = 16
"""Of each channel that are told apart."""
_WHITE = (0.9505, 1.0, 1.089)
_TO_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))

Codes = NDArray[np.uint8]


class ColourWords(nn.Module):
    """Shares of colour words in a picture weigh the words' vectors."""

    def __init__(self, width: int) -> None:
        """Allocate; nothing of it is trained."""
        super().__init__()
        self.register_buffer("vectors", torch.zeros(len(COLOURS), width))
        self.register_buffer("table", torch.from_numpy(nearest_colours()), persistent=False)

    vectors: Tensor
    table: Tensor

    def forward(self, pixels: Tensor) -> Tensor:
        """Return unit vectors [n, width] of pictures, uint8 [n, height, width, 3]."""
        levels = pixels[:, ::STEP, ::STEP].long() // (256 // LEVELS)
        places = (levels[..., 0] * LEVELS + levels[..., 1]) * LEVELS + levels[..., 2]
        shares = functional.one_hot(self.table[places.flatten(1)].long(), len(COLOURS)).float().mean(1)
        return functional.normalize(shares.sqrt() @ self.vectors, dim=-1)


def nearest_colours() -> Codes:
    """Return the place in `COLOURS` of what is nearest in CIELAB to the middle of each cell of the RGB cube.

    uint8 [LEVELS ** 3], red counts most.
    """
    middle = (np.arange(LEVELS, dtype=np.float64) + 0.5) * (256 // LEVELS) - 0.5
    cube = np.stack(np.meshgrid(middle, middle, middle, indexing="ij"), -1).reshape(-1, 3)
    distances = np.square(cielab(cube)[:, None] - cielab(np.array(list(COLOURS.values()), np.float64))).sum(-1)
    return distances.argmin(1).astype(np.uint8)


def cielab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return CIELAB (D65) of sRGB values 0 to 255, [..., 3]."""
    shares = rgb / 255
    linear = np.where(shares > 0.04045, ((shares + 0.055) / 1.055) ** 2.4, shares / 12.92)
    xyz = linear @ np.array(_TO_XYZ).T / np.array(_WHITE)
    bent = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = bent[..., 0], bent[..., 1], bent[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def centred_words(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return unit rows of what tells the words' vectors apart: their mean says "colour", which all photos have."""
    centred = vectors - vectors.mean(0)
    rows: NDArray[np.float32] = (centred / np.linalg.norm(centred, axis=1, keepdims=True)).astype(np.float32)
    return rows
