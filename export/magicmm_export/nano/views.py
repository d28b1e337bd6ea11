"""The pictures that calibrate and check the image graph, as the SDK would hand them over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from magicmm.image import decode_photo, render_views, resize
from magicmm.manifest import ImageSpec
from magicmm_export.graph import Array
from magicmm_export.nano.image import SIDE

SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
SPEC = ImageSpec(SIDE, ("crop", "squash"))
"""Two views a photo; the graph makes the third itself."""


def folder_views(folder: Path) -> Iterator[Array]:
    """Yield the views of the photos directly in a folder, by name: uint8 [2, 256, 256, 3] each."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES:
            yield render_views(decode_photo(path.read_bytes()).rgb, SPEC)


def synthetic_views(count: int, seed: int = 0) -> Iterator[Array]:
    """Yield views of smooth noise at several grains: colours and contrasts that few photos reach."""
    random = np.random.default_rng(seed)
    for index in range(count):
        grain = 2 ** (2 + index % 6)
        noise = random.integers(0, 256, (grain, grain, 3), np.uint8)
        yield render_views(resize(noise, (SIDE, SIDE), (0, 0, grain, grain)), SPEC)
