"""The writing side of concepts: teach one by photos, forget it, and renew its vectors under another model."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from magicmm.concept_rows import ConceptRows, Example, KnownConcept, describe, read_example
from magicmm.concepts import Concept, key_of, may_be_name, tidy_name
from magicmm.errors import ErrorCode, MagicError
from magicmm.index import Index
from magicmm.locking import writer_lock
from magicmm.quantise import quantise
from magicmm.reading import read_photo
from magicmm.sources import path_uri, uri_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magicmm.embedder import Embedder
    from magicmm.quantise import Codes
    from magicmm.records import Model
    from magicmm.sources import PhotoSource

    Photo = str | os.PathLike[str] | bytes | int
    """A path, the URI or the id of an indexed photo, or the bytes of a file."""


class Teaching:
    """What `Gallery` does to concepts; each call has a connection of its own and is one transaction."""

    def __init__(self, index_path: Path, embedder: Embedder) -> None:
        """Take the index and the model."""
        self._path = index_path
        self._embedder = embedder

    def teach(self, model: Model, name: str, photos: Sequence[Photo], noun: str | None, anew: bool) -> Concept:
        """See `Gallery.teach`; `model` is the active one and that of the embedder."""
        name = tidy_name(name)
        if noun is not None:
            self._embedder.embed_query(noun)  # a noun that the model cannot read is refused now, not by a search
        if not photos:
            raise MagicError(ErrorCode.ARGUMENT_INVALID, f"No photo shows {name!r}.", "Give one photo or more.")
        with writer_lock(self._path), closing(Index(self._path)) as index:
            examples = [self._example(index, model, photo) for photo in photos]
            rows = ConceptRows(index)
            with index.transaction():
                old = rows.known().get(key_of(name))
                if noun is None and old is not None and not anew:
                    noun = old.noun
                concept = rows.put(name, noun)
                if anew:
                    rows.clear(concept)
                for example in examples:
                    rows.put_example(concept, example)
            return describe(concept, rows.examples(concept), model.fingerprint)

    def forget(self, name: str) -> None:
        """See `Gallery.forget`."""
        with writer_lock(self._path), closing(Index(self._path)) as index:
            rows = ConceptRows(index)
            with index.transaction():
                known = rows.known()
                concept = known.get(key_of(name)) if may_be_name(name) else None
                if concept is None:
                    names = ", ".join(found.name for found in known.values()) or "none"
                    raise MagicError(
                        ErrorCode.ARGUMENT_INVALID,
                        f"{name!r} was not taught.",
                        f"Taught: {names}. A source ends in /.",
                    )
                rows.remove(concept)

    def _example(self, index: Index, model: Model, photo: Photo) -> Example:
        if isinstance(photo, str) and "://" in photo:
            photo_id = index.photo_id(photo)
            if photo_id is not None and index.vector_of(photo_id, model) is not None:
                return self._indexed(index, model, photo_id)
            photo = uri_path(photo)
        if isinstance(photo, int):
            return self._indexed(index, model, photo)
        if isinstance(photo, bytes):
            return _embedded(index, model, self._embedder, photo, None)
        data, _ = read_photo(Path(photo))
        return _embedded(index, model, self._embedder, data, path_uri(Path(photo)))

    def _indexed(self, index: Index, model: Model, photo_id: int) -> Example:
        facts, vector = index.photo_facts(photo_id), index.vector_of(photo_id, model)
        if facts is None or facts.hash is None or vector is None:
            raise MagicError(
                ErrorCode.ARGUMENT_INVALID, f"No indexed photo has the id {photo_id}.", "Give its path instead."
            )
        return Example(facts.hash, facts.uri, model.fingerprint, *vector)


def renew_examples(
    index: Index, model: Model, embedder: Embedder, sources: Sequence[PhotoSource]
) -> list[tuple[KnownConcept, Example]]:
    """Return, with vectors of `model`, the examples whose vectors are of another one; writes nothing.

    An example whose photo is gone or is another one by now is left out: it stays as it is, and searches do not use it.
    """
    rows = ConceptRows(index)
    renewed = []
    for concept in rows.known().values():
        for example in rows.examples(concept):
            if example.fingerprint != model.fingerprint:
                fresh = _renewed(index, model, embedder, sources, example)
                if fresh is not None:
                    renewed.append((concept, fresh))
    return renewed


def put_renewed(index: Index, renewed: Sequence[tuple[KnownConcept, Example]]) -> None:
    """Write what `renew_examples` found; part of a transaction."""
    rows = ConceptRows(index)
    for concept, example in renewed:
        rows.put_example(concept, example)


def restore_concepts(damaged: Path, index_path: Path) -> int:
    """Copy what can still be read of the concepts of a damaged index into a new one; return how many there are then.

    Names cannot be made again from the photos, as all else can.
    """
    with writer_lock(index_path), closing(Index(index_path)) as index:
        rows = ConceptRows(index)
        with index.transaction():
            for name, noun, examples in _salvage(damaged):
                with contextlib.suppress(MagicError):  # what is no name any more
                    concept = rows.put(tidy_name(name), noun)
                    for example in examples:
                        rows.put_example(concept, example)
        return len(rows.known())


def _salvage(damaged: Path) -> list[tuple[str, str | None, list[Example]]]:
    found: dict[int, tuple[str, str | None, list[Example]]] = {}
    address = f"{damaged.absolute().as_uri()}?mode=ro"
    with contextlib.suppress(sqlite3.Error, OSError), closing(sqlite3.connect(address, uri=True)) as database:
        for concept_id, name, noun in database.execute("SELECT id, name, noun FROM concept"):
            if isinstance(name, str) and isinstance(noun, (str, type(None))):
                found[concept_id] = name, noun, []
        columns = "SELECT concept_id, hash, uri, fingerprint, scale, codes FROM example ORDER BY rowid"
        for concept_id, *row in database.execute(columns):
            example = read_example(*row)
            if concept_id in found and example is not None:
                found[concept_id][2].append(example)
    return [lesson for lesson in found.values() if lesson[2]]


def _renewed(
    index: Index, model: Model, embedder: Embedder, sources: Sequence[PhotoSource], example: Example
) -> Example | None:
    vector = _vector_with_hash(index, model, example.hash)
    if vector is not None:
        return Example(example.hash, example.uri, model.fingerprint, *vector)
    if example.uri is None:
        return None
    try:
        fresh = _embedded(index, model, embedder, _load(example.uri, sources), example.uri)
    except MagicError as error:
        if error.code in (ErrorCode.IMAGE_INVALID, ErrorCode.RUNTIME_FAILED, ErrorCode.ARGUMENT_INVALID):
            return None
        raise
    return fresh if fresh.hash == example.hash else None


def _load(uri: str, sources: Sequence[PhotoSource]) -> bytes:
    for source in sources:
        if uri.startswith(source.uri):
            return source.load(uri).data
    return read_photo(uri_path(uri))[0]


def _embedded(index: Index, model: Model, embedder: Embedder, data: bytes, uri: str | None) -> Example:
    """Return an example for the bytes of a file; content that the index knows needs no model."""
    digest = hashlib.sha256(data).digest()[:16]
    vector = _vector_with_hash(index, model, digest)
    if vector is None:
        codes, scales = quantise(embedder.embed_image(data)[None])
        vector = codes[0], float(scales[0])
    return Example(digest, uri, model.fingerprint, *vector)


def _vector_with_hash(index: Index, model: Model, digest: bytes) -> tuple[Codes, float] | None:
    twin = index.photo_with_hash(digest, model)
    return None if twin is None else index.vector_of(twin, model)
