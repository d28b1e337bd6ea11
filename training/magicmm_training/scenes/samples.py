"""The instruction samples that the restoration stage trains on: looking at pictures, and matching.

They are two sets, so that batches hold one of them only: the loss is a mean over answer tokens, and beside captions of
fifteen tokens an answer of one token would hardly count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from magicmm_model.instructions import TaskGroup
from magicmm_training.scenes import matching, questions
from magicmm_training.scenes.cases import make_case
from magicmm_training.scenes.world import random_scene

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from magicmm_training.scenes.questions import Sample
    from magicmm_training.scenes.world import Scene

    Allowed = Callable[[Scene], bool]

LOOK_SHARE = 0.375
"""Of all samples; the others are about matching, which is the harder thing to learn."""
_CAPTION_SHARE = 0.7
"""Of looking; the others are questions."""
_CLAIM_SHARE, _LISTWISE_SHARE = 0.55, 0.05
"""Of matching; the others ask as the judge does."""
_GROUPS = (TaskGroup.TEXT_TO_IMAGE, TaskGroup.IMAGE_TO_TEXT, TaskGroup.COMPOSED_TO_IMAGE)


def looking_samples(count: int, random: Random, allowed: Allowed) -> list[Sample]:
    """Return captions and questions about scenes that `allowed` lets pass."""
    found = []
    for _ in range(count):
        ask = questions.caption if random.random() < _CAPTION_SHARE else questions.question
        found.append(ask(_scene(random, allowed), random))
    return found


def matching_samples(count: int, random: Random, allowed: Allowed) -> list[Sample]:
    """Return claims, and queries with targets that fit or do not, about scenes that `allowed` lets pass."""
    found: list[Sample] = []
    while len(found) < count:
        scene, drawn = _scene(random, allowed), random.random()
        if drawn < _CLAIM_SHARE:
            found.append(matching.claim(scene, random))
            continue
        in_list = drawn < _CLAIM_SHARE + _LISTWISE_SHARE
        case = make_case(random.choice(_GROUPS), scene, random, random.randint(2, 5) if in_list else 1, allowed)
        if case is not None:
            found.append(matching.listwise(case, random) if in_list else matching.pointwise(case, random))
    return found


def _scene(random: Random, allowed: Allowed) -> Scene:
    while not allowed(scene := random_scene(random)):
        pass
    return scene
