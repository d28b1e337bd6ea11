"""Rendered pairs: cut-out stamps, each pasted on photos, so that one thing is seen in many places.

Other stamps and photos in "held_out", which nothing may be chosen on, than in "development".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from report import CACHE

OBJECTS, SIDE, OBJECT_SIDE = 25, 512, 300
"""Stamps of the rendered pairs; pixels of the shorter side of a scene, and of the longer side of an object."""
SCENES = {
    "development": {
        "flowers1": "in a field of tulips",
        "parks": "in a park",
        "road": "on a road",
        "tomato_124": "between tomato plants",
        "notre-dame": "in front of a cathedral",
        "Dune": "on a grassy dune by the sea",
        "Storm": "under storm clouds",
        "pexels-36030587": "in a bedroom",
        "pexels-maksgelatin": "in a living room",
        "EveningGlow": "beside boats at a lake",
        "Path": "in a forest",
        "Kite": "in the sky",
    },
    "held_out": {
        "beach-malibu": "on a beach",
        "forest": "in a forest",
        "snow": "in the snow",
        "route66": "on an empty road",
        "pool": "at a swimming pool",
        "kitchen": "in a kitchen",
        "city-with-water": "in a city at night",
        "grand-canyon": "at a canyon",
        "brick-wall1": "in front of a brick wall",
        "wave": "in a breaking wave",
        "sunset": "at sunset",
        "hay_field": "on a field with bales of hay",
    },
}
"""Names of photos, or beginnings of them, and words for each."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """One picture.

    Attributes:
        path: Its file.
        thing: The stamp on it.
        words: For the scene below.
    """

    path: Path
    thing: Path
    words: str


def render(
    stamps: Sequence[Path], photos: Sequence[Path], most: int = OBJECTS, name: str = "development"
) -> list[Rendering]:
    """Paste stamps on photos of a set, the same way every time: all scenes of one stamp, then of the next."""
    rng = np.random.default_rng(0)
    cut_out = [path for path in stamps if _is_cut_out(path)]
    order = rng.permutation(len(cut_out))
    chosen = order[:OBJECTS] if name == "development" else order[OBJECTS : 2 * OBJECTS]
    folder = CACHE / ("nano-pairs" if name == "development" else "nano-pairs-held-out")
    folder.mkdir(parents=True, exist_ok=True)
    rendered = []
    for thing in [cut_out[place] for place in sorted(chosen)][:most]:
        for scene, phrase in SCENES[name].items():
            path = folder / f"{thing.stem}-{scene}.png"
            draft = path.with_suffix(".new.png")  # another program may be reading it
            _paste(thing, _named(photos, scene), rng).save(draft)
            draft.replace(path)
            rendered.append(Rendering(path, thing, phrase))
    return rendered


def _is_cut_out(path: Path) -> bool:
    with Image.open(path) as image:
        if image.mode != "RGBA" or min(image.size) < OBJECT_SIDE // 3:
            return False
        share = float((np.asarray(image)[..., 3] > 127).mean())
    return 0.25 < share < 0.9  # neither a speck nor a whole picture


def _named(photos: Sequence[Path], name: str) -> Path:
    exact = [path for path in photos if path.stem == name or name in path.parts]
    return (exact or [path for path in photos if path.stem.startswith(name)])[0]


def _paste(thing: Path, scene: Path, rng: np.random.Generator) -> Image.Image:
    with Image.open(scene) as opened:
        below = opened.convert("RGB")
    factor = SIDE / min(below.size)
    below = below.resize((round(below.width * factor), round(below.height * factor)))
    with Image.open(thing) as opened:
        above = opened.convert("RGBA")
    factor = OBJECT_SIDE / max(above.size)
    above = above.resize((max(1, round(above.width * factor)), max(1, round(above.height * factor))))
    left, top = (int(rng.integers(0, space + 1)) for space in (below.width - above.width, below.height - above.height))
    below.paste(above, (left, top), above)
    return below
