"""The instruction table, held against the paper's own (tables 11 and 12) and against the sets of MMEB."""

from __future__ import annotations

import pytest

from magicmm_model import instructions
from magicmm_model.instructions import INSTRUCTIONS, TaskGroup, TaskInstruction

ALL = [(group, name) for group, rows in INSTRUCTIONS.items() for name in rows]

# Data set of MMEB -> the group that asks for it, and the data set's name in the paper's tables.
MMEB = {
    **{name: ("I->T", name) for name in ("ImageNet-1K", "ImageNet-A", "ImageNet-R", "HatefulMemes", "VOC2007")},
    **{name: ("I->T", name) for name in ("SUN397", "Place365", "ObjectNet")},
    "Country211": ("I->T", "Country-211"),
    "N24News": ("IT->T", "N24News"),
    **{name: ("IT->T", name) for name in ("OK-VQA", "A-OKVQA", "DocVQA", "InfographicVQA", "ChartQA", "Visual7W")},
    **{name: ("IT->T", name) for name in ("ScienceQA", "VizWiz", "GQA", "TextVQA")},
    "VisDial": ("T->I", "VisDial"),
    "VisualNews t2i": ("T->I", "VisualNews"),
    "VisualNews i2t": ("I->T", "VisualNews"),
    "MSCOCO t2i": ("T->I", "MSCOCO"),
    "MSCOCO i2t": ("I->T", "MSCOCO"),
    "MSCOCO grounding": ("IT->I", "MSCOCO"),
    "NIGHTS": ("I->I", "NIGHTS"),
    "WebQA": ("T->IT", "WebQA"),
    "EDIS": ("T->IT", "EDIS"),
    "Wiki-SS-NQ": ("T->VD", "Wiki-SS-NQ"),
    **{name: ("IT->I", name) for name in ("CIRR", "FashionIQ", "RefCOCO", "Visual7W-Pointing")},
    "OVEN": ("IT->IT", "OVEN"),
    "RefCOCO-Matching": ("IT->IT", "RefCOCO-Matching"),
}

IMAGE, TEXT = "Represent the given image.", "Represent the given text."
RELATED = "Represent the given image with related text information."
ANSWER = "Represent the given image with the given query and retrieve the answer."
EVERYDAY = "Find me an everyday image that matches the given query."
CAPTION = "Find an image caption describing the given image."

# Copied from the paper's tables, not from the module; two or more rows of every group.
PAPER = [
    ("T->T", "BAAI-MTP", "Retrieve relevant texts based on a given query.", TEXT),
    ("I->I", "ImageNet-1K", "Find a image that looks similar to the provided image.", IMAGE),
    ("T->I", "BLIP", "Retrieve relevant images based on a given query.", IMAGE),
    ("T->I", "MSCOCO", EVERYDAY, IMAGE),
    ("T->I", "Flickr30K", EVERYDAY, IMAGE),
    ("T->I", "ShareGPT4V", EVERYDAY, IMAGE),
    (
        *("T->VD", "ColPali", "Retrieve relevant visual documents based on a given query."),
        "Represent the given visual documents.",
    ),
    (
        *("T->VD", "MMLongBench", "Retrieve relevant visual documents based on a given query."),
        "Represent the given visual documents.",
    ),
    ("I->T", "ImageNet-1K", "Represent the given image for classification.", TEXT),
    ("I->T", "ImageNet-R", "Represent the given image for classification.", TEXT),
    (
        *("I->T", "HatefulMemes"),
        "Represent the given image for binary classification to determine whether it constitutes "
        "hateful speech or not.",
        TEXT,
    ),
    ("I->T", "VOC2007", "Identify the object shown in the image.", TEXT),
    ("I->T", "VisualNews", "Find a caption for the news in the given photo.", TEXT),
    ("I->T", "MSCOCO", "Find an image caption describing the given everyday image.", TEXT),
    ("I->T", "SugarCrepe", CAPTION, TEXT),
    (
        *("IT->I", "CIRR"),
        "Given an image, find a similar everyday image with the described changes as the given query.",
        IMAGE,
    ),
    ("IT->I", "FashionIQ", "Find an image to match the fashion image and style note.", IMAGE),
    (
        *("IT->I", "Visual7W-Pointing", "Select the portion of the image that answers the given query."),
        "Represent the cropped image.",
    ),
    ("IT->T", "N24News", "Represent the given news image with the given query for domain classification.", TEXT),
    ("IT->T", "OK-VQA", ANSWER, TEXT),
    ("IT->T", "ScienceQA", ANSWER, TEXT),
    (
        *("T->IT", "WebQA", "Find a related image and text content from Wikipedia that answers the given query."),
        "Represent the given Wikipedia image with related text information.",
    ),
    (
        *("T->IT", "EDIS", "Find a related image and text content from a news that matches the provided query."),
        RELATED,
    ),
    (
        *("IT->IT", "OVEN"),
        "Retrieve a Wikipedia image-description pair that provides evidence for the given query.",
        RELATED,
    ),
    (
        *("IT->IT", "RefCOCO-Matching", "Select the identical object in the image that follows the given query."),
        "Represent the object in the image that follows the given text.",
    ),
]


def test_there_are_the_nine_groups_of_the_paper() -> None:
    assert [group.value for group in INSTRUCTIONS] == [
        *("T->T", "I->I", "T->I", "T->VD", "I->T", "IT->I", "IT->T", "T->IT", "IT->IT")
    ]


@pytest.mark.parametrize(("group", "name", "query", "target"), PAPER, ids=lambda value: value[:20])
def test_the_words_are_those_of_the_paper(group: str, name: str, query: str, target: str) -> None:
    assert INSTRUCTIONS[TaskGroup(group)][name] == TaskInstruction(query, target)


def test_every_group_was_compared_with_the_paper() -> None:
    assert {row[0] for row in PAPER} == {group.value for group in TaskGroup}


def test_every_set_of_mmeb_has_its_instruction() -> None:
    assert len(MMEB) == 36
    assert [name for name, (group, row) in MMEB.items() if row not in INSTRUCTIONS[TaskGroup(group)]] == []


@pytest.mark.parametrize(("group", "name"), ALL)
def test_every_instruction_is_one_sentence_on_one_line(group: TaskGroup, name: str) -> None:
    row = INSTRUCTIONS[group][name]
    for words in (row.query, row.target):
        assert words.endswith(".")
        assert words[0].isupper()
        assert words == " ".join(words.split())
        assert words.count(".") == 1


def asked_for(group: TaskGroup) -> set[str]:
    """What the candidates of a group are called in the sentences about them."""
    found = group.value.split("->")[1]
    return {"T": {"text"}, "I": {"image"}, "VD": {"documents"}, "IT": {"image", "text"}}[found]


@pytest.mark.parametrize(("group", "name"), ALL)
def test_the_target_names_what_the_group_finds(group: TaskGroup, name: str) -> None:
    words = set(INSTRUCTIONS[group][name].target.rstrip(".").split())
    assert words & {"text", "image", "documents"} == asked_for(group)


def test_the_table_cannot_be_changed_by_accident() -> None:
    with pytest.raises(TypeError):
        INSTRUCTIONS[TaskGroup.TEXT_TO_TEXT]["x"] = TaskInstruction("a", "b")  # type: ignore[index]


def test_the_generic_target_instructions() -> None:
    assert {
        *(instructions.TEXT, instructions.IMAGE, instructions.DOCUMENT),
        *(instructions.CROP, instructions.IMAGE_WITH_TEXT),
    } == {TEXT, IMAGE, "Represent the given visual documents.", "Represent the cropped image.", RELATED}
