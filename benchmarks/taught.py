"""How well do names that a user taught find the other photos of the same thing, alone and with further words?

A name that says nothing ("Momo") is taught by 1, 3 or 5 photos of a thing, and searched for; its other photos are
right, those it was taught by do not count. All on development data: weights of `magicmm.taught_query` were chosen here.

* rendered: 25 cut-out stamps, each pasted on 12 photos (`rendered.py`). Hard: 24 other things stand in the same places.
  With words ("Momo in a park"), one picture is right: this thing in this place.
* subjects: photos of one place or thing among the development photos of `photo_sets.py`.

Distractors are all other development photos and stamps. Vectors are int8, as in an index. R@k: share of searches with a
right photo among the first k. The spread is the standard deviation over draws of the photos to teach by.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from magicmm.embedder import Embedder
from magicmm.quantise import quantise
from magicmm.taught_query import NamedConcept, ReadText, embed_read, prototype
from nano_quality import KS, fetch_stamps, ranked, useful_stamps
from photo_sets import photo_set
from rendered import OBJECTS, SCENES, render
from report import Report, parser

NAME = "Momo"
EXAMPLES = (1, 3, 5)
DRAWS = 10
SUBJECTS = {
    "a white villa": ("P1070506", "P1070507", "P1070509", "P1070510", "P1070514"),
    "a brick building": (
        *("P1070491", "P1070493", "P1070494", "P1070495", "P1070496", "P1070497"),
        *("P1070499", "P1070500", "P1070501", "P1070503", "P1070504", "P1070505"),
    ),
    "an old building": ("building2-1", "building2-2", "building2-3"),
    "tulips": ("flowers4", "flowers5", "flowers7", "flowers9"),
    "tomatoes": ("tomato_124", "tomato_14", "tomato_35", "tomato_54"),
    "a vase": (
        *("pexels-6956495", "pexels-7303773"),
        *("pexels-cup-of-couple-7303788", "pexels-cup-of-couple-6963787"),
    ),
}
"""What it is, and the development photos of it."""

Array = NDArray[np.float32]
Scores = tuple[float, float, float, float]
"""R@1, R@5, R@10 and mean average precision."""


@dataclass(frozen=True)
class Thing:
    """Something to teach: what it is in words, and the places of its photos."""

    noun: str
    places: tuple[int, ...]


@dataclass(frozen=True)
class Asked:
    """A thing taught by some of its photos, and the places that a search for it should find.

    Attributes:
        concept: The examples, without a noun.
        noun: What it is.
        rest: Words beside the name, or None.
        taught: Places of the examples.
        right: Places to find.
    """

    concept: NamedConcept
    noun: str
    rest: str | None
    taught: tuple[int, ...]
    right: tuple[int, ...]


class Library:
    """Vectors of photos, and how well a way to ask ranks them."""

    def __init__(self, embedder: Embedder, photos: Sequence[Path]) -> None:
        """Embed."""
        codes, scales = quantise(embedder.embed_images(photos))
        self.vectors: Array = codes.astype(np.float32) * scales[:, None]
        self.mean: Array = self.vectors.mean(axis=0)

    def scores(self, asked: Sequence[Asked], vector: Callable[[Asked], Array]) -> Scores:
        """Ask all, each without the photos it was taught by."""
        found = np.stack([vector(one) for one in asked]) @ self.vectors.T
        for row, one in zip(found, asked, strict=True):
            row[list(one.taught)] = -np.inf
        ranks, precision = ranked(found, [one.right for one in asked])
        first, fifth, tenth = (float((ranks < k).mean()) for k in KS)
        return first, fifth, tenth, float(precision.mean())


def main() -> int:
    """Run the benchmark."""
    options = build_parser().parse_args()
    report = Report("taught", options)
    embedder = Embedder.open(options.bundle)
    stamps = useful_stamps(fetch_stamps())
    captions = {path: caption.rstrip(".").lower() for path, caption in stamps}
    photos = list(photo_set("development").photos)
    rendered = render(list(captions), photos, 4 if options.quick else OBJECTS)
    shown = {pair.thing for pair in rendered}  # the stamp itself is the same thing: neither right nor wrong
    others = [path for path in captions if path not in shown][:: 10 if options.quick else 1]
    library = Library(embedder, [*(pair.path for pair in rendered), *photos, *others])
    scenes = len(SCENES["development"])
    pasted = [
        Thing(captions[rendered[start].thing], tuple(range(start, start + scenes)))
        for start in range(0, len(rendered), scenes)
    ]
    places = {path.stem: len(rendered) + place for place, path in enumerate(photos)}
    subjects = [Thing(noun, tuple(places[name] for name in names)) for noun, names in SUBJECTS.items()]
    ways = Ways(embedder, library.mean)
    draws = 2 if options.quick else DRAWS
    measure_names(report, library, ways, {"rendered": pasted, "subjects": subjects}, draws)
    measure_words(report, library, ways, pasted, [pair.words for pair in rendered], draws)
    report.finish()
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    found = parser(__doc__)
    found.formatter_class = argparse.RawDescriptionHelpFormatter
    found.add_argument("--bundle", type=Path, metavar="PATH", help="the model (default: the built-in one)")
    return found


class Ways:
    """Ways to turn a thing and words into a query; "taught" is what a search does."""

    def __init__(self, embedder: Embedder, mean: Array) -> None:
        """Take the model and the mean vector of the library."""
        self._embedder = embedder
        self._mean = mean
        self._texts: dict[str, Array] = {}

    def text(self, words: str) -> Array:
        """Return the vector of words."""
        if words not in self._texts:
            self._texts[words] = self._embedder.embed_text(words, truncate=True)
        return self._texts[words]

    def name(self, one: Asked) -> Array:
        """The name is a word like others."""
        return self.text(f"{NAME} {one.rest or ''}".strip())

    def noun(self, one: Asked) -> Array:
        """Nothing is taught, but the searcher says what it is."""
        return self.text(f"{one.noun} {one.rest or ''}".strip())

    def taught(self, one: Asked) -> Array:
        """As shipped."""
        return embed_read(self._embedder, ReadText((one.concept,), one.rest), None, truncate=True)

    def taught_noun(self, one: Asked) -> Array:
        """As shipped, with --is."""
        concept = NamedConcept(NAME, one.noun, one.concept.examples)
        return embed_read(self._embedder, ReadText((concept,), one.rest), None, truncate=True)

    def photos(self, one: Asked) -> Array:
        """The examples alone, whatever else was said."""
        return prototype(self._embedder, one.concept).astype(np.float32)

    def less_mean(self, one: Asked) -> Array:
        """The examples less half of the library's mean."""
        vector = _unit(self.photos(one) - np.float32(0.5) * self._mean)
        return vector if one.rest is None else _unit(vector + self.text(one.rest))

    def weighted(self, weight: float) -> Callable[[Asked], Array]:
        """Another weight of the other words."""
        return lambda one: _unit(self.photos(one) + np.float32(weight) * self.text(one.rest or NAME))

    def whole(self, one: Asked) -> Array:
        """The name stays among the words that the model reads."""
        return _unit(self.photos(one) + self.name(one))

    def in_place(self, one: Asked) -> Array:
        """The noun stands for the name in the words that the model reads."""
        return _unit(self.photos(one) + self.noun(one))


