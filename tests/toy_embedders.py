"""Embedders whose scores are known beforehand: one that sees all, one that guesses, one that sees nothing.

An entry is about a number: that in its text ("thing 17"), or the red and green of its picture.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.entries import Entry, image_bytes

DIM = 64


def thing_image(number: int, side: int = 8) -> bytes:
    """Return a PNG about a number."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), (number % 256, number // 256, 7)).save(file, "PNG")
    return file.getvalue()


def thing_of(entry: Entry) -> int:
    """Return what an entry is about, -1 = nothing; the text goes before the picture."""
    if entry.text is not None:
        found = re.search(r"thing (\d+)", entry.text)
        if found is not None:
            return int(found[1])
    if entry.image is None:
        return -1
    try:
        pixels = np.asarray(Image.open(io.BytesIO(image_bytes(entry.image))).convert("RGB"))
    except OSError:
        raise MagicError(ErrorCode.IMAGE_INVALID, "The picture cannot be decoded.", "Restore it.") from None
    return int(pixels[0, 0, 0]) + 256 * int(pixels[0, 0, 1])


def direction(seed: object) -> NDArray[np.float32]:
    """Return a unit vector that belongs to any seed."""
    digest = hashlib.sha256(repr(seed).encode()).digest()
    vector = np.random.default_rng(int.from_bytes(digest[:8], "little")).normal(size=DIM).astype(np.float32)
    unit: NDArray[np.float32] = vector / np.linalg.norm(vector)
    return unit


class Oracle:
    """Gives equal vectors to entries about the same number, nearly orthogonal ones to others."""

    dim = DIM
    name = "oracle"
    fingerprint = "oracle"

    def __init__(self) -> None:
        self.embedded = 0

    def vector(self, entry: Entry) -> NDArray[np.float32]:
        return direction(thing_of(entry))

    def embed(self, entries: Sequence[Entry]) -> NDArray[np.float32]:
        vectors = np.stack([self.vector(entry) for entry in entries])
        self.embedded += len(entries)
        return vectors


class Guess(Oracle):
    """Gives every content a direction of its own: scores are random."""

    name = fingerprint = "guess"

    def vector(self, entry: Entry) -> NDArray[np.float32]:
        thing_of(entry)
        return direction((entry.content_id(), entry.side))


class Constant(Oracle):
    """Gives everything the same vector."""

    name = fingerprint = "constant"

    def vector(self, entry: Entry) -> NDArray[np.float32]:
        return direction("constant")


class Broken(Oracle):
    """Overflows on one number."""

    name = fingerprint = "broken"

    def vector(self, entry: Entry) -> NDArray[np.float32]:
        return direction(thing_of(entry)) if thing_of(entry) != 3 else np.full(DIM, np.nan, np.float32)
