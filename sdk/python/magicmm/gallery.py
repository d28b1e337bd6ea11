"""`Gallery`: an index, its sources and a model, as one thing to sync and to search (docs/API.md)."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from magicmm.concept_rows import ConceptRows, describe
from magicmm.confidence import confidence
from magicmm.duplicates import look_alikes
from magicmm.embedder import Embedder
from magicmm.errors import ErrorCode, MagicError
from magicmm.filters import Filter
from magicmm.index import Index
from magicmm.maintenance import Maintenance, model_mismatch
from magicmm.quantise import quantise
from magicmm.ranking import ranked_by_signals
from magicmm.records import Model
from magicmm.results import DuplicateGroup, Plan, Progress, Results, Status
from magicmm.scan import ScanMatrix, scan_path
from magicmm.signals import read_signals
from magicmm.sources import FolderSource, PhotoSource
from magicmm.sync import Budget
from magicmm.taught_query import ReadText, embed_read, read_text
from magicmm.teaching import Teaching
from magicmm.topk import Query

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from magicmm.bundle import Bundle
    from magicmm.concepts import Concept
    from magicmm.records import ExifColumns
    from magicmm.signals import Fired
    from magicmm.teaching import Photo

MAX_K = 1_000_000


def default_index_path() -> Path:
    """Return where the index lies unless told otherwise: the platform's folder for a user's data."""
    from platformdirs import user_data_path

    return user_data_path("magicmm", appauthor=False) / "index.db"


class Gallery:
    """Photos of some sources, searchable by words, by photo, or by both.

    Searching may go on in other threads and processes while a sync runs; it sees every committed batch.
    """

    def __init__(self, index_path: Path, embedder: Embedder, sources: Sequence[PhotoSource], create: bool) -> None:
        """See `open`."""
        self.index_path = index_path
        self.embedder = embedder
        self._maintenance = Maintenance(index_path, embedder, list(sources))
        self._teaching = Teaching(index_path, embedder)
        self._index = Index(index_path, create)
        self._matrix: ScanMatrix | None = None
        self._exif: tuple[int, ExifColumns] | None = None
        self._lock = threading.RLock()

    @classmethod
    def open(
        cls,
        index_path: str | os.PathLike[str] | None = None,
        embedder: Embedder | Bundle | str | os.PathLike[str] | None = None,
        sources: Iterable[PhotoSource | str | os.PathLike[str]] = (),
    ) -> Gallery:
        """Open an index, or make it when sources are given.

        Args:
            index_path: The index file; None = the platform's data folder.
            embedder: The model; None = the built-in one.
            sources: Folders or other sources to add to those the index already knows.

        Raises:
            MagicError: `source_unavailable` (no index and no sources), `argument_invalid`, `index_corrupt`,
                `index_too_new`, `index_locked`, `storage_failed`, or an error of the bundle.
        """
        if isinstance(sources, (str, os.PathLike)):  # a single folder; a str would be taken letter by letter
            sources = [sources]
        if not isinstance(embedder, Embedder):
            embedder = Embedder.open(embedder)
        path = default_index_path() if index_path is None else Path(index_path)
        given = [FolderSource(item) if isinstance(item, (str, os.PathLike)) else item for item in sources]
        for source in given:
            if not source.uri.endswith("/"):
                raise MagicError(
                    ErrorCode.ARGUMENT_INVALID,
                    f'The URI of a source must end in "/", got {source.uri!r}.',
                    "Photos then have URIs that begin with it.",
                )
        return cls(path, embedder, given, create=bool(given))

    def close(self) -> None:
        """Close the index and release the model."""
        self._matrix = None  # unmaps the scan file
        self._index.close()
        self.embedder.release()

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- keeping up to date ----------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """Say what the next sync would do, without doing it."""
        return self._maintenance.plan()

    def sync(self, budget: Budget | None = None) -> Iterator[Progress]:
        """Bring the index up to date; iterate to make it happen, stop iterating to stop.

        Every event is on disk when it arrives. A killed sync loses at most the batch in hand; the next one goes on.

        Raises:
            MagicError: `index_locked` when another process syncs, `model_mismatch`, `bundle_invalid`,
                `storage_failed`, `runtime_failed`.
        """
        return self._maintenance.sync(budget or Budget())

    def rebuild(self, budget: Budget | None = None) -> Iterator[Progress]:
        """Embed every photo anew with this gallery's model, beside the vectors that go on answering searches.

        The new vectors take over when all photos have theirs; until then a stopped rebuild can be continued.

        Raises:
            MagicError: As `sync`; `source_unavailable` at the end when photos could not be reached.
        """
        return self._maintenance.rebuild(budget or Budget())

    def forget(self, what: str) -> None:
        """Remove a source with its photos and vectors from the index, or a taught concept; no photo is touched.

        Args:
            what: The URI of a source, which ends in "/", or the name of a concept, which holds none. What was taught
                by photos of a source stays taught.

        Raises:
            MagicError: `argument_invalid` for what the index does not know, `index_locked`.
        """
        if what.endswith("/"):
            self._maintenance.forget(what)
        else:
            self._teaching.forget(what)

    # -- teaching --------------------------------------------------------------------------------------------

    def teach(self, name: str, photos: Sequence[Photo], noun: str | None = None, replace: bool = False) -> Concept:
        """Teach a name for something of the user's own by photos of it; searches whose text holds the name find it.

        Teaching a name again adds photos. All is stored in the index, or nothing when one photo cannot be used.

        Args:
            name: Letter case, accents and punctuation do not matter.
            photos: Paths, bytes of files, ids or URIs of indexed photos; they need not be in the index.
            noun: What it is, in words that the model knows ("a dog"); None = as before.
            replace: Forget the photos and the noun of before.

        Raises:
            MagicError: `argument_invalid`, `image_invalid`, `text_invalid` (noun), `model_mismatch`, `index_locked`,
                `source_unavailable` before the first sync.
        """
        with self._lock:
            model = self._require_model()
        return self._teaching.teach(model, name, photos, noun, anew=replace)

    def taught(self) -> list[Concept]:
        """Return what was taught, by name."""
        with self._lock, self._index.snapshot():
            model = self._index.active_model()
            fingerprint = None if model is None else model.fingerprint
            rows = ConceptRows(self._index)
            return [describe(concept, rows.examples(concept), fingerprint) for concept in rows.known().values()]

    # -- asking ----------------------------------------------------------------------------------------------

    def search(
        self,
        text: str | None = None,
        image: object | None = None,
        k: int = 20,
        min_score: float | None = None,
        where: Filter | None = None,
        truncate: bool = False,
        taught: bool = True,
        signals: bool = True,
    ) -> Results:
        """Find the k photos closest to words, to a photo, or to both together.

        Args:
            text: What to look for.
            image: A photo to look for: path, bytes, PIL image or uint8 [h, w, 3].
            k: How many; exactly k come back whenever k photos pass.
            min_score: Least cosine.
            where: Conditions that photos must meet; they apply before the k best are taken.
            truncate: Use the beginning of a text that is too long, instead of an error.
            taught: Let names that were taught stand for their photos; False reads them as words like others.
            signals: Lift photos whose EXIF fits a time or place that the text names (`Results.signals`).

        Raises:
            MagicError: `text_invalid`, `image_invalid`, `argument_invalid`, `model_mismatch`, `index_corrupt`.
        """
        _check_k(k)
        with self._lock, self._index.snapshot():
            self._require_model()
            read = read_text(self._index, text, self.embedder) if taught else ReadText((), text)
        codes, scales = quantise(embed_read(self.embedder, read, image, truncate)[None])
        with self._lock, self._index.snapshot():
            self._require_model()  # a rebuild may have finished meanwhile
            query = Query(codes[0], float(scales[0]), k, min_score)
            results = self._top(query, where, read_signals(text) if signals and text is not None else ())
            # Photos are closer to photos than words are: scores of a taught name say nothing to a judge of words.
            is_words = text is not None and image is None and not read.names
            return replace(self._judged(results, query) if is_words else results, taught=read.names)

    def similar(
        self, photo_id: int, k: int = 20, min_score: float | None = None, where: Filter | None = None
    ) -> Results:
        """Find the k photos closest to an indexed one, which is left out. Needs no model.

        Raises:
            MagicError: `argument_invalid` when no indexed photo has this id.
        """
        _check_k(k)
        with self._lock, self._index.snapshot():
            model = self._index.active_model()
            vector = None if model is None else self._index.vector_of(int(photo_id), model)
            if vector is None:
                raise MagicError(
                    ErrorCode.ARGUMENT_INVALID, f"No indexed photo has the id {photo_id}.", "Search by image instead."
                )
            found = self._top(Query(*vector, k + 1, min_score), where)
        others = tuple(match for match in found.matches if match.id != photo_id)
        was_found = len(others) < len(found)
        return Results(others[:k], found.searched - was_found)

    def duplicates(self, min_score: float | None = None) -> list[DuplicateGroup]:
        """Group photos with the same bytes, or, given `min_score`, photos that look alike (cosine at least that)."""
        with self._lock, self._index.snapshot():
            if min_score is None:
                groups = [[(photo_id, 1.0) for photo_id in group] for group in self._index.same_bytes()]
            else:
                groups = look_alikes(self._fresh_matrix().rows(), min_score)
            kind = "same_bytes" if min_score is None else "look_alike"
            found = (self._index.matches(*zip(*group, strict=True)) for group in groups)
            return [DuplicateGroup(kind, tuple(photos)) for photos in found if len(photos) > 1]

    def photo_id(self, uri: str) -> int | None:
        """Return the id of the indexed photo at a URI; None when there is none, or it was skipped."""
        with self._lock:
            photo_id, model = self._index.photo_id(uri), self._index.active_model()
            if photo_id is None or model is None or self._index.vector_of(photo_id, model) is None:
                return None
            return photo_id

    def status(self) -> Status:
        """Say what is in the index."""
        with self._lock, self._index.snapshot():
            models = self._index.models()
            active = next((model for model in models if model.is_active), None)
            other = next((model for model in models if not model.is_active), None)
            return Status(
                index_path=str(self.index_path),
                index_bytes=_size(self.index_path) + _size(scan_path(self.index_path)),
                model=None if active is None else active.name,
                fingerprint=None if active is None else active.fingerprint,
                dim=None if active is None else active.dim,
                indexed=0 if active is None else self._index.count_vectors(active),
                skipped=tuple(self._index.skips()),
                sources=tuple(self._index.sources()),
                rebuilding=None if other is None else other.name,
                rebuilt=0 if other is None else self._index.count_vectors(other),
            )

    # -- inside ----------------------------------------------------------------------------------------------

    def _top(self, query: Query, where: Filter | None, fired: Sequence[Fired] = ()) -> Results:
        """Search; the caller holds the lock and a snapshot, so that vectors, filter and rows are of one moment."""
        matrix = self._fresh_matrix()
        selected = None if where is None or where.is_empty else self._index.select_ids(where)
        if fired:
            return ranked_by_signals(self._index, matrix, query, selected, fired, self._exif_columns())
        (scores, ids), searched = matrix.search(query, selected)
        return Results(tuple(self._index.matches(ids.tolist(), scores.tolist())), searched)

    def _exif_columns(self) -> ExifColumns:
        """Return what EXIF says of all photos, read once a generation: only new vectors bring new facts."""
        generation = self._index.meta_number("generation")
        if self._exif is None or self._exif[0] != generation:
            self._exif = (generation, self._index.exif_columns())
        return self._exif[1]

    def _judged(self, results: Results, query: Query) -> Results:
        """Say how sure the first match is; the caller holds the lock and a snapshot."""
        spec = self.embedder.bundle.manifest.confidence
        if spec is None or not results.matches:
            return results
        matrix = self._fresh_matrix()
        best = results.matches[0].score
        sure = confidence(spec, best, matrix.background(query), len(matrix), results.searched)
        return replace(results, confidence=sure, is_doubtful=sure is not None and sure < spec.threshold)

    def _fresh_matrix(self) -> ScanMatrix:
        model = self._require_active()
        matrix = self._matrix
        if matrix is None or (matrix.generation, matrix.model_id) != (self._index.meta_number("generation"), model.id):
            matrix = self._matrix = ScanMatrix.load(self._index, model)
        return matrix

    def _require_active(self) -> Model:
        model = self._index.active_model()
        if model is None:
            raise MagicError(
                ErrorCode.SOURCE_UNAVAILABLE,
                f"The index {self.index_path} holds no photos yet.",
                "Fill it: magicmm index DIR",
            )
        return model

    def _require_model(self) -> Model:
        model = self._require_active()
        if model.fingerprint != self.embedder.fingerprint:
            raise model_mismatch(model, self.embedder)
        return model


def _check_k(k: int) -> None:
    if not 1 <= k <= MAX_K:
        raise MagicError(ErrorCode.ARGUMENT_INVALID, f"k is {k}.", f"Ask for 1 to {MAX_K:,} photos.")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
