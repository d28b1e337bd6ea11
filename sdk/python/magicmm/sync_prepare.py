"""The part of a sync that runs ahead in worker threads: read a file, know its content or decode it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from magicmm.errors import PhotoSkipped
from magicmm.records import PhotoFacts

if TYPE_CHECKING:
    from magicmm.embedder import Embedder
    from magicmm.encoders import Pixels
    from magicmm.sources import PhotoRef, PhotoSource


@dataclass(frozen=True, slots=True)
class Task:
    """One file to deal with; `photo_id` is its row, if it has one."""

    source: PhotoSource
    ref: PhotoRef
    photo_id: int | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a task before the model: pixels to embed, known content (no pixels), or a reason to skip."""

    task: Task
    facts: PhotoFacts
    pixels: Pixels | None


class Preparer:
    """Turns a task into an outcome; runs in worker threads and touches no index."""

    def __init__(self, embedder: Embedder, is_known: Callable[[bytes], bool]) -> None:
        """Take what decodes, and the test for content whose vector the index already has."""
        self._embedder = embedder
        self._is_known = is_known

    def __call__(self, task: Task, trust_known: bool = True) -> Outcome:
        """Read, and unless the content is known (and that is trusted), decode and resize."""
        facts = PhotoFacts(task.ref.uri, task.ref.stamp, None)
        try:
            file = task.source.load(task.ref.uri)
            facts = replace(facts, stamp=file.stamp, hash=file.hash)
            if trust_known and self._is_known(file.hash):
                return Outcome(task, facts, None)
            photo = file.decode(self._embedder.decode_side())
            pixels = self._embedder.prepare(photo.rgb)
        except PhotoSkipped as skip:
            detail = str(skip).encode(errors="backslashreplace").decode()  # a path may hold bytes that are not UTF-8
            return Outcome(task, replace(facts, reason=skip.reason, detail=detail), None)
        seen = replace(
            facts,
            taken=photo.taken,
            latitude=photo.latitude,
            longitude=photo.longitude,
            width=photo.width,
            height=photo.height,
        )
        return Outcome(task, seen, pixels)
