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

from photo_sets import QUERIES, photo_set
from rendered import render


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
    """Return the rendered pairs of a set, each asked for by its stamp and the words for its photo."""
    pairs = render(stamps, photo_set(name).photos, name=name)
    right = [[place] for place in range(len(pairs))]
    asked, words = [pair.thing for pair in pairs], [pair.words for pair in pairs]
    return ComposedSet(f"{name}, rendered", [pair.path for pair in pairs], asked, words, right, [-1] * len(pairs))
