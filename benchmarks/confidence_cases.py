"""Cases to fit and to judge confidence on: a query, a library that has its photos or lacks them, and who comes first.

Whether a picture fits a query is known of the photo sets: a query names every photo that it fits. Of stamps it is read
from the words of their captions. "A dog." fits every stamp whose caption has the word; a caption that shares some word
with another may or may not fit it. Such pictures are left out of libraries that are to lack the subject, and a case
that one of them wins is dropped.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from magicmm.embedder import Embedder
from magicmm.image import decode_photo
from magicmm.reading import read_photo
from nano_quality import fetch_stamps, useful_stamps
from photo_sets import PhotoSet, photo_set
from report import CACHE

Array = NDArray[np.float32]
Places = NDArray[np.intp]

NO, YES, UNSURE = 0, 1, 2
SIZES = (50, 100, 200, 400, 600)
"""Photos of a drawn library, at most."""
ALIKE = 0.45
"""Cosine of two texts from which a picture of another set may fit."""
ALIKE_STAMPS = 0.6
"""The same for captions of stamps, which name single things."""
_STOP = frozenset(
    re.findall(r"\w+", "a an the of in on at to with and or is it that this for from by you one our its into")
)
_ADJECTIVES = frozenset(
    re.findall(
        r"\w+",
        "red green blue yellow white black brown orange purple pink grey gray silver golden big small little old young"
        " long short baby male female sliced pair closed open coloured dark empty",
    )
)
"""Words that make two captions similar without a common thing."""


@dataclass(frozen=True, slots=True)
class World:
    """Queries and pictures with what is known of them.

    Attributes:
        name: Of the world.
        queries: float32 [q, dim].
        pictures: float32 [n, dim].
        fits: int8 [q, n]: NO, YES or UNSURE.
        home: bool [n]: pictures of the queries' own set; others only fill libraries up.
    """

    name: str
    queries: Array
    pictures: Array
    fits: NDArray[np.int8]
    home: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Case:
    """A search.

    Attributes:
        query: Which query of the world.
        is_present: Whether photos that fit are in the library.
        is_right: Whether the first photo fits.
        scores: float32 [n]: the whole library's.
    """

    query: int
    is_present: bool
    is_right: bool
    scores: Array


def development(embedder: Embedder) -> list[World]:
    """Return the development photos, the stamps, and each with the other's pictures around."""
    found, stamps = photo_set("development"), useful_stamps(fetch_stamps())
    captions = [caption for _, caption in stamps]
    texts = [text for text, _ in found.queries]
    queries, asked = _texts(embedder, texts), _texts(embedder, captions)
    photos = pictures(embedder, "development", found.photos)
    shown = pictures(embedder, "stamps", [path for path, _ in stamps])
    stamped = World("stamps", asked, shown, _caption_fits(captions, asked), _all(shown))
    worlds = [_photos(found, queries, photos), stamped]
    alike = queries @ asked.T
    words = [_words(text) for text in captions]
    for row, text in enumerate(texts):
        things = _words(text) - _ADJECTIVES
        alike[row, [bool(things & others) for others in words]] = 1
    across = np.where(alike >= ALIKE, UNSURE, NO).astype(np.int8)
    worlds.append(_around(worlds[0], shown, across))
    named = np.zeros((len(texts), len(photos)), np.bool_)
    for row, (_, places) in enumerate(found.queries):
        named[row, list(places)] = True
    back = ((across == UNSURE).T.astype(np.int64) @ named.astype(np.int64)) > 0
    worlds.append(_around(worlds[1], photos, np.where(back, UNSURE, NO).astype(np.int8)))
    return worlds


def crowded(embedder: Embedder, crops: int) -> World:
    """Return the development photos with crops of each: libraries in which many photos fit a query."""
    found = photo_set("development")
    world = _photos(
        found, _texts(embedder, [text for text, _ in found.queries]), pictures(embedder, found.name, found.photos)
    )
    more = pictures(embedder, f"{found.name} crops {crops}", found.photos, crops)
    return World(
        "development with crops",
        world.queries,
        np.concatenate([world.pictures, more]),
        np.concatenate([world.fits, np.repeat(world.fits, crops, axis=1)], axis=1),
        np.ones(len(world.home) + len(more), np.bool_),
    )


def held_out(embedder: Embedder) -> list[World]:
    """Return the photos that nothing is chosen on."""
    found = photo_set("held_out")
    queries = _texts(embedder, [text for text, _ in found.queries])
    return [_photos(found, queries, pictures(embedder, "held_out", found.photos))]


