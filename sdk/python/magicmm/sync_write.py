"""The part of a sync that writes: run the model on a batch and commit it whole."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace
from typing import TYPE_CHECKING

from magicmm.errors import ErrorCode, MagicError, SkipReason
from magicmm.quantise import quantise
from magicmm.results import Skip
from magicmm.schema import corrupt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magicmm.embedder import Embedder
    from magicmm.encoders import Pixels
    from magicmm.index import Index
    from magicmm.quantise import Codes
    from magicmm.records import Model, PhotoFacts
    from magicmm.sync_prepare import Outcome, Preparer

    Vector = tuple[Codes, float]
    Vectors = dict[bytes, Vector]
    """Codes and scale by content hash."""


class Writer:
    """Commits outcomes, a transaction a batch."""

    def __init__(self, index: Index, model: Model, embedder: Embedder, prepare: Preparer, sizes: Set[int]) -> None:
        """Take the open index, what turns pixels into vectors, and the sizes of all files that are to come."""
        self._index = index
        self._model = model
        self._embedder = embedder
        self._prepare = prepare
        self._sizes = sizes
        self._displaced: dict[bytes, tuple[PhotoFacts, Vector]] = {}
        """Content whose row another file has taken, and that may come under another name (swapped, renumbered)."""
        self.vanished: dict[bytes, list[int]] = {}
        """Photos whose file is gone, by content: a new file with the same content is the same photo, moved."""

    def commit(self, outcomes: Sequence[Outcome]) -> tuple[list[str], list[Skip]]:
        """Embed what needs it and write everything in one transaction.

        Returns:
            What each outcome counts as ("embedded", "reused" or "skipped"), and the photos skipped.
        """
        vectors, outcomes = self._embed([self._settle(outcome) for outcome in outcomes])
        with self._index.transaction():
            wanted = {outcome.facts.hash for outcome in outcomes}
            kinds = [self._write(outcome, vectors, wanted) for outcome in outcomes]
            self._index.bump_generation()
        facts = (outcome.facts for outcome in outcomes)
        return kinds, [Skip(fact.uri, fact.reason, fact.detail or "") for fact in facts if fact.reason is not None]

    def _settle(self, outcome: Outcome) -> Outcome:
        """Decode after all what was thought known when its worker looked, but is not in the index now."""
        trusted = outcome.pixels is None and outcome.facts.reason is None
        if trusted and self._known(outcome.facts.hash) is None:
            return self._prepare(outcome.task, trust_known=False)
        return outcome

    def _embed(self, outcomes: Sequence[Outcome]) -> tuple[Vectors, list[Outcome]]:
        """Return codes and scale by content hash (copies run once), and the outcomes with the model's failures."""
        pixels = {
            outcome.facts.hash: outcome.pixels
            for outcome in outcomes
            if outcome.pixels is not None and outcome.facts.hash is not None and self._known(outcome.facts.hash) is None
        }
        vectors, errors = self._run_model(pixels)
        marked = [
            replace(
                outcome,
                facts=replace(
                    outcome.facts, reason=SkipReason.EMBEDDING_FAILED, detail=errors[outcome.facts.hash or b""]
                ),
            )
            if outcome.pixels is not None and outcome.facts.hash in errors
            else outcome
            for outcome in outcomes
        ]
        return vectors, marked

    def _run_model(self, pixels: dict[bytes, Pixels]) -> tuple[Vectors, dict[bytes, str]]:
        try:
            codes, scales = quantise(self._embedder.embed_pixels(list(pixels.values())))
            return dict(zip(pixels, zip(codes, scales.tolist(), strict=True), strict=True)), {}
        except MagicError as error:
            if error.code is not ErrorCode.RUNTIME_FAILED:
                raise
            if len(pixels) == 1:
                return {}, dict.fromkeys(pixels, str(error))
        vectors: Vectors = {}
        errors: dict[bytes, str] = {}
        for digest, picture in pixels.items():  # find the photo that the model cannot take
            one, failed = self._run_model({digest: picture})
            vectors |= one
            errors |= failed
        if not vectors:
            raise MagicError(
                ErrorCode.RUNTIME_FAILED, f"The model fails on every photo: {errors.popitem()[1]}", "Verify the bundle."
            )
        return vectors, errors

    def _write(self, outcome: Outcome, vectors: Vectors, wanted: Set[bytes | None]) -> str:
        """Write one outcome and say what it counts as."""
        facts, photo_id = outcome.facts, outcome.task.photo_id
        if photo_id is None and facts.reason is None and self.vanished.get(facts.hash or b""):
            photo_id = self.vanished[facts.hash or b""].pop()
        known = None if facts.reason is not None else self._known(facts.hash)
        if known is not None:
            facts = replace(known[0], uri=facts.uri, stamp=facts.stamp)
        old = None if photo_id is None else self._index.photo_facts(photo_id)
        if photo_id is not None and old is not None and old.hash != facts.hash:
            if old.hash in wanted or old.stamp.bytes in self._sizes:
                self._keep_displaced(photo_id, old)
            self._index.remove_vectors(photo_id)  # those of other models too: they show the photo as it was
        photo_id = self._index.put_photo(facts, photo_id)
        if facts.reason is not None or facts.hash is None:
            self._index.remove_vectors(photo_id)
            return "skipped"
        if known is None:
            if facts.hash not in vectors:
                raise corrupt(self._index.path, "it finds a photo by its content at one time and not at another")
            self._index.put_vector(photo_id, self._model, *vectors[facts.hash])
            return "embedded"
        if self._index.vector_of(photo_id, self._model) is None:
            self._index.put_vector(photo_id, self._model, *known[1])
        return "reused"

    def _keep_displaced(self, photo_id: int, old: PhotoFacts) -> None:
        vector = self._index.vector_of(photo_id, self._model)
        if vector is not None and old.hash is not None:
            self._displaced[old.hash] = old, vector

    def _known(self, digest: bytes | None) -> tuple[PhotoFacts, Vector] | None:
        """Return what is known of a content that the model has seen: the facts of a photo with it, and its vector."""
        if digest is None:
            return None
        twin = self._index.photo_with_hash(digest, self._model)
        if twin is None:
            return self._displaced.get(digest)
        facts, vector = self._index.photo_facts(twin), self._index.vector_of(twin, self._model)
        return None if facts is None or vector is None else (facts, vector)
