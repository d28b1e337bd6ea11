"""Pictures of scenes: anti-aliased shapes on a tinted, cluttered ground."""

from __future__ import annotations

import io
from random import Random
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from magicmm_training.scenes.world import GRID

if TYPE_CHECKING:
    from magicmm_training.scenes.world import Scene, Thing

CELL = 32
"""Pixels along one side of a cell."""
SIDE = CELL * GRID
"""Pixels along one side of a picture."""
_FINE = 4
"""Drawn this many times larger, then averaged."""
_RADII = (0.27, 0.42)
"""Smallest and largest of a thing, in cells."""
_JITTER = 0.06
"""Farthest from the middle of the cell, in cells."""
_RGB = {
    "red": (214, 40, 40),
    "green": (46, 160, 67),
    "blue": (38, 84, 214),
    "yellow": (240, 205, 30),
    "purple": (140, 50, 180),
}
Point = tuple[float, float]


def draw(scene: Scene, look: str) -> Image.Image:
    """Return a picture of a scene.

    Args:
        scene: What is shown.
        look: Decides all that words do not name: places within cells, sizes and hues, ground and clutter.

    Returns:
        RGB, `SIDE` x `SIDE`; the same scene and look always give the same pixels.
    """
    random = Random(f"look {look}")  # noqa: S311, no secrets here
    side = SIDE * _FINE
    ground = tuple(220 + random.randint(-12, 12) for _ in range(3))
    image = Image.new("RGB", (side, side), ground)
    pen = ImageDraw.Draw(image)
    for _ in range(random.randint(2, 6)):
        _clutter(pen, side, ground, random)
    for thing in scene.things:
        _draw_thing(pen, thing, random)
    return image.reduce(_FINE)


def png(scene: Scene, look: str) -> bytes:
    """Return the picture as a PNG file."""
    buffer = io.BytesIO()
    draw(scene, look).save(buffer, "PNG")
    return buffer.getvalue()


def _clutter(pen: ImageDraw.ImageDraw, side: int, ground: tuple[int, ...], random: Random) -> None:
    """Draw a thin line or a speck, a little darker than the ground: never what a caption speaks of."""
    grey = tuple(max(0, value - random.randint(20, 45)) for value in ground)
    x, y = random.uniform(0, side), random.uniform(0, side)
    if random.random() < 0.5:
        pen.line((x, y, random.uniform(0, side), random.uniform(0, side)), grey, width=_FINE)
    else:
        pen.ellipse((x - _FINE, y - _FINE, x + _FINE, y + _FINE), grey)


def _draw_thing(pen: ImageDraw.ImageDraw, thing: Thing, random: Random) -> None:
    unit = CELL * _FINE
    x = (thing.column + 0.5 + random.uniform(-_JITTER, _JITTER)) * unit
    y = (thing.row + 0.5 + random.uniform(-_JITTER, _JITTER)) * unit
    radius = random.uniform(*_RADII) * unit
    hue = tuple(min(255, max(0, value + random.randint(-14, 14))) for value in _RGB[thing.colour])
    if thing.shape == "ring":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=hue, width=round(_BAND * radius))
    else:
        pen.polygon([(x + radius * u, y + radius * v) for u, v in _OUTLINES[thing.shape]], hue)


_BAND = 0.5
"""Width of a ring's line, in radii."""
_OUTLINES: dict[str, list[Point]] = {
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "cross": [
        *((0.35, 1.0), (0.35, 0.35), (1.0, 0.35), (1.0, -0.35), (0.35, -0.35), (0.35, -1.0)),
        *((-0.35, -1.0), (-0.35, -0.35), (-1.0, -0.35), (-1.0, 0.35), (-0.35, 0.35), (-0.35, 1.0)),
    ],
}
"""Corners in radii, y downwards."""
