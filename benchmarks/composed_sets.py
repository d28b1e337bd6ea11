"""Queries of a photo and words, with the photos that they ask for: real ones, and rendered pairs.

Real ones were written from the queries of `photo_sets.py`: a photo of a castle and "beside a lake" ask for all photos
of castles beside lakes. Rendered ones paste 25 of Tux Paint's stamps on 12 photos each: the picture of a stamp and
words for a photo ask for one picture in 300. "held_out" is for judging alone: other stamps on other photos.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from photo_sets import QUERIES, photo_set
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
class ComposedSet:
    """Queries of photo and words.

    Attributes:
        name: Of the set.
        photos: What is searched.
        asked: The photo of each query.
        words: Its words.
        right: Places in `photos` that it asks for.
        itself: The place of its photo in `photos`, which does not count; -1 = not among them.
    """

    name: str
    photos: Sequence[Path]
    asked: Sequence[Path]
    words: Sequence[str]
    right: Sequence[Sequence[int]]
    itself: Sequence[int]


def real_queries(name: str) -> ComposedSet:
    """Return the written queries of `held_out` or `development`."""
    photos = photo_set(name).photos
    content = json.loads((QUERIES / f"{name}.json").read_text(encoding="utf-8"))
    places = {key: place for place, key in enumerate(content["photos"])}
    queries = json.loads((QUERIES / "composed.json").read_text(encoding="utf-8"))[name]
    itself = [places[query["photo"]] for query in queries]
    right = [[places[key] for key in query["photos"]] for query in queries]
    words = [query["text"] for query in queries]
    return ComposedSet(f"{name}, real", photos, [photos[place] for place in itself], words, right, itself)


def rendered_pairs(name: str, stamps: Sequence[Path]) -> ComposedSet:
    """Paste stamps on photos of a set, the same way every time."""
    rng = np.random.default_rng(0)
    cut_out = [path for path in stamps if _is_cut_out(path)]
    order = rng.permutation(len(cut_out))
    chosen = order[:OBJECTS] if name == "development" else order[OBJECTS : 2 * OBJECTS]
    folder = CACHE / ("nano-pairs" if name == "development" else "nano-pairs-held-out")
    folder.mkdir(parents=True, exist_ok=True)
    photos = photo_set(name).photos
    paths, words, asked = [], [], []
    for thing in (cut_out[place] for place in sorted(chosen)):
        for scene, phrase in SCENES[name].items():
            path = folder / f"{thing.stem}-{scene}.png"
            _paste(thing, _named(photos, scene), rng).save(path)
            paths.append(path)
            words.append(phrase)
            asked.append(thing)
    right = [[place] for place in range(len(paths))]
    return ComposedSet(f"{name}, rendered", paths, asked, words, right, [-1] * len(paths))


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
