"""What an instruction sample asks of one picture: everything in it, a number, a place, a relation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from magicmm_training.scenes.statements import NUMBERS, Kind, full_kind, lies
from magicmm_training.scenes.world import COLOURS, SHAPES

if TYPE_CHECKING:
    from random import Random

    from magicmm_training.scenes.world import Scene

_PLACES = {(0, 0): "northwest", (0, 1): "northeast", (1, 0): "southwest", (1, 1): "southeast"}


@dataclass(frozen=True, slots=True)
class Sample:
    """A conversation about scenes.

    Attributes:
        exchanges: Questions, with `<image>` where each scene belongs, and their answers.
        scenes: In the order of their places.
    """

    exchanges: tuple[tuple[str, str], ...]
    scenes: tuple[Scene, ...]


def caption(scene: Scene, random: Random) -> Sample:
    """Ask for everything in a picture."""
    asked = random.choice(("Describe the image.", "What does the image show?"))
    return Sample(((f"<image>\n{asked}", listing(scene)),), (scene,))


def question(scene: Scene, random: Random) -> Sample:
    """Ask for a number, a place or a relation."""
    asked, answer = random.choice((counting, place, relation))(scene, random)
    return Sample(((f"<image>\n{asked}", answer),), (scene,))


def listing(scene: Scene) -> str:
    """Return all that a picture shows, place by place."""
    return ", ".join(f"{name} {_at(scene, cell)}" for cell, name in _PLACES.items())


def counting(scene: Scene, random: Random) -> tuple[str, str]:
    """Ask how many things there are of a kind that need not be there."""
    kind = random.choice((Kind(random.choice(SHAPES)), Kind(None, random.choice(COLOURS)), Kind()))
    if random.random() < 0.5:
        thing = random.choice(scene.things)
        kind = random.choice((Kind(thing.shape), Kind(None, thing.colour)))
    return f"How many {kind.noun(True)} are there?", NUMBERS[kind.count(scene)]


def place(scene: Scene, random: Random) -> tuple[str, str]:
    """Ask what stands in a cell."""
    cell = random.choice(list(_PLACES))
    return f"What is {_PLACES[cell]}?", _at(scene, cell)


def _at(scene: Scene, cell: tuple[int, int]) -> str:
    found = [full_kind(thing).noun() for thing in scene.things if (thing.row, thing.column) == cell]
    return found[0] if found else "nothing"


def relation(scene: Scene, random: Random) -> tuple[str, str]:
    """Ask on which side of another thing a thing stands."""
    one, other = random.sample(scene.things, 2)
    side = random.choice(("left", "right", "above", "below"))
    words = {"left": "left of", "right": "right of"}.get(side, side)
    first, second = full_kind(one), full_kind(other)
    is_true = any(first.fits(a) and second.fits(b) and lies(a, side, b) for a in scene.things for b in scene.things)
    return f"Is {first.one()} {words} {second.one()}?", "yes" if is_true else "no"
