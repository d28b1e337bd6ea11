"""Synthetic scenes to train on in minutes: drawn shapes, captions that fit several pictures, changes, questions.

Everything is made by programs, so that what fits what is known: `write_scenes` writes the data set, `write_base` a tiny
random checkpoint to train on it, and `Truth` measures a judge.

Example:
    >>> write_scenes("scenes", Sizes(captions=200), seed=0)
    >>> write_base("base", "scenes")
"""

from __future__ import annotations

from magicmm_training.scenes.base import write_base
from magicmm_training.scenes.splits import Sizes
from magicmm_training.scenes.truth import Truth
from magicmm_training.scenes.writing import write_scenes

__all__ = ["Sizes", "Truth", "write_base", "write_scenes"]
