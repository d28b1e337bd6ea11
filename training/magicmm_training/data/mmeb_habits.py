"""How MMEB writes its rows: an image marker, an instruction, then the words; and the paper's instructions by subset.

MMEB is arXiv 2410.05160. Its wordings are kept here only to be recognised and removed: entries are read under the
paper's instructions (`magicmm_model.instructions`), which say the same on a line of their own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from magicmm_model.instructions import TaskGroup
from magicmm_training.data.prompts import task_instruction

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from magicmm_model.instructions import TaskInstruction
    from magicmm_training.data.rows import Row
    from magicmm_training.recipe import Source

_MARKER = re.compile(r"\s*<\|image_1\|>\s*")
_TARGETS = (
    "Represent the given Wikipedia image with related text information",
    "Represent the given image with related text information",
    "Represent the given cropped image of the object",
    "Select the portion of the image that follows the language expressions",
    "Represent the given Wikipedia image",
    "Represent the given image",
    # Variants with longer instructions on the target side (B3).
    "Represent the class label",
    "Represent the answer",
    "Represent the image caption",
)


@dataclass(frozen=True, slots=True)
class Habit:
    """How one subset writes queries.

    Attributes:
        group: Its task group.
        name: Its row in the paper's table.
        begins: What a query begins with, after the image marker.
    """

    group: TaskGroup
    name: str
    begins: str


_G = TaskGroup
_QUESTION = "Represent the given image with the following question"
_CLASS = "Represent the given image for classification"
_OBJECT = "Identify the object shown in the image"
_SCENE = "Identify the scene shown in the image"
_EXPRESSION = "Select the portion of the image that follows the language expressions"

_TRAINED = {
    "ImageNet-1K": Habit(_G.IMAGE_TO_TEXT, "ImageNet-1K", _CLASS),
    "N24News": Habit(
        _G.COMPOSED_TO_TEXT,
        "N24News",
        "Represent the given news image with the following caption for domain classification",
    ),
    "HatefulMemes": Habit(
        _G.IMAGE_TO_TEXT,
        "HatefulMemes",
        "Represent the given image for binary classification to determine whether it constitutes hateful speech or not",
    ),
    "VOC2007": Habit(_G.IMAGE_TO_TEXT, "VOC2007", _OBJECT),
    "SUN397": Habit(_G.IMAGE_TO_TEXT, "SUN397", _SCENE),
    **{
        name: Habit(_G.COMPOSED_TO_TEXT, name, _QUESTION)
        for name in ("OK-VQA", "A-OKVQA", "DocVQA", "ChartQA", "Visual7W")
    },
    "InfographicsVQA": Habit(_G.COMPOSED_TO_TEXT, "InfographicVQA", _QUESTION),
    "VisDial": Habit(
        _G.TEXT_TO_IMAGE, "VisDial", "Represent the given dialogue about an image, which is used for image retrieval"
    ),
    "CIRR": Habit(
        _G.COMPOSED_TO_IMAGE, "CIRR", "Given an image, find a similar everyday image with the described changes"
    ),
    "VisualNews_t2i": Habit(_G.TEXT_TO_IMAGE, "VisualNews", "Retrieve an image of this news caption"),
    "VisualNews_i2t": Habit(_G.IMAGE_TO_TEXT, "VisualNews", "Find a caption for the news in the given photo"),
    "MSCOCO_t2i": Habit(_G.TEXT_TO_IMAGE, "MSCOCO", "Find me an everyday image that matches the given caption"),
    "MSCOCO_i2t": Habit(_G.IMAGE_TO_TEXT, "MSCOCO", "Find an image caption describing the given everyday image"),
    "NIGHTS": Habit(_G.IMAGE_TO_IMAGE, "NIGHTS", "Find a day-to-day image that looks similar to the provided image"),
    "WebQA": Habit(_G.TEXT_TO_COMPOSED, "WebQA", "Find a Wikipedia image that answers this question"),
    "MSCOCO": Habit(
        _G.COMPOSED_TO_IMAGE, "MSCOCO", "Select the portion of the image that isolates the object labeled as"
    ),
}
_UNSEEN = {
    "Place365": Habit(_G.IMAGE_TO_TEXT, "Place365", _SCENE),
    "ImageNet-A": Habit(_G.IMAGE_TO_TEXT, "ImageNet-A", _CLASS),
    "ImageNet-R": Habit(_G.IMAGE_TO_TEXT, "ImageNet-R", _CLASS),
    "ObjectNet": Habit(_G.IMAGE_TO_TEXT, "ObjectNet", _OBJECT),
    "Country211": Habit(_G.IMAGE_TO_TEXT, "Country-211", "Identify the country depicted in the image"),
    **{name: Habit(_G.COMPOSED_TO_TEXT, name, _QUESTION) for name in ("ScienceQA", "VizWiz", "GQA", "TextVQA")},
    "FashionIQ": Habit(_G.COMPOSED_TO_IMAGE, "FashionIQ", "Find an image to match the fashion image and style note"),
    "Wiki-SS-NQ": Habit(_G.TEXT_TO_DOCUMENT, "Wiki-SS-NQ", "Find the document image that can answer the given query"),
    "OVEN": Habit(
        _G.COMPOSED_TO_COMPOSED,
        "OVEN",
        "Retrieve a Wikipedia image-description pair that provides evidence for the question of this image",
    ),
    "EDIS": Habit(_G.TEXT_TO_COMPOSED, "EDIS", "Find a news image that matches the provided caption"),
    "RefCOCO": Habit(_G.COMPOSED_TO_IMAGE, "RefCOCO", _EXPRESSION),
    "RefCOCO-Matching": Habit(_G.COMPOSED_TO_COMPOSED, "RefCOCO-Matching", _EXPRESSION),
    "Visual7W-Pointing": Habit(
        _G.COMPOSED_TO_IMAGE, "Visual7W-Pointing", "Select the portion of the image that answers the question"
    ),
}

TRAINED: Mapping[str, Habit] = MappingProxyType(_TRAINED)
"""The 20 subsets that MMEB trains on; the files spell the first `ImageNet_1K`."""
UNSEEN: Mapping[str, Habit] = MappingProxyType(_UNSEEN)
"""The 16 subsets that MMEB only evaluates."""


_SPELLINGS = {"ImageNet_1K": "ImageNet-1K", "InfographicVQA": "InfographicsVQA"}
"""As training files write the first, and the paper the second."""


def habit_of(names: Iterable[str]) -> Habit | None:
    """Return the habit of the first name that is a subset of MMEB, in either spelling; None when none is."""
    for name in names:
        spelt = _SPELLINGS.get(name, name)
        if found := _TRAINED.get(spelt) or _UNSEEN.get(spelt):
            return found
    return None


def subset_habit(source: Source) -> Habit | None:
    """Return the habit of the subset that a source reads, by the name of its folder or by its own; None = none."""
    path = Path(source.path)
    return habit_of((path.name, path.parent.name, source.name))


def subset_task(source: Source) -> TaskInstruction | None:
    """Return the paper's instructions for a source; see `task_instruction`."""
    habit = subset_habit(source)
    return task_instruction(source, habit.group.value, habit.name) if habit else task_instruction(source)


