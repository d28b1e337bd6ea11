"""A picture of our own for golden cases."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def sample_scene() -> NDArray[np.uint8]:
    """Draw a scene with edges and gradients: sky, sun, hill, path. uint8 [72, 112, 3]."""
    y, x = np.mgrid[0:72, 0:112].astype(np.int64)
    rgb = np.stack([90 + y, 140 + y, 250 - y // 2], axis=2)
    rgb[(x - 84) ** 2 + (y - 18) ** 2 < 100] = (255, 224, 96)
    hill = y > 52 - (x * (111 - x)) // 160
    rgb[hill] = np.stack([40 + x // 3, 120 + (x * y) % 37, 50 + y // 4], axis=2)[hill]
    rgb[hill & (np.abs(x - 56 - (y - 60) // 3) < 3 + (y - 40) // 6)] = (190, 170, 140)
    return rgb.clip(0, 255).astype(np.uint8)
