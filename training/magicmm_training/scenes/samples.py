"""The mixture of instruction samples that the restoration stage trains on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magicmm_model.instructions import TaskGroup
from magicmm_training.scenes import matching, questions
from magicmm_training.scenes.cases import make_case
from magicmm_training.scenes.questions import Sample
from magicmm_training.scenes.world import random_scene

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from magicmm_training.scenes.world import Scene

__all__ = ["Sample", "instruction_samples"]

_SHARES = ((0.35, questions.caption), (0.3, matching.claim), (0.1, questions.question))
"""Of the samples; the others ask as judge and reranker do."""
_LISTWISE_SHARE = 0.1
"""Of those."""
_GROUPS = (TaskGroup.TEXT_TO_IMAGE, TaskGroup.IMAGE_TO_TEXT, TaskGroup.COMPOSED_TO_IMAGE)


def instruction_samples(count: int, random: Random, allowed: Callable[[Scene], bool]) -> list[Sample]:
    """Return instruction samples about scenes that `allowed` lets pass."""
    found: list[Sample] = []
    while len(found) < count:
        scene = random_scene(random)
        sample = _sample(scene, random, allowed) if allowed(scene) else None
        if sample is not None:
            found.append(sample)
    return found


def _sample(scene: Scene, random: Random, allowed: Callable[[Scene], bool]) -> Sample | None:
    drawn = random.random()
    for share, ask in _SHARES:
        if drawn < share:
            return ask(scene, random)
        drawn -= share
    in_list = random.random() < _LISTWISE_SHARE
    case = make_case(random.choice(_GROUPS), scene, random, random.randint(2, 5) if in_list else 1, allowed)
    if case is None:
        return None
    return matching.listwise(case, random) if in_list else matching.pointwise(case, random)
