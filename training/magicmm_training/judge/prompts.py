"""The judge's question: what makes a target right for this task, the query, the target, and yes or no (paper 3.3).

The paper words its question by data set. A data set is known here by the instruction that its queries are read under,
so that any data read under the paper's instructions is judged by its question.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from magicmm_model.instructions import INSTRUCTIONS, TaskGroup
from magicmm_training.judge.message import Message, said

if TYPE_CHECKING:
    from collections.abc import Mapping

    from magicmm_training.entries import Entry

PROMPT_VERSION = 1
"""Raised with every change of a word here: answers to other words are asked for again."""

_G = TaskGroup
_OF_GROUP = {
    _G.TEXT_TO_TEXT: "Is the target text relevant to the query?",
    _G.IMAGE_TO_IMAGE: "Are the query image and the target image alike?",
    _G.TEXT_TO_IMAGE: "Is the query text relevant to the target image?",
    _G.TEXT_TO_DOCUMENT: "Is the target document relevant to the query?",
    _G.IMAGE_TO_TEXT: "Can the target text be a caption of the query image?",
    _G.COMPOSED_TO_IMAGE: "Does the query image with the change in words lead to the target image?",
    _G.COMPOSED_TO_TEXT: "Is the target the right answer to the question about the query image?",
    _G.TEXT_TO_COMPOSED: "Are the target image and its text relevant to the query?",
    _G.COMPOSED_TO_COMPOSED: "Do the target image and its text give what the query asks about its image?",
}
_CLASS = "Does the query image show an object of the target class?"
_SCENE = "Does the query image show the target scene?"
_LABEL = "Does the target image show the part of the query image that the query text names?"
_OF_SET = {
    (_G.TEXT_TO_IMAGE, "VisDial"): "Is the query dialogue about the target image?",
    (_G.IMAGE_TO_TEXT, "ImageNet-1K"): _CLASS,
    (_G.IMAGE_TO_TEXT, "VOC2007"): _CLASS,
    (_G.IMAGE_TO_TEXT, "SUN397"): _SCENE,
    (_G.IMAGE_TO_TEXT, "Country-211"): "Was the query image taken in the target country?",
    (_G.IMAGE_TO_TEXT, "HatefulMemes"): "Is the target the right answer to whether the query image is hateful?",
    (
        _G.COMPOSED_TO_IMAGE,
        "MegaPairs",
    ): "Is the target image related to the query image as the text says?",
    (_G.COMPOSED_TO_IMAGE, "MSCOCO"): _LABEL,
    (_G.COMPOSED_TO_IMAGE, "FashionIQ"): "Does the query image with the style note lead to the target image?",
    (_G.COMPOSED_TO_IMAGE, "Visual7W-Pointing"): "Does the target image show the part that answers the query?",
    (_G.COMPOSED_TO_TEXT, "N24News"): "Does the target name the domain of the query's news image and text?",
    (_G.COMPOSED_TO_COMPOSED, "RefCOCO-Matching"): "Do the query and the target describe the same object?",
}


def _by_instruction() -> dict[str, str]:
    questions: dict[str, str] = {}
    for group, rows in INSTRUCTIONS.items():
        for name, instruction in rows.items():
            questions.setdefault(instruction.query, _OF_GROUP[group])
            if (group, name) in _OF_SET:
                questions[instruction.query] = _OF_SET[group, name]
    return questions


QUESTIONS: Mapping[str, str] = MappingProxyType(_by_instruction())
"""Instruction of a query -> question about its targets."""


def question(query: Entry) -> str:
    """Return what is asked about the targets of a query; under an unknown instruction, whether they fulfil it."""
    return QUESTIONS.get(query.instruction, f"Does the target fulfil this request: {query.instruction}")


def judge_message(query: Entry, target: Entry) -> Message:
    """Return the whole question about a query and one target."""
    return Message((f"{question(query)}\nQuery: ", *said(query), "\nTarget: ", *said(target), "\nAnswer yes or no."))
