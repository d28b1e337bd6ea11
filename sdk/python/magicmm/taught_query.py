"""The searching side of concepts: a text that names one becomes a vector of its photos and of the other words.

Weights were chosen on development photos and rendered pairs (benchmarks/taught.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from magicmm.concept_rows import ConceptRows
from magicmm.concepts import split_names
from magicmm.errors import ErrorCode, MagicError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magicmm.embedder import Embedder, Vector
    from magicmm.index import Index

    Exact = NDArray[np.float64]
    """float64 [dim]: queries come out alike in every language, whatever the order of sums."""

REST_WEIGHT = 1.0
"""Weight of the other words (or of photo and words) beside the concepts, both of unit length."""
NOUN_WEIGHT = 0.6
"""A noun counts as that many examples: it helps one photo and is outvoted by many."""
_LEAST_LENGTH = 1e-6


@dataclass(frozen=True)
class NamedConcept:
    """A concept that a text names: its examples as unit rows [n, dim], n >= 1."""

    name: str
    noun: str | None
    examples: NDArray[np.float32]


@dataclass(frozen=True)
class ReadText:
    """What a text says: concepts that it names, and the words beside them (None = none that says anything)."""

    concepts: tuple[NamedConcept, ...]
    rest: str | None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the concepts, as they were taught."""
        return tuple(concept.name for concept in self.concepts)


def read_text(index: Index, text: str | None, embedder: Embedder) -> ReadText:
    """Find taught names in the text of a query; those without an example of this model are words like others."""
    if text is None:
        return ReadText((), None)
    rows = ConceptRows(index)
    known = rows.known()
    usable = {}
    for key in split_names(text, known)[0]:
        examples = rows.vectors(known[key], embedder.fingerprint, embedder.dim)
        if len(examples):
            usable[key] = NamedConcept(known[key].name, known[key].noun, examples)
    keys, rest = split_names(text, usable)
    return ReadText(tuple(usable[key] for key in keys), rest)


def embed_read(embedder: Embedder, read: ReadText, image: object | None, truncate: bool) -> Vector:
    """Embed a query: the other words (and the photo) as ever, joined with the concepts that the text names.

    Raises:
        MagicError: As `Embedder.embed_query`.
    """
    if not read.concepts:
        return embedder.embed_query(read.rest, image, truncate)
    vector = _unit(np.sum([prototype(embedder, concept) for concept in read.concepts], axis=0))
    if read.rest is not None or image is not None:
        vector = _unit(vector + REST_WEIGHT * _unit(embedder.embed_query(read.rest, image, truncate)))
    return vector.astype(np.float32)


def prototype(embedder: Embedder, concept: NamedConcept) -> Exact:
    """Return the unit vector that stands for a concept: the mean of its examples, its noun among them."""
    vector = _unit(concept.examples.sum(axis=0, dtype=np.float64))
    if concept.noun is not None:
        noun = _unit(embedder.embed_query(concept.noun, truncate=True))
        vector = _unit(vector + NOUN_WEIGHT / len(concept.examples) * noun)
    return vector


def _unit(vector: NDArray[np.floating[Any]]) -> Exact:
    exact = vector.astype(np.float64)
    length = np.sqrt(exact @ exact)
    if length < _LEAST_LENGTH:
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            "The taught photos and the words of this query cancel each other out.",
            "Search without taught names (--no-taught), or teach by other photos.",
        )
    unit: Exact = exact / length
    return unit
