"""Instruction samples that ask whether something fits, in the words of judge and reranker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magicmm_model.instructions import INSTRUCTIONS, TaskGroup
from magicmm_model.templates import Side
from magicmm_training.entries import Entry
from magicmm_training.judge.prompts import judge_message
from magicmm_training.scenes.cases import PAPER_ROWS
from magicmm_training.scenes.questions import Sample
from magicmm_training.scenes.statements import Has, Kind, say
from magicmm_training.scenes.world import neighbours, random_scene

if TYPE_CHECKING:
    from random import Random

    from magicmm_training.scenes.cases import Case, Part
    from magicmm_training.scenes.statements import Statement
    from magicmm_training.scenes.world import Scene


FURTHER = 3
"""Captions that are asked about after the first: a line of text costs less than another picture."""
_SIMPLE_SHARE = 0.6
"""Of claims, so many name one thing only, in part: whoever cannot find a red shape will not learn whole captions."""


def claim(scene: Scene, random: Random) -> Sample:
    """Ask about one claim in as few words as can be, so that comparing words with a picture is learnt early."""
    said, answer = _claim(scene, random)
    question = f"<image>\n{said}?" if random.random() < 0.5 else f"{said}?\n<image>"
    return Sample(((question, answer),), (scene,))


def pointwise(case: Case, random: Random) -> Sample:
    """Ask whether one target fits, and then about further captions of its picture: yes in half of the answers."""
    fits = random.random() < 0.5
    target = case.right if fits else random.choice(case.wrong)
    asked = INSTRUCTIONS[case.group][PAPER_ROWS[case.group]]
    query = _entry(case.query, asked.query, Side.QUERY)
    question = judge_message(query, _entry(target, asked.target, Side.CANDIDATE)).text
    scenes = tuple(part.scene for part in (case.query, target) if part.scene is not None)
    exchanges = [(question, _yes_or_no(fits))]
    if case.group is not TaskGroup.COMPOSED_TO_IMAGE:
        exchanges += [_further(scenes[0], random) for _ in range(FURTHER)]
    return Sample(tuple(exchanges), scenes)


def _further(scene: Scene, random: Random) -> tuple[str, str]:
    said, answer = _claim(scene, random)
    return f"And: {said}?", answer


def _claim(scene: Scene, random: Random) -> tuple[str, str]:
    """Return words that are true of the scene, or true of another one and false here; and whether they are true."""
    fits = random.random() < 0.5
    near = neighbours(scene, random)
    simple = random.random() < _SIMPLE_SHARE
    while True:
        other = scene if fits else next(near) if random.random() < 0.6 else random_scene(random)
        said = _simple(other, random) if simple else say(other, random)
        if said.holds(scene) == fits:
            return said.words(random), _yes_or_no(fits)


def _simple(scene: Scene, random: Random) -> Statement:
    """Return a statement about a shape, a colour, or both."""
    thing = random.choice(scene.things)
    kinds = (Kind(thing.shape), Kind(None, thing.colour), Kind(thing.shape, thing.colour))
    return Has((random.choice(kinds),))


def _yes_or_no(fits: bool) -> str:
    return "yes" if fits else "no"


def listwise(case: Case, random: Random) -> Sample:
    """Ask which of several targets fits best; the answer is its number, from 1."""
    targets = [case.right, *case.wrong]
    random.shuffle(targets)
    numbered = "\n".join(f"({place}) {_words(part)}" for place, part in enumerate(targets, start=1))
    scenes = tuple(part.scene for part in (case.query, *targets) if part.scene is not None)
    question = f"Which candidate fits the query best?\nQuery: {_words(case.query)}\n{numbered}\nAnswer its number."
    return Sample(((question, str(1 + targets.index(case.right))),), scenes)


def _entry(part: Part, instruction: str, side: Side) -> Entry:
    return Entry(part.text, None if part.scene is None else b"", instruction, side)


def _words(part: Part) -> str:
    return " ".join(piece for piece in ("<image>" if part.scene else None, part.text) if piece)
