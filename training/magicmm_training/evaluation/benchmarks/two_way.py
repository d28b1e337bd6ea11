"""Pictures and their captions, searched in both directions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from magicmm_model.instructions import INSTRUCTIONS, TaskGroup
from magicmm_model.templates import Side
from magicmm_training.evaluation.benchmarks.reading import make_entry
from magicmm_training.evaluation.metrics import Metric
from magicmm_training.evaluation.task import EvaluationTask, Pools, Retrieval

if TYPE_CHECKING:
    from magicmm_training.entries import ImageSource

RECALLS = (Metric("hit", 1), Metric("hit", 5), Metric("hit", 10))
"""R@1, R@5, R@10: is a right one among the first k?"""


@dataclass(frozen=True, slots=True)
class Captioned:
    """Pictures and captions.

    Attributes:
        image_ids: Unique.
        images: In the same order.
        captions: Text and the place of its picture.
        facts: What the reader counted.
    """

    image_ids: tuple[str, ...]
    images: tuple[ImageSource, ...]
    captions: tuple[tuple[str, int], ...]
    facts: Mapping[str, int] = field(default_factory=dict)


def two_way_tasks(
    benchmark: str,
    prefix: str,
    load: Callable[[], Captioned],
    instructions: str,
    folds: int | None = None,
    expected: tuple[int, int] | None = None,
) -> tuple[EvaluationTask, EvaluationTask]:
    """Return the tasks "image to text" and "text to image".

    Args:
        benchmark: Its name.
        prefix: Beginning of the tasks' names; may be empty.
        load: Reads pictures and captions.
        instructions: Row of the paper's table.
        folds: Cut pictures, in order, into so many equal parts that are searched apart; scores are means over parts.
        expected: Published numbers of pictures and captions.
    """
    images, captions = expected or (None, None)
    found = f"{prefix} image to text".strip(), f"{prefix} text to image".strip()
    return (
        EvaluationTask(
            found[0],
            benchmark,
            RECALLS,
            RECALLS[0],
            lambda: image_to_text(load(), instructions, folds),
            expected=images,
        ),
        EvaluationTask(
            found[1],
            benchmark,
            RECALLS,
            RECALLS[0],
            lambda: text_to_image(load(), instructions, folds),
            expected=captions,
        ),
    )


def image_to_text(content: Captioned, instructions: str, folds: int | None = None) -> Retrieval:
    """Return the search for captions; a query is right when any caption of its picture is found."""
    task = INSTRUCTIONS[TaskGroup.IMAGE_TO_TEXT][instructions]
    of_image: dict[int, dict[int, float]] = defaultdict(dict)
    for place, (_, image) in enumerate(content.captions):
        of_image[image][place] = 1.0
    searched = sorted(of_image)
    part = _parts(len(content.images), folds)
    return Retrieval(
        query_ids=tuple(content.image_ids[image] for image in searched),
        queries=[make_entry(None, content.images[image], task, Side.QUERY) for image in searched],
        candidates=[make_entry(text, None, task, Side.CANDIDATE) for text, _ in content.captions],
        relevant=tuple(of_image[image] for image in searched),
        pools=_pools(part, searched, [image for _, image in content.captions]),
        average="queries" if part is None else "pools",
        facts={**content.facts, "images_without_caption": len(content.images) - len(searched)},
    )


def text_to_image(content: Captioned, instructions: str, folds: int | None = None) -> Retrieval:
    """Return the search for pictures, with every caption."""
    task = INSTRUCTIONS[TaskGroup.TEXT_TO_IMAGE][instructions]
    part = _parts(len(content.images), folds)
    counts: dict[int, int] = defaultdict(int)
    ids = []
    for _, image in content.captions:
        ids.append(f"{content.image_ids[image]}#{counts[image]}")
        counts[image] += 1
    return Retrieval(
        query_ids=tuple(ids),
        queries=[make_entry(text, None, task, Side.QUERY) for text, _ in content.captions],
        candidates=[make_entry(None, image, task, Side.CANDIDATE) for image in content.images],
        relevant=tuple({image: 1.0} for _, image in content.captions),
        pools=_pools(part, [image for _, image in content.captions], range(len(content.images))),
        average="queries" if part is None else "pools",
        facts=content.facts,
    )


def _parts(images: int, folds: int | None) -> list[int] | None:
    """Return the part that each picture is in."""
    return None if folds is None else [image * folds // images for image in range(images)]


def _pools(part: list[int] | None, queries: list[int], candidates: list[int] | range) -> Pools | None:
    """Return pools in which queries and candidates belong to pictures of one part."""
    if part is None:
        return None
    of_candidate = np.array([part[image] for image in candidates], np.int64)
    members = tuple(np.flatnonzero(of_candidate == number) for number in range(max(part) + 1))
    return Pools(members, tuple(part[image] for image in queries))