def without_marker(text: str | None) -> str | None:
    """Return a text without the image marker before it, which stands there even in rows without a picture (WebQA)."""
    if text is None:
        return None
    found = _MARKER.match(text)
    return (text[found.end() :] if found else text).strip() or None


def query_words(row: Row, field: str, text: str | None, habit: Habit) -> str | None:
    """Return the words of a query without marker and instruction; None when nothing is left.

    Raises:
        MagicError: `text_invalid` when the query does not begin as those of its subset do.
    """
    bare = without_marker(text)
    if bare is None:
        return None
    words = _after(bare, habit.begins)
    if words is None:
        raise row.fault(
            field,
            f"does not begin with {habit.begins!r}",
            remedy="Use the files with MMEB's original instructions (split `original`), or mend the row.",
        )
    return words or None


def target_words(text: str | None) -> str | None:
    """Return the words of a target without marker and instruction; None when nothing is left."""
    bare = without_marker(text)
    if bare is None:
        return None
    for begins in _TARGETS:
        words = _after(bare, begins)
        if words is not None:
            return words or None
    return bare


def _after(text: str, begins: str) -> str | None:
    """Return what follows an instruction that ends in ":", "." or before a quoted phrase; None without it."""
    if not text.startswith(begins):
        return None
    rest = text[len(begins) :]
    if rest[:1] in (":", "."):
        rest = rest[1:]
    elif rest.strip() and not rest.lstrip().startswith('"'):
        return None
    words = rest.strip()
    quoted = len(words) > 1 and words[0] == words[-1] == '"' and '"' not in words[1:-1]
    return words[1:-1] if quoted else words