def measure_names(report: Report, library: Library, ways: Ways, sets: dict[str, list[Thing]], draws: int) -> None:
    """Search for the name alone."""
    variants = {
        "the name as words": ways.name,
        "what it is, as words": ways.noun,
        "taught": ways.taught,
        "taught, with --is": ways.taught_noun,
        "the name read, too": ways.whole,
        "less half the mean": ways.less_mean,
    }
    rows: list[list[object]] = []
    means: dict[tuple[str, int, str], Scores] = {}
    for label, things in sets.items():
        for count in EXAMPLES:
            drawn = [list(draw_names(library, things, count, seed)) for seed in range(draws)]
            for name, vector in variants.items():
                found = np.array([library.scores(asked, vector) for asked in drawn])
                means[label, count, name] = _four(found.mean(axis=0))
                rows.append([f"{label}, {len(drawn[0])} things", count, name, *_cells(found)])
    columns = ["set", "photos taught by", "query", *(f"R@{k}" for k in KS), "mAP"]
    report.table(f"the name alone: {draws} draws, {len(library.vectors)} photos", columns, rows)
    for label in sets:
        known, words = means[label, 3, "taught"][-1], means[label, 3, "what it is, as words"][-1]
        goal = f"more than saying what it is ({words:.3f})"
        report.goal(f"{label}, the name alone, 3 photos, mAP", goal, f"{known:.3f}", known > words)


