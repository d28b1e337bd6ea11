"""Looks for evaluation data among training data, by content: under whatever name and instruction it comes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from magicmm_training.data.findings import Findings, Kind
from magicmm_training.entries import image_bytes

if TYPE_CHECKING:
    from magicmm_training.entries import Entry

_FEWEST_WORDS = 5
"""Shorter texts are labels and answers, which training and evaluation may share."""


@dataclass(frozen=True, slots=True)
class Content:
    """What entries are compared by; 64 bits each, so that millions fit in memory.

    Attributes:
        entry: Content id of the whole.
        image: Of the picture's bytes, or None.
        text: Of the text without regard to case and spaces, or None for one of few words.
    """

    entry: int
    image: int | None
    text: int | None

    @classmethod
    def of(cls, entry: Entry) -> tuple[Content, bytes | None]:
        """Return the content of an entry, and the bytes of its picture, read once.

        Raises:
            MagicError: `image_invalid` when the picture cannot be read.
        """
        data = None if entry.image is None else image_bytes(entry.image)
        whole = entry if data is None else replace(entry, image=data)
        words = (entry.text or "").casefold().split()
        text = _digest(" ".join(words).encode()) if len(words) >= _FEWEST_WORDS else None
        return cls(int(whole.content_id()[:16], 16), None if data is None else _digest(data), text), data


class BenchmarkIndex:
    """The contents of all benchmarks."""

    def __init__(self) -> None:
        """Start with none."""
        self._entries: dict[int, str] = {}
        self._images: dict[int, str] = {}
        self._texts: dict[int, str] = {}

    def add(self, benchmark: str, entry: Entry) -> None:
        """Take up an entry.

        Raises:
            MagicError: `image_invalid` when its picture cannot be read.
        """
        content, _ = Content.of(entry)
        if content.image is not None:
            self._entries.setdefault(content.entry, benchmark)
            self._images.setdefault(content.image, benchmark)
        elif content.text is not None:
            self._texts.setdefault(content.text, benchmark)

    def compare(self, content: Content, where: str, findings: Findings) -> None:
        """Report an entry of training data that is also in a benchmark.

        The same picture with the same text (or both without) is an error: the model would train on what it is measured
        with. The same picture with other words, and the same sentence, are warnings: data sets are built on one
        another's pictures, and short captions repeat.
        """
        if benchmark := self._entries.get(content.entry):
            findings.error(Kind.LEAKAGE, f"{where} is an entry of {benchmark}")
        elif content.image is not None and (benchmark := self._images.get(content.image)):
            findings.warning(Kind.SHARED_IMAGE, f"{where} has a picture of {benchmark}")
        elif content.image is None and content.text is not None and (benchmark := self._texts.get(content.text)):
            findings.warning(Kind.SHARED_TEXT, f"{where} is a text of {benchmark}")

    def compare_image(self, data: bytes, where: str, findings: Findings) -> None:
        """Report a picture of an instruction sample that is also in a benchmark."""
        if benchmark := self._images.get(_digest(data)):
            findings.warning(Kind.SHARED_IMAGE, f"{where} has a picture of {benchmark}")


def _digest(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
