"""The tables `concept` and `example` of an index, which exist once something was taught (docs/FORMAT.md, part 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from magicmm.concepts import Concept, Key, key_of
from magicmm.schema import corrupt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from magicmm.index import Index
    from magicmm.quantise import Codes

# Examples name their model by fingerprint and not by its row: they outlive a rebuild by an SDK that cannot renew them.
TABLES = (
    "CREATE TABLE IF NOT EXISTS concept (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE,"
    " name TEXT NOT NULL, noun TEXT)",
    "CREATE TABLE IF NOT EXISTS example (concept_id INTEGER NOT NULL REFERENCES concept (id) ON DELETE CASCADE,"
    " hash BLOB NOT NULL, uri TEXT, fingerprint TEXT NOT NULL, scale REAL NOT NULL, codes BLOB NOT NULL,"
    " PRIMARY KEY (concept_id, hash))",
)


@dataclass(frozen=True, slots=True)
class Example:
    """One photo that a concept was taught by; `hash` as in the table `photo`, the vector as in `vector`."""

    hash: bytes
    uri: str | None
    fingerprint: str
    codes: Codes
    scale: float


@dataclass(frozen=True, slots=True)
class KnownConcept:
    """A row of `concept`."""

    id: int
    name: str
    noun: str | None


class ConceptRows:
    """Reads and writes what was taught; writes belong inside `Index.transaction`."""

    def __init__(self, index: Index) -> None:
        """Take an open index."""
        self._index = index

    def known(self) -> dict[Key, KnownConcept]:
        """Return all concepts by the folded words of their name."""
        if not self._index.query("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'concept'"):
            return {}
        rows = self._index.query("SELECT id, name, noun FROM concept ORDER BY key")
        found = [self._concept(*row) for row in rows]
        return {key_of(concept.name): concept for concept in found}

    def put(self, name: str, noun: str | None) -> KnownConcept:
        """Add a concept, or give a known one this spelling and noun."""
        for table in TABLES:
            self._index.query(table)
        key = " ".join(key_of(name))
        self._index.query("INSERT OR IGNORE INTO concept (key, name) VALUES (?, ?)", key, name)
        self._index.query("UPDATE concept SET name = ?, noun = ? WHERE key = ?", name, noun, key)
        ((concept_id,),) = self._index.query("SELECT id FROM concept WHERE key = ?", key)
        return KnownConcept(concept_id, name, noun)

    def remove(self, concept: KnownConcept) -> None:
        """Delete a concept with its examples."""
        self._index.query("DELETE FROM concept WHERE id = ?", concept.id)

    def clear(self, concept: KnownConcept) -> None:
        """Delete the examples of a concept."""
        self._index.query("DELETE FROM example WHERE concept_id = ?", concept.id)

    def put_example(self, concept: KnownConcept, example: Example) -> None:
        """Add an example; the same photo again takes the place of the old one."""
        key = concept.id, example.hash
        values = example.uri, example.fingerprint, float(example.scale), example.codes.tobytes()
        # An updated row keeps its place among the examples; INSERT OR REPLACE would make it the last.
        self._index.query(
            "INSERT OR IGNORE INTO example (concept_id, hash, uri, fingerprint, scale, codes)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            *key,
            *values,
        )
        self._index.query(
            "UPDATE example SET uri = ?, fingerprint = ?, scale = ?, codes = ? WHERE concept_id = ? AND hash = ?",
            *values,
            *key,
        )

    def examples(self, concept: KnownConcept) -> list[Example]:
        """Return the examples of a concept, oldest first, whatever model their vectors are of."""
        rows = self._index.query(
            "SELECT hash, uri, fingerprint, scale, codes FROM example WHERE concept_id = ? ORDER BY rowid", concept.id
        )
        found = [read_example(*row) for row in rows]
        sound = [example for example in found if example is not None]
        if len(sound) < len(found):
            raise corrupt(self._index.path, "the table of examples makes no sense")
        return sound

    def vectors(self, concept: KnownConcept, fingerprint: str, dim: int) -> NDArray[np.float32]:
        """Return the vectors of a concept's examples that a model made: [n, dim], unit rows."""
        found = [example for example in self.examples(concept) if example.fingerprint == fingerprint]
        if any(len(example.codes) != dim for example in found):
            raise corrupt(self._index.path, f"an example of {concept.name!r} has a vector of the wrong length")
        rows = [example.codes.astype(np.float32) * np.float32(example.scale) for example in found]
        return np.stack(rows) if rows else np.empty((0, dim), np.float32)

    def _concept(self, concept_id: object, name: object, noun: object) -> KnownConcept:
        if isinstance(concept_id, int) and isinstance(name, str) and isinstance(noun, (str, type(None))):
            return KnownConcept(concept_id, name, noun)
        raise corrupt(self._index.path, "the table of concepts makes no sense")


def read_example(digest: Any, uri: Any, fingerprint: Any, scale: Any, codes: Any) -> Example | None:
    """Return a row of `example`; None when it makes no sense."""
    is_placed = isinstance(digest, bytes) and isinstance(uri, (str, type(None)))
    is_vector = isinstance(codes, bytes) and isinstance(scale, float) and 0 < scale <= 1
    if is_placed and is_vector and isinstance(fingerprint, str):
        return Example(digest, uri, fingerprint, np.frombuffer(codes, np.int8), scale)
    return None


def describe(concept: KnownConcept, examples: Sequence[Example], fingerprint: str | None) -> Concept:
    """Say what is known of a concept; `fingerprint` is that of the index's model."""
    usable = sum(example.fingerprint == fingerprint for example in examples)
    uris = tuple(example.uri for example in examples if example.uri is not None)
    return Concept(concept.name, concept.noun, usable, len(examples) - usable, uris)
