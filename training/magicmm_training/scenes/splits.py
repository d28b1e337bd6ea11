"""Pairs of training and test, made from scenes that never occur in both."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import TYPE_CHECKING

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.scenes.changes import change
from magicmm_training.scenes.statements import say
from magicmm_training.scenes.world import Scene, neighbours, random_scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from magicmm_training.scenes.changes import Change
    from magicmm_training.scenes.statements import Statement

FAMILY = 2
"""Scenes of a family differ in a single respect: the natural hard negatives of retrieval."""
HELD_OUT_SHARE = 0.5
"""Of the test's scenes, so many hold a combination that training never shows."""
_TRIES = 20
"""Neighbours that are looked at for the rest of a family, and statements for one that tells a scene apart."""
MOST = 10_000
"""Pairs of a kind; with more, different ones become hard to find."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much there is.

    Attributes:
        captions: Training pairs of caption and picture, used in both directions.
        changes: Training pairs of picture with change, and picture.
        samples: Instruction samples.
        test: Test pairs of each of the three tasks.
    """

    captions: int = 4000
    changes: int = 2000
    samples: int = 40000
    test: int = 300

    def __post_init__(self) -> None:
        """Refuse sizes for which there are not enough different scenes and captions."""
        if not (min(self.captions, self.changes, self.samples, self.test) > 0) or (
            max(self.captions, self.changes, self.test) > MOST
        ):
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID,
                f"There are no scenes of these sizes: {self}.",
                f"Use 1 to {MOST:,} pairs, and 1 sample or more.",
            )


@dataclass(frozen=True, slots=True)
class Captioned:
    """A scene, a statement that is true of it, and the words for it."""

    scene: Scene
    statement: Statement
    words: str


@dataclass(frozen=True, slots=True)
class Split:
    """All pairs of training or of test; a pair's id is its place."""

    captions: tuple[Captioned, ...]
    changes: tuple[Change, ...]


def make_splits(sizes: Sizes, seed: int) -> tuple[Split, Split]:
    """Return training and test."""
    test, train = Random(f"test {seed}"), Random(f"train {seed}")  # noqa: S311, no secrets here
    shown: set[Scene] = set()
    novel = round(sizes.test * HELD_OUT_SHARE)
    parts: tuple[tuple[int, Callable[[Scene], bool]], ...] = (
        (novel, lambda scene: scene.is_held_out),
        (sizes.test - novel, lambda scene: not scene.is_held_out),
    )
    captions: list[Captioned] = []
    for count, allowed in parts:
        captions += captioned(count, test, allowed, shown, captions)
    changes = [edit for count, allowed in parts for edit in changed(count, test, allowed, shown)]
    taken = set(shown)
    return Split(
        tuple(captioned(sizes.captions, train, lambda scene: not scene.is_held_out, taken, None)),
        tuple(changed(sizes.changes, train, lambda scene: not scene.is_held_out, taken)),
    ), Split(tuple(captions), tuple(changes))


def shown_scenes(split: Split) -> set[Scene]:
    """Return all scenes of which a split has pictures."""
    edits = {scene for edit in split.changes for scene in (edit.before, edit.after)}
    return {pair.scene for pair in split.captions} | edits


def captioned(
    count: int, random: Random, allowed: Callable[[Scene], bool], taken: set[Scene], among: Sequence[Captioned] | None
) -> list[Captioned]:
    """Return captioned scenes in families, no scene twice.

    Args:
        count: How many.
        random: Decides everything.
        allowed: Which scenes may be shown.
        taken: Scenes that may not occur again; those of the result are added.
        among: None: captions may fit other scenes as well. Else no caption, of these and the new ones, fits a scene
            but its own, so that a query has one right answer and recall is well defined.
    """
    found: list[Captioned] = []
    for scene in _families(random, lambda scene: allowed(scene) and scene not in taken):
        if scene in taken:
            continue
        statement = say(scene, random) if among is None else _only_true_of(scene, [*among, *found], random)
        if statement is None:
            continue
        taken.add(scene)
        found.append(Captioned(scene, statement, statement.words(random)))
        if len(found) == count:
            break
    return found


def _only_true_of(scene: Scene, others: Sequence[Captioned], random: Random) -> Statement | None:
    """Return a statement that tells a scene apart from others, or None where some of theirs hold for it, too."""
    if any(other.statement.holds(scene) for other in others):
        return None
    statements = (say(scene, random) for _ in range(_TRIES))
    return next((one for one in statements if not any(one.holds(other.scene) for other in others)), None)


def changed(count: int, random: Random, allowed: Callable[[Scene], bool], taken: set[Scene]) -> list[Change]:
    """Return changes of scenes in families of the same picture before, no scene after twice; see `captioned`."""
    found: list[Change] = []
    while len(found) < count:
        before = random_scene(random)
        if not allowed(before) or before in taken:
            continue
        for _ in range(FAMILY):
            one = change(before, random)
            if one is not None and allowed(one.after) and one.after not in taken and len(found) < count:
                taken |= {before, one.after}
                found.append(one)
    return found


def _families(random: Random, wanted: Callable[[Scene], bool]) -> Iterator[Scene]:
    while True:
        first = random_scene(random)
        if not wanted(first):
            continue
        yield first
        # All neighbours of a small scene may be taken.
        near = islice(neighbours(first, random), _TRIES)
        yield from islice(filter(wanted, near), FAMILY - 1)
