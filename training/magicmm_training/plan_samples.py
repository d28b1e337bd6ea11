"""How many samples a stage reads, and how long they are: counted where data are there, assumed where they are not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.loop.objective import SourceSpan
from magicmm_training.loop.sampler import BatchSampler
from magicmm_training.loop.schedule import total_steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magicmm_model.config import ModelConfig
    from magicmm_training.recipe import Assumptions, Source, TrainingStage

_TEXT, _IMAGE, _DOCUMENT = "T", "I", "VD"
_UNKNOWN_SIDE = frozenset({_TEXT, _IMAGE})
"""Data of mixed directions count as pictures with text on both sides, the longest there is."""
_IMAGE_MARKS = 3
"""Tokens around a picture: `<img>`, `</img>` and a line break."""


@dataclass(frozen=True, slots=True)
class SourceSize:
    """How much a source holds.

    Attributes:
        name: Of the source.
        rows: Samples that are used; None = neither stated nor there to be counted.
        counted: Whether they were counted in the data.
    """

    name: str
    rows: int | None
    counted: bool


@dataclass(frozen=True, slots=True)
class Length:
    """One sequence.

    Attributes:
        text: Tokens that are not visual.
        tiles: Tiles, each of `ModelConfig.tile_tokens` visual tokens.
    """

    text: float
    tiles: float

    def tokens(self, config: ModelConfig) -> float:
        """Return all tokens."""
        return self.text + self.tiles * config.tile_tokens

    def __add__(self, other: Length) -> Length:
        return Length(self.text + other.text, self.tiles + other.tiles)

    def __mul__(self, times: float) -> Length:
        return Length(self.text * times, self.tiles * times)


def source_size(source: Source, root: Path) -> SourceSize:
    """Return how many samples of a source are used: the recipe's number, or what the files hold.

    Raises:
        MagicError: When files are there but cannot be opened.
    """
    stated = source.samples
    if stated is None and (root / source.path).exists():
        from magicmm_training.data.registry import CONVERSATION_FORMATS, open_conversations, open_pairs

        opened = open_conversations if source.format in CONVERSATION_FORMATS else open_pairs
        return SourceSize(source.name, len(opened(source, root)), counted=True)
    if stated is not None and source.limit is not None:
        stated = min(stated, source.limit)
    return SourceSize(source.name, stated, counted=False)


def stage_steps(stage: TrainingStage, sizes: Sequence[SourceSize], devices: int) -> int:
    """Return how many optimiser steps a stage takes, as the loop counts them.

    Raises:
        MagicError: `argument_invalid` when a source's size is not known.
    """
    if stage.steps is not None:
        return stage.steps
    unknown = [size.name for size in sizes if size.rows is None]
    if unknown or not sizes:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"Stage {stage.name!r}: nobody knows how many samples {', '.join(unknown) or 'no data'} hold.",
            "Put the data where the recipe says, or state `samples` (or the stage's `steps`).",
        )
    spans, start = [], 0
    for source, size in zip(stage.data, sizes, strict=True):
        stop = start + (size.rows or 0)
        spans.append(SourceSpan(source.name, start, stop, source.weight))
        start = stop
    batch = stage.batch.per_device * devices
    sampler = BatchSampler(spans, batch, single_source=stage.batch.single_source, seed=0)
    return total_steps(stage, sampler.steps_per_epoch)


def sides(source: Source) -> tuple[frozenset[str], frozenset[str]]:
    """Return what query and target of a source hold: T, I, VD."""
    if source.group is None:
        return _UNKNOWN_SIDE, _UNKNOWN_SIDE
    query, _, target = source.group.partition("->")
    return _parts(query), _parts(target)


def query_length(source: Source, assumed: Assumptions) -> Length:
    """Return the length of a query."""
    return _length(sides(source)[0], source, assumed, assumed.query_text_tokens)


def target_length(source: Source, assumed: Assumptions) -> Length:
    """Return the length of a candidate."""
    return _length(sides(source)[1], source, assumed, assumed.target_text_tokens)


def conversation_length(assumed: Assumptions) -> Length:
    """Return the mean length of an instruction sample, over all sets."""
    return Length(assumed.prompt_tokens + assumed.conversation_tokens, assumed.conversation_tiles)


def padded(length: float, assumed: Assumptions) -> float:
    """Return how many tokens go through the model for `length` of content."""
    return length / (1 - assumed.padding_share)


def _parts(side: str) -> frozenset[str]:
    return frozenset({_DOCUMENT}) if side == _DOCUMENT else frozenset(side)


def _length(side: frozenset[str], source: Source, assumed: Assumptions, words: int) -> Length:
    tiles = 0.0
    if side & {_IMAGE, _DOCUMENT}:
        tiles = assumed.document_tiles if source.max_tiles > 1 else 1.0
    text = assumed.prompt_tokens + (words if _TEXT in side else 0) + (_IMAGE_MARKS if tiles else 0)
    return Length(text, tiles)
