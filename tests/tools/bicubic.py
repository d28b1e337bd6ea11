"""Pillow's 8-bit bicubic resize written again from its description in docs/FORMAT.md, part 2: the recipe for ports.

Nothing here calls Pillow; `tests/test_image.py` holds the two against each other.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

PRECISION_BITS = 22
"""Coefficients are integers in units of 2^-22; an 8-bit pixel times a coefficient stays below 2^31."""
_SUPPORT = 2.0


def bicubic(x: float) -> float:
    """Return Keys' cubic with a = -0.5, in the order of operations that ports must keep."""
    x = abs(x)
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    if x < 2.0:
        return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return 0.0


def coefficients(length: int, target: int) -> list[tuple[int, list[int]]]:
    """Return, for each output pixel of one axis, its first input pixel and the integer weights from there on."""
    scale = length / target
    stretch = max(scale, 1.0)
    support = _SUPPORT * stretch
    rows = []
    for place in range(target):
        centre = (place + 0.5) * scale
        first = max(int(centre - support + 0.5), 0)
        stop = min(int(centre + support + 0.5), length)
        weights = [bicubic((pixel - centre + 0.5) * (1.0 / stretch)) for pixel in range(first, stop)]
        total = 0.0
        for weight in weights:
            total += weight
        rows.append((first, [_fixed(weight / total if total else weight) for weight in weights]))
    return rows


def resize(rgb: NDArray[np.uint8], size: tuple[int, int], box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Resize the box (left, top, right, bottom) to (width, height): columns first, rounded to bytes, then rows."""
    left, top, right, bottom = box
    width, height = size
    part = rgb[top:bottom, left:right]
    if width != right - left:
        part = _pass(part.transpose(1, 0, 2), width).transpose(1, 0, 2)
    if height != bottom - top:
        part = _pass(part, height)
    return np.ascontiguousarray(part)


def _pass(part: NDArray[np.uint8], target: int) -> NDArray[np.uint8]:
    """Resample the first axis."""
    wide: NDArray[Any] = part.astype(np.int64)
    out = np.empty((target, *part.shape[1:]), np.uint8)
    for place, (first, weights) in enumerate(coefficients(len(part), target)):
        column = np.array(weights, np.int64).reshape(-1, 1, 1)
        total = (wide[first : first + len(weights)] * column).sum(axis=0) + (1 << (PRECISION_BITS - 1))
        out[place] = np.clip(total >> PRECISION_BITS, 0, 255)
    return out


def _fixed(weight: float) -> int:
    """Round half away from zero."""
    return math.trunc(weight * (1 << PRECISION_BITS) + (-0.5 if weight < 0 else 0.5))
