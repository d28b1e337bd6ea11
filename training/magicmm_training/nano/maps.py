"""Made-up feature maps: noise of the kind that a network's last map holds, with directions of classes in places of it.

The teacher labels any map, so that no picture is needed; what comes out may be made from permissive parts alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magicmm_training.recipe import Maps

Floats = NDArray[np.float32]
GRID = 4
"""Rows and columns of cells."""
CEILING = 6.0
"""Activations are clipped as the network clips them."""
_SHARED, _OWN = 0.5, 0.7
"""Of the noise: part that all cells of a map have in common, and part of each cell's own."""
_CONTRAST = (0.3, 1.3)
_SPREAD = (0.5, 1.5)
_LEAST_AREA = 0.25
_SECOND = 0.8


@dataclass(frozen=True, slots=True)
class Scene:
    """A map and what was put into it.

    Attributes:
        cells: float32 [16, channels].
        classes: The classes put in, strongest first; empty for noise alone.
    """

    cells: Floats
    classes: tuple[int, ...]


class MapMaker:
    """Makes maps from a classifier's rows."""

    def __init__(self, classifier: Floats, options: Maps) -> None:
        """Take the classifier [classes, channels]."""
        centred = classifier - classifier.mean(0)
        self._directions = (centred / np.square(centred).sum(1, keepdims=True)).astype(np.float32)
        self._options = options

    def scene(self, rng: np.random.Generator) -> Scene:
        """Return a map, with other parts pasted in now and then."""
        made = self._plain(rng)
        if rng.random() < self._options.cutmix_share:
            other = self._plain(rng)
            made = paste(made, other, _rectangle(rng))
        return made

    def object_in(self, rng: np.random.Generator, among: Sequence[int] | None = None) -> tuple[Scene, Scene, Scene]:
        """Return an object, a scene, and the object in that scene.

        Both show a class; the scene two of those in `among` if that is given. The object covers up to 3 x 3 cells: of a
        scene that it hides nothing can be asked.
        """
        thing = self._with_class(rng, _noise(rng, self._directions.shape[1]))
        place = self._with_class(rng, _noise(rng, self._directions.shape[1]), among)
        return thing, place, paste(place, thing, _rectangle(rng, most=GRID - 1))

    def _plain(self, rng: np.random.Generator) -> Scene:
        cells = _noise(rng, self._directions.shape[1])
        if rng.random() >= self._options.class_share:
            return Scene(cells, ())
        return self._with_class(rng, cells)

    def _with_class(self, rng: np.random.Generator, cells: Floats, among: Sequence[int] | None = None) -> Scene:
        """Fade the noise, and add one class in a rectangle, at times (always of `among`) a second one in another."""
        keep = np.float32(rng.random())
        faded = keep * cells
        if rng.random() < 0.5:
            faded = faded + (1 - keep) * cells.mean(0)
        first, second = (
            int(place) for place in rng.integers(len(self._directions) if among is None else len(among), size=2)
        )
        if among is not None:
            first, second = among[first], among[second]
        gain = rng.uniform(*self._options.gain)
        faded = faded + self._patch(rng, first, gain)
        classes: tuple[int, ...] = (first,)
        if among is not None or rng.random() < self._options.second_share:
            faded = faded + self._patch(rng, second, _SECOND * gain)
            classes = (first, second)
        return Scene(np.clip(faded, 0, CEILING).astype(np.float32), classes)

    def _patch(self, rng: np.random.Generator, place: int, gain: float) -> Floats:
        inside = _rectangle(rng)
        strength = gain * rng.uniform(*_SPREAD) / max(inside.mean(), _LEAST_AREA)
        return np.float32(strength) * inside[:, None] * self._directions[place]


def paste(below: Scene, above: Scene, inside: NDArray[np.bool_]) -> Scene:
    """Return a map whose cells inside come from another one."""
    return Scene(np.where(inside[:, None], above.cells, below.cells), (*above.classes, *below.classes))


def _noise(rng: np.random.Generator, channels: int) -> Floats:
    shared = rng.standard_normal(channels, dtype=np.float32)
    own = rng.standard_normal((GRID * GRID, channels), dtype=np.float32)
    contrast = np.float32(rng.uniform(*_CONTRAST))
    return np.clip(np.maximum(_SHARED * shared + _OWN * own, 0) * contrast, 0, CEILING)


def _rectangle(rng: np.random.Generator, most: int = GRID) -> NDArray[np.bool_]:
    """Return which cells lie in a random rectangle of up to `most` cells a side: [16]."""
    inside = np.zeros((GRID, GRID), np.bool_)
    height, width = (int(side) for side in rng.integers(1, most + 1, 2))
    top, left = (int(rng.integers(0, GRID - side + 1)) for side in (height, width))
    inside[top : top + height, left : left + width] = True
    return inside.reshape(-1)