def draw(world: World, rounds: int, rng: np.random.Generator, crowd: float = 0) -> Iterator[Case]:
    """Draw, for each query, libraries that have its photos and as many that lack them.

    Args:
        world: What to draw from.
        rounds: Libraries of each kind for each query.
        rng: Chance.
        crowd: Share of the library that fits the query; 0 = a few photos, as many as there happen to be.
    """
    for query, fits in enumerate(world.fits):
        right = np.flatnonzero(fits == YES)
        wrong, unsure = np.flatnonzero(fits == NO), np.flatnonzero((fits == UNSURE) & world.home)
        for _ in range(rounds):
            size = int(rng.choice(SIZES))
            some = rng.permutation(right)[: max(1, round(crowd * size)) if crowd else rng.integers(1, len(right) + 1)]
            others = rng.permutation(np.concatenate([wrong, unsure]))
            for is_present, library in (
                (True, np.concatenate([some, others[: size - len(some)]])),
                (False, rng.permutation(wrong)[:size]),
            ):
                scores = world.pictures[library] @ world.queries[query]
                first = fits[library[scores.argmax()]]
                if first != UNSURE:
                    yield Case(query, is_present, bool(first == YES), scores)


def pictures(embedder: Embedder, name: str, paths: Sequence[Path], crops: int = 0) -> Array:
    """Return the vectors of photos, or of some crops of each: float32 [n, dim]; kept in build/, by model and files."""
    key = hashlib.sha256("\n".join([embedder.fingerprint, *(path.name for path in paths)]).encode()).hexdigest()[:16]
    kept = CACHE / f"confidence-{name.replace(' ', '-')}-{key}.npy"
    if kept.is_file():
        return np.asarray(np.load(kept), np.float32)
    if crops:
        rng = np.random.default_rng(0)
        vectors = np.concatenate([embedder.embed_images(_crops(path, crops, rng)) for path in paths])
    else:
        vectors = embedder.embed_images(list(paths))
    kept.parent.mkdir(parents=True, exist_ok=True)
    aside = kept.with_suffix(".new")
    with aside.open("wb") as file:
        np.save(file, vectors)
    aside.replace(kept)
    return vectors


def _crops(path: Path, count: int, rng: np.random.Generator) -> list[NDArray[np.uint8]]:
    """Return parts of a photo, 60 to 100 % of each side, some mirrored."""
    rgb = decode_photo(read_photo(path)[0], 512).rgb
    parts = []
    for _ in range(count):
        height, width = (max(1, int(side * rng.uniform(0.6, 1))) for side in rgb.shape[:2])
        top, left = rng.integers(rgb.shape[0] - height + 1), rng.integers(rgb.shape[1] - width + 1)
        part = rgb[top : top + height, left : left + width]
        parts.append(np.ascontiguousarray(part[:, ::-1] if rng.random() < 0.5 else part))
    return parts


def _texts(embedder: Embedder, texts: Sequence[str]) -> Array:
    return np.stack([embedder.embed_text(text) for text in texts])


def _photos(found: PhotoSet, queries: Array, photos: Array) -> World:
    fits = np.zeros((len(queries), len(photos)), np.int8)
    for row, (_, places) in enumerate(found.queries):
        fits[row, list(places)] = YES
    return World(found.name, queries, photos, fits, _all(photos))


def _around(world: World, others: Array, fits: NDArray[np.int8]) -> World:
    return World(
        f"{world.name} and others",
        world.queries,
        np.concatenate([world.pictures, others]),
        np.concatenate([world.fits, fits], axis=1),
        np.concatenate([world.home, ~_all(others)]),
    )


def _caption_fits(captions: Sequence[str], asked: Array) -> NDArray[np.int8]:
    """Compare captions by their words; those that are merely alike are unsure."""
    words = [_words(caption) for caption in captions]
    fits = np.where(asked @ asked.T >= ALIKE_STAMPS, UNSURE, NO).astype(np.int8)
    for row, own in enumerate(words):
        for column, others in enumerate(words):
            if own and own <= others:
                fits[row, column] = YES
            elif (own - _ADJECTIVES) & others:
                fits[row, column] = UNSURE
    np.fill_diagonal(fits, YES)
    return fits


def _words(text: str) -> set[str]:
    return {word.rstrip("s") for word in re.findall(r"[^\W\d_]+", text.lower()) if word not in _STOP}


def _all(pictures: Array) -> NDArray[np.bool_]:
    return np.ones(len(pictures), np.bool_)
