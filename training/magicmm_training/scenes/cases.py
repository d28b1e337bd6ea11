"""Queries with what fits them and what does not: by construction, so that a judge can be checked against the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from magicmm_model.instructions import TaskGroup
from magicmm_training.scenes.changes import change
from magicmm_training.scenes.statements import say
from magicmm_training.scenes.world import Scene, neighbours, random_scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random

PAPER_ROWS = {
    TaskGroup.TEXT_TO_IMAGE: "MSCOCO",
    TaskGroup.IMAGE_TO_TEXT: "MSCOCO",
    TaskGroup.COMPOSED_TO_IMAGE: "CIRR",
}
"""Whose instructions of the paper the three tasks borrow (`Source.instructions`)."""
_HARD_SHARE = 0.65
"""Of the wrong scenes, so many differ from the right one in a single respect; the others are of another kind at all."""


@dataclass(frozen=True, slots=True)
class Part:
    """One side of a pair: words, a picture of a scene, or both."""

    text: str | None = None
    scene: Scene | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """A query, what fits it, and things that do not.

    Attributes:
        group: Which of the three tasks.
        query: What is searched with.
        right: A target that fits.
        wrong: Targets that do not.
    """

    group: TaskGroup
    query: Part
    right: Part
    wrong: tuple[Part, ...]


def make_case(
    group: TaskGroup, scene: Scene, random: Random, wrong: int, allowed: Callable[[Scene], bool]
) -> Case | None:
    """Return a case about a scene, or None when the scene leaves no change to ask for.

    Args:
        group: T->I, I->T or IT->I.
        scene: What the caption is true of; the picture before the change for IT->I.
        random: Decides words and wrong targets.
        wrong: How many wrong targets.
        allowed: Which scenes may be shown.
    """
    if group is TaskGroup.COMPOSED_TO_IMAGE:
        found = change(scene, random)
        if found is None or not allowed(found.after):
            return None
        others = _others(found.after, random, lambda other: allowed(other) and other != found.after)
        refused = [Part(scene=scene), *(Part(scene=next(others)) for _ in range(wrong))]
        return Case(group, Part(found.words, scene), Part(scene=found.after), tuple(random.sample(refused, wrong)))
    statement = say(scene, random)
    words = statement.words(random)
    if group is TaskGroup.TEXT_TO_IMAGE:
        others = _others(scene, random, lambda other: allowed(other) and not statement.holds(other))
        return Case(group, Part(words), Part(scene=scene), tuple(Part(scene=next(others)) for _ in range(wrong)))
    false = (said for other in _others(scene, random, allowed) if not (said := say(other, random)).holds(scene))
    return Case(group, Part(scene=scene), Part(words), tuple(Part(next(false).words(random)) for _ in range(wrong)))


def _others(scene: Scene, random: Random, wanted: Callable[[Scene], bool]) -> Iterator[Scene]:
    """Yield scenes for which `wanted` holds, mostly close ones, without end."""
    near = neighbours(scene, random)
    while True:
        other = next(near) if random.random() < _HARD_SHARE else random_scene(random)
        if wanted(other):
            yield other
