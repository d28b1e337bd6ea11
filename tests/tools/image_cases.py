"""Cases for resize.json, views.json and tiling.json; pixels come from SHAKE-256, the same everywhere."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from magicmm.image import as_rgb, render_tiles, render_views, resize
from magicmm.manifest import ImageSpec
from magicmm.tiling import tile_boxes

Pixels = NDArray[np.uint8]

_SIZES = (
    # source width, height, target width, height
    *((8, 8, 4, 4), (8, 8, 16, 16), (8, 8, 8, 8), (8, 8, 8, 4), (8, 8, 4, 8), (7, 5, 3, 2), (5, 7, 11, 13)),
    *((1, 1, 1, 1), (1, 1, 9, 7), (1, 9, 4, 4), (9, 1, 4, 4), (9, 7, 1, 1), (1, 40, 1, 16), (40, 1, 16, 1)),
    *((2, 2, 3, 3), (3, 3, 2, 2), (16, 16, 15, 17), (17, 15, 16, 16), (33, 31, 16, 16), (31, 33, 32, 32)),
    *((500, 3, 8, 8), (3, 500, 8, 8), (700, 1, 3, 5), (1, 700, 5, 3), (64, 48, 16, 16), (48, 64, 16, 12)),
    *((60, 40, 59, 39), (20, 30, 40, 60), (13, 13, 26, 7), (100, 10, 7, 70)),
)
_BOXES = (
    # source width, height, box left, top, right, bottom, target width, height
    *((20, 16, 2, 0, 18, 16, 8, 8), (16, 20, 0, 2, 16, 18, 8, 8), (20, 16, 3, 5, 4, 6, 6, 6)),
    *((20, 16, 0, 0, 1, 16, 8, 8), (20, 16, 19, 15, 20, 16, 2, 2), (20, 16, 5, 4, 13, 12, 8, 8)),
    *((20, 16, 5, 4, 13, 12, 16, 16), (31, 17, 7, 0, 24, 17, 10, 10), (40, 30, 1, 1, 39, 29, 20, 10)),
    *((9, 9, 8, 0, 9, 9, 5, 5), (50, 20, 15, 0, 35, 20, 12, 12)),
)
_MORE_SIZES = 64
_VIEW_SIZES = ((16, 16), (24, 16), (16, 24), (25, 16), (16, 25), (1, 1), (40, 3), (3, 40), (15, 8), (7, 6))


def noise(name: str, width: int, height: int, channels: int = 3) -> Pixels:
    """Return pixels that depend on `name` alone."""
    data = hashlib.shake_256(name.encode()).digest(width * height * channels)
    return np.frombuffer(data, np.uint8).reshape(height, width, channels)


def edges(width: int, height: int) -> Pixels:
    """Return black and white columns and rows: overshoot that must be clipped at both ends."""
    grid = (np.arange(width)[None, :] // 2 + np.arange(height)[:, None] // 3) % 2
    return np.repeat((grid * 255).astype(np.uint8)[:, :, None], 3, axis=2)


def picture(pixels: Pixels) -> dict[str, Any]:
    """Return the JSON form of a picture."""
    height, width, channels = pixels.shape
    return {"width": width, "height": height, "channels": channels, "pixels": _base64(pixels.tobytes())}


def pixels_of(entry: dict[str, Any]) -> Pixels:
    """Read the JSON form of a picture."""
    data = base64.b64decode(entry["pixels"], validate=True)
    return np.frombuffer(data, np.uint8).reshape(entry["height"], entry["width"], entry["channels"])


def resizes() -> list[dict[str, Any]]:
    """Return the cases of resize.json."""
    cases = []
    for width, height, *size in _SIZES:
        name = f"noise {width}x{height} to {size[0]}x{size[1]}"
        cases.append(_resize_case(name, noise(name, width, height), (0, 0, width, height), (size[0], size[1])))
    for width, height, left, top, right, bottom, *size in _BOXES:
        name = f"noise {width}x{height} box {left},{top},{right},{bottom} to {size[0]}x{size[1]}"
        cases.append(_resize_case(name, noise(name, width, height), (left, top, right, bottom), (size[0], size[1])))
    for number in range(_MORE_SIZES):
        width, height, *size = (1 + side % 30 for side in hashlib.shake_256(f"sizes {number}".encode()).digest(4))
        name = f"noise {number} {width}x{height} to {size[0]}x{size[1]}"
        cases.append(_resize_case(name, noise(name, width, height), (0, 0, width, height), (size[0], size[1])))
    for width, height, *size in ((16, 12, 40, 30), (40, 30, 16, 12), (12, 12, 5, 31)):
        name = f"edges {width}x{height} to {size[0]}x{size[1]}"
        cases.append(_resize_case(name, edges(width, height), (0, 0, width, height), (size[0], size[1])))
    return cases


def _resize_case(name: str, rgb: Pixels, box: tuple[int, int, int, int], size: tuple[int, int]) -> dict[str, Any]:
    given = {"image": picture(rgb), "box": list(box), "size": list(size)}
    return {"name": name, "input": given, "expect": picture(resize(rgb, size, box)), "tolerance": 0}


def views() -> list[dict[str, Any]]:
    """Return the cases of views.json: everything exact between the decoder and the graph, but for the resize."""
    cases = []
    for width, height in _VIEW_SIZES:
        for names in (("crop",), ("squash",), ("crop", "squash")):
            rgb = noise(f"view {width}x{height}", width, height)
            stack = render_views(rgb, ImageSpec(8, names))
            given = {"operation": "views", "image": picture(rgb), "side": 8, "views": list(names)}
            cases.append(_case(f"{'+'.join(names)} of {width}x{height}", given, stack))
    for width, height, most in ((16, 16, 4), (33, 16, 4), (16, 50, 4), (20, 20, 1), (30, 20, 6)):
        rgb = noise(f"tiles {width}x{height}", width, height)
        given = {"operation": "tiles", "image": picture(rgb), "side": 8, "max_tiles": most}
        cases.append(_case(f"up to {most} tiles of {width}x{height}", given, render_tiles(rgb, 8, most)))
    # Every alpha meets every eighth level of colour.
    alpha, level = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(0, 256, 8, dtype=np.uint8))
    rgba = np.stack([level, 255 - level, level // 2, alpha], axis=2)
    given = {"operation": "alpha_on_white", "image": picture(rgba)}
    cases.append(_case("alpha on white", given, as_rgb(Image.fromarray(rgba, "RGBA"))[None]))
    samples = [0, 1, 127, 128, 255, 256, 257, 32767, 32768, 65279, 65280, 65535]
    grey = as_rgb(Image.fromarray(np.array([samples], np.uint16)))
    cases.append(_case("16-bit grey keeps the high byte", {"operation": "grey16", "samples": samples}, grey[None]))
    for orientation in range(1, 9):
        rgb = noise("orientation", 4, 3)
        image = Image.fromarray(rgb)
        image.getexif()[0x0112] = orientation
        given = {"operation": "upright", "image": picture(rgb), "orientation": orientation}
        cases.append(_case(f"orientation {orientation}", given, as_rgb(image)[None]))
    return cases


def tilings() -> list[dict[str, Any]]:
    """Return the cases of tiling.json."""
    sizes = [(448, 448), (896, 448), (448, 896), (1344, 448), (1000, 700), (700, 1000), (1, 1), (1, 5000), (5000, 1)]
    sizes += [(640, 480), (4000, 3000), (3000, 4000), (1920, 1080), (1080, 2400), (300, 200), (449, 448), (448, 449)]
    sizes += [(672, 448), (634, 634), (635, 635), (447, 894), (560, 448), (2480, 3508), (20000, 1), (333, 1000)]
    cases = []
    for width, height in sizes:
        for most in (1, 2, 4, 6, 12, 40):
            columns, rows, boxes = tile_boxes(width, height, 448, most)
            given = {"width": width, "height": height, "side": 448, "max_tiles": most}
            expect = {"columns": columns, "rows": rows, "left_top": [list(box) for box in boxes]}
            cases.append({"name": f"{width}x{height} in {most}", "input": given, "expect": expect, "tolerance": 0})
    return cases


def _case(name: str, given: dict[str, Any], stack: Pixels) -> dict[str, Any]:
    return {"name": name, "input": given, "expect": [picture(pixels) for pixels in stack], "tolerance": 0}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
