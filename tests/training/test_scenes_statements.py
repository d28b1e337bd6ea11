"""Captions and changes are true of their scenes, as an independent reading of the English words decides."""

from __future__ import annotations

import re
from collections import Counter
from random import Random

import pytest

from magicmm_training.scenes.changes import change
from magicmm_training.scenes.questions import counting, listing, place, relation
from magicmm_training.scenes.statements import Beside, Exactly, Has, Kind, Whole, say
from magicmm_training.scenes.world import COLOURS, SHAPES, Scene, Thing, neighbours, random_scene

NUMBER = {"no": 0, "a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4}
NOUN = re.compile(
    rf"(?:(?P<number>{'|'.join(NUMBER)}) )?(?:(?P<colour>{'|'.join(COLOURS)}) )?"
    rf"(?P<shape>{'|'.join(SHAPES)}|shape)(?:es|s)?\b"
)
SIDES = {
    "left of": "left",
    "right of": "right",
    "above": "up",
    "higher than": "up",
    "below": "down",
    "lower than": "down",
}


def read_nouns(words: str) -> list[dict[str, str]]:
    """Return the attributes that each noun of a text names."""
    found = []
    for match in NOUN.finditer(words):
        groups = {key: value for key, value in match.groupdict().items() if value and value != "shape"}
        found.append(groups)
    return found


def matches(thing: Thing, noun: dict[str, str]) -> bool:
    return all(getattr(thing, key) == value for key, value in noun.items() if key != "number")


def stands(one: Thing, side: str, other: Thing) -> bool:
    across, down = one.column - other.column, one.row - other.row
    return {"left": across < 0, "right": across > 0, "up": down < 0, "down": down > 0}[side]


def read_caption(words: str, scene: Scene) -> bool:
    """Decide from the words alone whether they are true of a scene."""
    nouns = read_nouns(words)
    side = next((SIDES[phrase] for phrase in SIDES if phrase in words), None)
    if side is not None:
        first, second = nouns
        return any(
            matches(a, first) and matches(b, second) and stands(a, side, b) for a in scene.things for b in scene.things
        )
    counts = [sum(matches(thing, noun) for thing in scene.things) for noun in nouns]
    if re.match("nothing but|only this|everything here", words):
        wanted = [NUMBER[noun["number"]] for noun in nouns]
        return counts == wanted and sum(wanted) == len(scene.things)
    if re.match("exactly|just|only", words):
        return counts == [NUMBER[nouns[0]["number"]]]
    return all(counts)


def test_captions_are_true_of_their_scene_and_others_agree_with_an_independent_reader() -> None:
    random = Random("captions")
    seen: Counter[tuple[type, bool]] = Counter()
    for _ in range(400):
        scene = random_scene(random)
        statement = say(scene, random)
        words = statement.words(random)
        assert statement.holds(scene) and read_caption(words, scene), words
        near = neighbours(scene, random)
        for other in [next(near) for _ in range(5)] + [random_scene(random)]:
            holds = statement.holds(other)
            assert holds == read_caption(words, other), (words, other)
            seen[type(statement), holds] += 1
    # Each kind of statement was checked where it is true and where it is false.
    assert all(seen[kind, holds] > 10 for kind in (Has, Exactly, Beside, Whole) for holds in (True, False)), seen


def test_one_statement_is_said_in_several_ways() -> None:
    statement = Beside(Kind("ring", "red"), "left", Kind("square", "yellow"))
    said = {statement.words(Random(place)) for place in range(40)}
    assert len(said) > 6
    assert all("a red ring" in words and "a yellow square" in words for words in said)


def test_words_of_one_and_of_several() -> None:
    assert Kind("square", "green").one() == "a green square"
    assert Kind("square", "green").noun(plural=True) == "green squares"
    assert Kind(None, "red").noun(plural=True) == "red shapes"


def test_a_change_changes_what_it_says_and_nothing_else() -> None:
    random = Random("changes")
    seen: set[str] = set()
    for _ in range(300):
        found = change(random_scene(random), random)
        if found is None:
            continue
        gone = found.words.split("without the ")[1:]
        named = read_nouns(found.words)[0]
        (old,) = [thing for thing in found.before.things if matches(thing, named)]
        kept = set(found.before.things) - {old}
        assert kept < set(found.after.things) or (gone and kept == set(found.after.things))
        if gone:
            seen.add("gone")
            continue
        (new,) = set(found.after.things) - kept
        value = re.search(r" is (?:an? )?(\w+)$", found.words)
        assert value is not None
        (attribute,) = [key for key in ("shape", "colour", "row", "column") if getattr(old, key) != getattr(new, key)]
        assert getattr(new, attribute) == value[1]
        seen.add(attribute)
    assert seen == {"gone", "shape", "colour"}


def test_neighbours_differ_in_one_respect() -> None:
    random = Random("neighbours")
    for _ in range(50):
        scene = random_scene(random)
        near = neighbours(scene, random)
        for other in (next(near) for _ in range(5)):
            lost, won = set(scene.things) - set(other.things), set(other.things) - set(scene.things)
            if len(lost) == 2:  # two things in each other's cells
                assert Counter((t.shape, t.colour) for t in lost) == Counter((t.shape, t.colour) for t in won)
            elif lost:
                assert len(lost) == len(won) == 1
                (old,), (new,) = lost, won
                different = [key for key in ("shape", "colour") if getattr(old, key) != getattr(new, key)]
                assert len(different) == 1 and (old.row, old.column) == (new.row, new.column)


@pytest.mark.parametrize("place_", range(30))
def test_answers_are_right(place_: int) -> None:
    random = Random(f"answers {place_}")
    scene = random_scene(random)
    question, answer = counting(scene, random)
    noun = read_nouns(question)[0]
    assert NUMBER[answer] == sum(matches(thing, noun) for thing in scene.things)
    question, answer = relation(scene, random)
    assert read_caption(question.removeprefix("Is ").rstrip("?"), scene) == (answer == "yes")
    question, answer = place(scene, random)
    row, column = "south" in question, "east" in question
    there = [thing for thing in scene.things if (thing.row, thing.column) == (row, column)]
    assert answer == (f"{there[0].colour} {there[0].shape}" if there else "nothing")
    said = [part for part in listing(scene).split(", ") if not part.endswith("nothing")]
    assert len(said) == len(scene.things) and len(listing(scene).split(", ")) == 4
    for part in said:
        (thing,) = [
            thing
            for thing in scene.things
            if matches(thing, read_nouns(part)[0]) and (thing.row, thing.column) == ("south" in part, "east" in part)
        ]
        assert part.endswith(f"{thing.colour} {thing.shape}")
