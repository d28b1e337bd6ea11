"""Pair sets and embedders in memory, for tests of mining, judge and reranker."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from magicmm_model.templates import Side
from magicmm_training.entries import Entry, Pair

if TYPE_CHECKING:
    from magicmm_training.entries import Floats


def query(text: str | None, image: bytes | None = None, instruction: str = "Find it.") -> Entry:
    return Entry(text, image, instruction, Side.QUERY)


def candidate(text: str | None, image: bytes | None = None, instruction: str = "Represent it.") -> Entry:
    return Entry(text, image, instruction, Side.CANDIDATE)


def picture(colour: tuple[int, int, int], side: int = 32) -> bytes:
    """Return a picture of one colour as the bytes of a PNG."""
    file = BytesIO()
    Image.new("RGB", (side, side), colour).save(file, "PNG")
    return file.getvalue()


@dataclass
class MemoryPairs:
    """A `PairSet`; an error in place of a pair is raised."""

    pairs: Sequence[Pair | Exception]
    name: str = "toys"
    fingerprint: str = "f0"

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, place: int) -> Pair:
        pair = self.pairs[place]
        if isinstance(pair, Exception):
            raise pair
        return pair


@dataclass
class HashEmbedder:
    """An `EntryEmbedder` whose vectors depend on content and role only, at random; `refuse` raises for an entry."""

    dim: int = 8
    name: str = "hash"
    fingerprint: str = "hash-1"
    refuse: Callable[[Entry], None] | None = None
    batches: list[int] = field(default_factory=list)

    def embed(self, entries: Sequence[Entry]) -> Floats:
        self.batches.append(len(entries))
        rows = []
        for entry in entries:
            if self.refuse:
                self.refuse(entry)
            seed = hashlib.sha256(f"{entry.content_id()} {entry.role}".encode()).digest()[:4]
            rows.append(np.random.default_rng(int.from_bytes(seed, "big")).normal(size=self.dim))
        vectors = np.array(rows)
        unit: Floats = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        return unit


def numbered_pairs(count: int, name: str = "toys") -> MemoryPairs:
    """Return pairs of one number each, as texts."""
    pairs = [Pair(str(n), name, query(f"query {n}"), candidate(f"answer {n}")) for n in range(count)]
    return MemoryPairs(pairs, name)
