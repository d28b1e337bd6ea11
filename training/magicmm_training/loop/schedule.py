"""The learning rate over time, as a function of the step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from magicmm_training.recipe import Optimiser, TrainingStage


def total_steps(stage: TrainingStage, steps_per_epoch: int) -> int:
    """Return how many optimiser steps a stage has: its own number, or its epochs in whole steps, at least one."""
    return stage.steps or max(1, round(stage.epochs * steps_per_epoch))


def learning_rate(optimiser: Optimiser, step: int, total: int) -> float:
    """Return the learning rate of a step, counted from 0.

    It rises in a line over the warm-up, reaching `lr` in the first step after it, then falls to 0 (which it would reach
    in step `total`) by a half cosine or a line, or stays.
    """
    warmup = round(optimiser.warmup_share * total)
    if step < warmup:
        return optimiser.lr * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, total - warmup)
    if optimiser.schedule == "cosine":
        return optimiser.lr * (1 + math.cos(math.pi * done)) / 2
    return optimiser.lr * (1 - done) if optimiser.schedule == "linear" else optimiser.lr