def measure_words(
    report: Report, library: Library, ways: Ways, things: list[Thing], words: Sequence[str], draws: int
) -> None:
    """Search for the name and words for a place."""
    variants: dict[str, Callable[[Asked], Array]] = {
        "the name as a word": ways.name,
        "what it is, in its place": ways.noun,
        "examples alone": ways.photos,
        "taught (the words count 1.0)": ways.taught,
        "taught, with --is": ways.taught_noun,
        "the words count 0.5": ways.weighted(0.5),
        "the words count 1.5": ways.weighted(1.5),
        "the name read, too": ways.whole,
        "what it is read in its place": ways.in_place,
        "less half the mean": ways.less_mean,
    }
    rows: list[list[object]] = []
    for count in EXAMPLES:
        drawn = [list(draw_words(library, things, words, count, seed)) for seed in range(draws)]
        means = {}
        for name, vector in variants.items():
            found = np.array([library.scores(asked, vector) for asked in drawn])
            means[name] = _four(found.mean(axis=0))
            rows.append([count, name, *_cells(found)])
        best = max(means["examples alone"][-1], means["what it is, in its place"][-1])
        known = means["taught (the words count 1.0)"][-1]
        goal = f"more than photos or words alone ({best:.3f})"
        report.goal(f"the name and words, {count} photos, MRR", goal, f"{known:.3f}", known > best)
    title = f"rendered, the name and words for the place: one picture is right, {draws} draws"
    report.table(title, ["photos taught by", "query", *(f"R@{k}" for k in KS), "MRR"], rows)


def draw_names(library: Library, things: Sequence[Thing], count: int, seed: int) -> Iterator[Asked]:
    """Teach each thing that has more photos than `count`, and ask for the others."""
    rng = np.random.default_rng(seed)
    for thing in things:
        if len(thing.places) > count:
            mixed = tuple(int(place) for place in rng.permutation(thing.places))
            concept = NamedConcept(NAME, None, library.vectors[list(mixed[:count])])
            yield Asked(concept, thing.noun, None, mixed[:count], mixed[count:])


def draw_words(
    library: Library, things: Sequence[Thing], words: Sequence[str], count: int, seed: int
) -> Iterator[Asked]:
    """The same, and ask for each of the others by the words for its place."""
    for asked in draw_names(library, things, count, seed):
        for place in asked.right:
            yield Asked(asked.concept, asked.noun, words[place], asked.taught, (place,))


def _four(values: NDArray[np.float64]) -> Scores:
    first, fifth, tenth, precision = (float(value) for value in values)
    return first, fifth, tenth, precision


def _cells(found: NDArray[np.float64]) -> list[str]:
    pairs = zip(found.mean(axis=0), found.std(axis=0), strict=True)
    return [f"{mean:.3f} +- {spread:.3f}" for mean, spread in pairs]


def _unit(vector: Array) -> Array:
    unit: Array = vector / np.linalg.norm(vector)
    return unit


if __name__ == "__main__":
    sys.exit(main())
