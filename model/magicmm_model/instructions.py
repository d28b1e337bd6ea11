"""The instructions of the paper, by task group and data set (tables 11 and 12 of arXiv 2602.05275v1).

A model answers best to the words it was trained with, so these are the paper's own, word for word; only the full
stop that a few of its cells lack is added. `mmE5-synthetic` is not listed: its queries bring instructions of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class TaskGroup(str, Enum):
    """What is searched with, and what is found: T = text, I = picture, VD = visual document, IT = picture with text."""

    TEXT_TO_TEXT = "T->T"
    IMAGE_TO_IMAGE = "I->I"
    TEXT_TO_IMAGE = "T->I"
    TEXT_TO_DOCUMENT = "T->VD"
    IMAGE_TO_TEXT = "I->T"
    COMPOSED_TO_IMAGE = "IT->I"
    COMPOSED_TO_TEXT = "IT->T"
    TEXT_TO_COMPOSED = "T->IT"
    COMPOSED_TO_COMPOSED = "IT->IT"


@dataclass(frozen=True, slots=True)
class TaskInstruction:
    """The first line of a prompt on either side."""

    query: str
    target: str


TEXT = "Represent the given text."
IMAGE = "Represent the given image."
DOCUMENT = "Represent the given visual documents."
CROP = "Represent the cropped image."
IMAGE_WITH_TEXT = "Represent the given image with related text information."

_EVERYDAY = "Find me an everyday image that matches the given query."
_CLASSIFY = "Represent the given image for classification."
_OBJECT = "Identify the object shown in the image."
_SCENE = "Identify the scene shown in the image."
_CAPTION = "Find an image caption describing the given image."
_DOCUMENTS = "Retrieve relevant visual documents based on a given query."
_LABELLED_PART = "Select the portion of the image where the object label is represented by the given query."
_ANSWER = "Represent the given image with the given query and retrieve the answer."

_VQA = ("Docmatix", "OK-VQA", "A-OKVQA", "DocVQA", "InfographicVQA", "ChartQA", "Visual7W")
_UNSEEN_VQA = ("ScienceQA", "VizWiz", "GQA", "TextVQA")

_G = TaskGroup
_TABLE: dict[TaskGroup, dict[str, tuple[str, str]]] = {
    _G.TEXT_TO_TEXT: {"BAAI-MTP": ("Retrieve relevant texts based on a given query.", TEXT)},
    _G.IMAGE_TO_IMAGE: {
        "ImageNet-1K": ("Find a image that looks similar to the provided image.", IMAGE),
        "NIGHTS": ("Find a day-to-day image that looks similar to the provided image.", IMAGE),
    },
    _G.TEXT_TO_IMAGE: {
        "BLIP": ("Retrieve relevant images based on a given query.", IMAGE),
        "VisDial": ("Represent the given dialogue about an image, which is used for image retrieval.", IMAGE),
        "VisualNews": ("Retrieve an image of the given query.", IMAGE),
        **dict.fromkeys(("MSCOCO", "Flickr30K", "ShareGPT4V", "Urban1K"), (_EVERYDAY, IMAGE)),
    },
    _G.TEXT_TO_DOCUMENT: {
        **dict.fromkeys(("Docmatix", "ColPali", "VisRAG", "ViDoSeek", "MMLongBench"), (_DOCUMENTS, DOCUMENT)),
        "Wiki-SS-NQ": ("Find the document image that can answer the given query.", DOCUMENT),
    },
    _G.IMAGE_TO_TEXT: {
        **dict.fromkeys(("ImageNet-1K", "ImageNet-A", "ImageNet-R"), (_CLASSIFY, TEXT)),
        "HatefulMemes": (
            "Represent the given image for binary classification to determine whether it constitutes hateful speech "
            "or not.",
            TEXT,
        ),
        **dict.fromkeys(("VOC2007", "ObjectNet"), (_OBJECT, TEXT)),
        **dict.fromkeys(("SUN397", "Place365"), (_SCENE, TEXT)),
        "Country-211": ("Identify the country depicted in the image.", TEXT),
        "VisualNews": ("Find a caption for the news in the given photo.", TEXT),
        "MSCOCO": ("Find an image caption describing the given everyday image.", TEXT),
        **dict.fromkeys(("Flickr30K", "ShareGPT4V", "Urban1K", "SugarCrepe"), (_CAPTION, TEXT)),
    },
    _G.COMPOSED_TO_IMAGE: {
        "MegaPairs": ("Represent the given image with the given query and retrieve the related images.", IMAGE),
        "CIRR": (
            "Given an image, find a similar everyday image with the described changes as the given query.",
            IMAGE,
        ),
        "MSCOCO": (_LABELLED_PART, CROP),
        "RefCOCO": (_LABELLED_PART, CROP),
        "FashionIQ": ("Find an image to match the fashion image and style note.", IMAGE),
        "Visual7W-Pointing": ("Select the portion of the image that answers the given query.", CROP),
    },
    _G.COMPOSED_TO_TEXT: {
        # The paper lists N24News among IT->I; its targets are texts.
        "N24News": ("Represent the given news image with the given query for domain classification.", TEXT),
        **dict.fromkeys((*_VQA, *_UNSEEN_VQA), (_ANSWER, TEXT)),
    },
    _G.TEXT_TO_COMPOSED: {
        "WebQA": (
            "Find a related image and text content from Wikipedia that answers the given query.",
            "Represent the given Wikipedia image with related text information.",
        ),
        "EDIS": (
            "Find a related image and text content from a news that matches the provided query.",
            IMAGE_WITH_TEXT,
        ),
    },
    _G.COMPOSED_TO_COMPOSED: {
        "OVEN": (
            "Retrieve a Wikipedia image-description pair that provides evidence for the given query.",
            IMAGE_WITH_TEXT,
        ),
        "RefCOCO-Matching": (
            "Select the identical object in the image that follows the given query.",
            "Represent the object in the image that follows the given text.",
        ),
    },
}

INSTRUCTIONS: Mapping[TaskGroup, Mapping[str, TaskInstruction]] = MappingProxyType(
    {
        group: MappingProxyType({name: TaskInstruction(query, target) for name, (query, target) in rows.items()})
        for group, rows in _TABLE.items()
    }
)
"""Task group -> data set -> the two instructions."""
