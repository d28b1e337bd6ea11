"""Composed queries: a picture and words for what is different in the one that is looked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from magicmm_training.scenes.statements import Kind, full_kind
from magicmm_training.scenes.world import COLOURS, SHAPES, Scene

if TYPE_CHECKING:
    from random import Random

    from magicmm_training.scenes.world import Thing

_VALUES = {"colour": COLOURS, "shape": SHAPES}
_OPENINGS = ("the same but ", "like this, but ", "as here, only ")


@dataclass(frozen=True, slots=True)
class Change:
    """A scene, the words for a change of it, and the changed scene.

    Attributes:
        before: What the query's picture shows.
        words: Of the change; they name exactly one thing of `before`.
        after: What is looked for; only a scene that equals it is right.
    """

    before: Scene
    words: str
    after: Scene


def change(scene: Scene, random: Random) -> Change | None:
    """Change or remove one thing that words can single out; None when no thing can."""
    named = [(thing, kind) for thing in scene.things if (kind := _name(thing, scene)) is not None]
    if not named:
        return None
    thing, kind = random.choice(named)
    others = tuple(other for other in scene.things if other != thing)
    attribute = random.choice(("colour", "colour", "shape", "gone"))
    opening = random.choice(_OPENINGS)
    if attribute == "gone" and len(others) > 1:
        return Change(scene, f"{opening}without the {kind.noun()}", Scene(others))
    if attribute == "gone":
        attribute = "colour"
    value = random.choice([one for one in _VALUES[attribute] if one != getattr(thing, attribute)])
    changes: dict[str, Any] = {attribute: value}
    after = Scene((*others, replace(thing, **changes)))
    said = f"a {value}" if attribute == "shape" else value
    return Change(scene, f"{opening}the {kind.noun()} is {said}", after)


def _name(thing: Thing, scene: Scene) -> Kind | None:
    """Return the shortest kind that fits this thing alone."""
    for kind in (Kind(thing.shape), full_kind(thing)):
        if kind.count(scene) == 1:
            return kind
    return None
