"""What can be said of a scene: statements that are true or false by construction, and their words.

Most statements speak of a part of the scene only. So several pictures may truly fit one caption, as in real data: these
are the false negatives that a judge is there to find. The captions of the test are chosen to fit one picture each.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from random import Random

    from magicmm_training.scenes.world import Scene, Thing

NUMBERS = ("no", "one", "two", "three", "four")
_OPENINGS = ("", "", "there is ", "a picture of ", "this shows ", "you can see ")
_DIRECTIONS = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "above": ("above", "higher than"),
    "below": ("below", "lower than"),
}


@dataclass(frozen=True, slots=True)
class Kind:
    """Things of a shape and a colour; None leaves one open."""

    shape: str | None = None
    colour: str | None = None

    def fits(self, thing: Thing) -> bool:
        """Whether a thing is of this kind."""
        return self.shape in (None, thing.shape) and self.colour in (None, thing.colour)

    def count(self, scene: Scene) -> int:
        """How many things of a scene are of this kind."""
        return sum(map(self.fits, scene.things))

    def noun(self, plural: bool = False) -> str:
        """Return for example "red ring"; "shape" stands for any."""
        noun = self.shape or "shape"
        if plural:
            noun += "es" if noun.endswith("s") else "s"
        return f"{self.colour} {noun}" if self.colour else noun

    def one(self) -> str:
        """Return the noun with its article."""
        return f"a {self.noun()}"


class Statement(Protocol):
    """Something that is true of a scene, or not."""

    def holds(self, scene: Scene) -> bool:
        """Whether the statement is true of a scene."""
        ...

    def words(self, random: Random) -> str:
        """Say it, in one of several ways."""
        ...


@dataclass(frozen=True, slots=True)
class Has:
    """At least one thing of each kind."""

    kinds: tuple[Kind, ...]

    def holds(self, scene: Scene) -> bool:
        """Whether distinct things of the scene fit the kinds (kinds that differ in shape or colour never share one)."""
        return all(kind.count(scene) for kind in self.kinds)

    def words(self, random: Random) -> str:
        """Return for example "a red ring and a blue square"."""
        names = [kind.one() for kind in random.sample(self.kinds, len(self.kinds))]
        joint = random.choice((" and ", " with ", " together with ")) if len(names) == 2 else " and "
        return _opening(random) + joint.join((", ".join(names[:-1]), names[-1]) if len(names) > 1 else names)


@dataclass(frozen=True, slots=True)
class Exactly:
    """A number of things of one kind."""

    kind: Kind
    number: int

    def holds(self, scene: Scene) -> bool:
        """Whether there are neither more nor fewer."""
        return self.kind.count(scene) == self.number

    def words(self, random: Random) -> str:
        """Return for example "exactly two red rings"."""
        before = random.choice(("exactly ", "just ", "only "))
        return f"{before}{NUMBERS[self.number]} {self.kind.noun(self.number != 1)}"


@dataclass(frozen=True, slots=True)
class Beside:
    """A thing of one kind on a side of a thing of another."""

    first: Kind
    direction: str
    second: Kind

    def holds(self, scene: Scene) -> bool:
        """Whether any two things of the scene stand so."""
        return any(
            self.first.fits(one) and self.second.fits(other) and lies(one, self.direction, other)
            for one in scene.things
            for other in scene.things
        )

    def words(self, random: Random) -> str:
        """Return for example "a red ring above a blue square"."""
        return f"{_opening(random)}{self.first.one()} {random.choice(_DIRECTIONS[self.direction])} {self.second.one()}"


@dataclass(frozen=True, slots=True)
class Whole:
    """All things of a scene and nothing else, wherever they stand."""

    kinds: tuple[tuple[Kind, int], ...]

    def holds(self, scene: Scene) -> bool:
        """Whether the scene has these things and no more."""
        return Counter(map(full_kind, scene.things)) == dict(self.kinds)

    def words(self, random: Random) -> str:
        """Return for example "nothing but a red ring and two blue squares"."""
        names = [
            kind.one() if number == 1 else f"{NUMBERS[number]} {kind.noun(True)}"
            for kind, number in random.sample(self.kinds, len(self.kinds))
        ]
        before = random.choice(("nothing but ", "only this: ", "everything here: "))
        return before + (f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0])


def full_kind(thing: Thing) -> Kind:
    """Return all that words can say of a thing but its place."""
    return Kind(thing.shape, thing.colour)


def lies(one: Thing, direction: str, other: Thing) -> bool:
    """Whether a thing is on that side of another: in an earlier or later column, or row."""
    return {
        "left": one.column < other.column,
        "right": one.column > other.column,
        "above": one.row < other.row,
        "below": one.row > other.row,
    }[direction]


def say(scene: Scene, random: Random) -> Statement:
    """Return a statement that is true of a scene: a relation, a number, some things, or all of it."""
    drawn = random.random()
    if drawn < 0.4:
        return _relation(scene, random)
    if drawn < 0.55 and (number := _number(scene, random)) is not None:
        return number
    if drawn < 0.85:
        return Whole(tuple(Counter(map(full_kind, scene.things)).items()))
    return _some(scene, random)


def _relation(scene: Scene, random: Random) -> Statement:
    one, other = random.sample(scene.things, 2)
    direction = random.choice([side for side in _DIRECTIONS if lies(one, side, other)])
    return Beside(full_kind(one), direction, full_kind(other))


def _number(scene: Scene, random: Random) -> Statement | None:
    """Return a count of two or more, or None when no kind is there twice."""
    kinds = {kind for thing in scene.things for kind in (Kind(thing.shape), Kind(None, thing.colour))}
    kinds |= {Kind(thing.shape, thing.colour) for thing in scene.things}
    several = sorted((kind for kind in kinds if kind.count(scene) > 1), key=Kind.noun)
    if not several:
        return None
    kind = random.choice(several)
    return Exactly(kind, kind.count(scene))


def _some(scene: Scene, random: Random) -> Statement:
    kinds = sorted({full_kind(thing) for thing in scene.things}, key=Kind.noun)
    return Has(tuple(random.sample(kinds, min(len(kinds), random.choice((2, 2, 3))))))


def _opening(random: Random) -> str:
    return random.choice(_OPENINGS)
