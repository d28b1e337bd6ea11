"""What scenes are made of: things of a shape and a colour in the cells of a small grid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

GRID = 2
"""Cells along one side; after compression and unshuffle, a cell of 4 x 4 patches becomes one visual token."""
SHAPES = ("square", "ring", "cross")
COLOURS = ("red", "green", "blue", "yellow", "purple")
HELD_OUT = frozenset({("cross", "green"), ("ring", "yellow")})
"""Combinations of shape and colour that no training picture holds; their parts are all seen apart."""


@dataclass(frozen=True, slots=True, order=True)
class Thing:
    """One drawn shape and its cell, counted from the upper left."""

    row: int
    column: int
    shape: str
    colour: str

    @property
    def is_held_out(self) -> bool:
        """Whether its combination of shape and colour is kept for the test."""
        return (self.shape, self.colour) in HELD_OUT


@dataclass(frozen=True, slots=True)
class Scene:
    """Things in different cells, row by row."""

    things: tuple[Thing, ...]

    def __post_init__(self) -> None:
        """Put the things in order, so that equal scenes compare equal."""
        object.__setattr__(self, "things", tuple(sorted(self.things)))

    @property
    def is_held_out(self) -> bool:
        """Whether any of its things is kept for the test."""
        return any(thing.is_held_out for thing in self.things)


def random_scene(random: Random) -> Scene:
    """Return a scene of two to four things, which often share an attribute, so that words must be read."""
    cells = random.sample([(row, column) for row in range(GRID) for column in range(GRID)], random.choice((2, 3, 3, 4)))
    things: list[Thing] = []
    for row, column in cells:
        thing = Thing(row, column, random.choice(SHAPES), random.choice(COLOURS))
        if things and random.random() < 0.35:
            other = random.choice(things)
            attribute = random.choice(("shape", "colour", "both"))
            thing = replace(
                thing,
                shape=thing.shape if attribute == "colour" else other.shape,
                colour=thing.colour if attribute == "shape" else other.colour,
            )
        things.append(thing)
    return Scene(tuple(things))


def neighbours(scene: Scene, random: Random) -> Iterator[Scene]:
    """Yield scenes that differ from this one in a single respect, without end: the natural hard negatives."""
    while True:
        place = random.randrange(len(scene.things))
        thing = scene.things[place]
        others = scene.things[:place] + scene.things[place + 1 :]
        attribute = random.choice(("shape", "colour", "cell"))
        if attribute == "cell":
            yield _swapped(scene, place, random)
        elif attribute == "shape":
            yield Scene((*others, replace(thing, shape=_another(SHAPES, thing.shape, random))))
        else:
            yield Scene((*others, replace(thing, colour=_another(COLOURS, thing.colour, random))))


def _swapped(scene: Scene, place: int, random: Random) -> Scene:
    """Return the scene with two things in each other's cells."""
    first, second = scene.things[place], random.choice(scene.things[:place] + scene.things[place + 1 :])
    moved = (
        replace(first, row=second.row, column=second.column),
        replace(second, row=first.row, column=first.column),
    )
    return Scene((*(thing for thing in scene.things if thing not in (first, second)), *moved))


def _another(values: tuple[str, ...], value: str, random: Random) -> str:
    return random.choice([other for other in values if other != value])
