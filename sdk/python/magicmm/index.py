"""The index: SQLite is the only truth about photos and vectors (DESIGN section 7).

Readers never wait for a sync (write-ahead log); every write happens inside `transaction`, all of it or nothing.
"""

from __future__ import annotations

import contextlib
import math
from string import hexdigits
from typing import TYPE_CHECKING, Any

import numpy as np

from magicmm.errors import SkipReason
from magicmm.manifest import MAX_DIM
from magicmm.records import ExifColumns, Model, PhotoFacts, Stamp
from magicmm.results import Match, Skip
from magicmm.schema import connect, corrupt, translated_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from magicmm.filters import Filter
    from magicmm.quantise import Codes


_IDS_A_QUERY = 500
"""Older SQLite allows 999 parameters a statement."""


def uri_range(folder_uri: str) -> tuple[str, str]:
    """Return the bounds of all URIs below a folder's ("/" is followed by "0" in ASCII): faster than LIKE."""
    return folder_uri, folder_uri[:-1] + "0"


class Index:
    """An open index file. One thread at a time; open it again for another thread or process."""

    def __init__(self, path: Path, create: bool = False) -> None:
        """Open the file, or make it.

        Raises:
            MagicError: `source_unavailable`, `index_corrupt`, `index_too_new`, `index_locked`, `storage_failed`.
        """
        self.path = path
        self._db = connect(path, create)

    def close(self) -> None:
        """Close the file; what was committed is on disk."""
        self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit all writes made inside, or none of them."""
        with translated_errors(self.path):
            # IMMEDIATE: a deferred transaction that turns into a writer fails at once instead of waiting.
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite has rolled back itself when the disk is full
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let all reads inside see one state, whatever another process commits meanwhile. May be nested."""
        with translated_errors(self.path):
            is_outermost = not self._db.in_transaction
            if is_outermost:
                self._db.execute("BEGIN")
            try:
                yield
            finally:
                if is_outermost and self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    # -- facts about the whole -------------------------------------------------------------------------------

    def meta(self, key: str) -> str:
        """Return a fact by key ("" when it was never set)."""
        row = self._row("SELECT value FROM meta WHERE key = ?", key)
        return "" if row is None else str(row[0])

    def meta_number(self, key: str) -> int:
        """Return a fact that is a whole number (0 when it was never set)."""
        with contextlib.suppress(ValueError):
            number = int(self.meta(key) or 0)
            if 0 <= number < 1 << 63:
                return number
        raise corrupt(self.path, f"meta.{key} is no number")

    def meta_rate(self, key: str) -> float:
        """Return a fact that is a positive number (0 when it was never set, or is none)."""
        with contextlib.suppress(ValueError):
            rate = float(self.meta(key) or 0)
            return rate if math.isfinite(rate) and rate > 0 else 0.0
        return 0.0

    def set_meta(self, key: str, value: object) -> None:
        """Keep a fact."""
        self._write("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", key, str(value))

    def bump_generation(self) -> None:
        """Tell readers that vectors have changed; part of every transaction that changes them."""
        self.set_meta("generation", self.meta_number("generation") + 1)

    def models(self) -> list[Model]:
        """Return the active model first, then the one that a rebuild is filling, if any."""
        rows = self._rows("SELECT id, fingerprint, name, dim, is_active FROM model ORDER BY is_active DESC, id")
        return [self._model(*row) for row in rows]

    def active_model(self) -> Model | None:
        """Return the model whose vectors answer searches; None in an index that holds none yet."""
        return next((model for model in self.models() if model.is_active), None)

    def add_model(self, fingerprint: str, name: str, dim: int, is_active: bool) -> Model:
        """Register a model."""
        key = self._write(
            "INSERT INTO model (fingerprint, name, dim, is_active) VALUES (?, ?, ?, ?)",
            fingerprint,
            name,
            dim,
            int(is_active),
        )
        return Model(key, fingerprint, name, dim, is_active)

    def activate_model(self, model: Model) -> None:
        """Let `model` answer searches from now on and forget every other model with its vectors."""
        self._write("DELETE FROM vector WHERE model_id != ?", model.id)
        self._write("DELETE FROM model WHERE id != ?", model.id)
        self._write("UPDATE model SET is_active = 1 WHERE id = ?", model.id)
        self.bump_generation()
        # A scan file of before is of no use, even one of the same bundle: it ends amid the new model's vectors.
        self.set_meta("compacted", self.meta_number("generation"))

    def drop_model(self, model: Model) -> None:
        """Forget a model with its vectors."""
        self._write("DELETE FROM vector WHERE model_id = ?", model.id)
        self._write("DELETE FROM model WHERE id = ?", model.id)

    def sources(self) -> list[str]:
        """Return the URIs of the known sources."""
        return [str(uri) for (uri,) in self._rows("SELECT uri FROM source ORDER BY uri")]

    def add_source(self, uri: str) -> None:
        """Remember a source; one inside it is now part of it."""
        self._write("INSERT OR IGNORE INTO source (uri) VALUES (?)", uri)
        self._write("DELETE FROM source WHERE uri > ? AND uri < ?", *uri_range(uri))

    def remove_source(self, uri: str) -> None:
        """Forget a source with its photos and their vectors."""
        self._write("DELETE FROM source WHERE uri = ?", uri)
        self._write("DELETE FROM photo WHERE uri >= ? AND uri < ?", *uri_range(uri))
        self.bump_generation()

    # -- photos ----------------------------------------------------------------------------------------------

    def stamps(self, source_uri: str, model: Model | None) -> dict[str, Stamp]:
        """Return the stamps of a source's photos that need no work unless their file changes.

        Those are the photos with a vector of `model`, and those skipped for a reason that lasts.
        """
        lasting = [reason.value for reason in SkipReason if not reason.is_transient]
        marks = ", ".join("?" * len(lasting))
        rows = self._rows(
            "SELECT uri, bytes, modified FROM photo LEFT JOIN vector ON photo_id = photo.id AND model_id = ?"  # noqa: S608
            f" WHERE uri >= ? AND uri < ? AND (seq IS NOT NULL OR reason IN ({marks}))",
            None if model is None else model.id,
            *uri_range(source_uri),
            *lasting,
        )
        return {self._uri(uri): Stamp(size, modified) for uri, size, modified in rows}

    def photo_ids(self, source_uri: str) -> dict[str, int]:
        """Return the ids of all photos of a source by URI, skipped ones included."""
        rows = self._rows("SELECT uri, id FROM photo WHERE uri >= ? AND uri < ?", *uri_range(source_uri))
        return {self._uri(uri): photo_id for uri, photo_id in rows}

    def count_missing(self, model: Model) -> int:
        """Return how many indexed photos have no vector of `model` yet."""
        row = self._row(
            "SELECT COUNT(*) FROM photo LEFT JOIN vector ON photo_id = photo.id AND model_id = ?"
            " WHERE reason IS NULL AND seq IS NULL",
            model.id,
        )
        return int(row[0])

    def count_photos(self) -> int:
        """Return how many photos have a row, skipped ones included."""
        return int(self._row("SELECT COUNT(*) FROM photo")[0])

    def known_hashes(self, model: Model) -> set[bytes]:
        """Return the content hashes whose vector `model` has computed."""
        rows = self._rows("SELECT hash FROM photo JOIN vector ON photo_id = photo.id AND model_id = ?", model.id)
        return {digest for (digest,) in rows}

    def photo_id(self, uri: str) -> int | None:
        """Return the id of the photo at `uri`."""
        row = self._row("SELECT id FROM photo WHERE uri = ?", uri)
        return None if row is None else int(row[0])

    def photo_facts(self, photo_id: int) -> PhotoFacts | None:
        """Return what is known of a photo."""
        row = self._row(
            "SELECT uri, bytes, modified, hash, taken, latitude, longitude, width, height, reason, detail"
            " FROM photo WHERE id = ?",
            photo_id,
        )
        if row is None:
            return None
        uri, size, modified, digest, taken, latitude, longitude, width, height, reason, detail = row
        known = None if reason is None else self._reason(reason)
        stamp = Stamp(size, modified)
        return PhotoFacts(uri, stamp, digest, taken, latitude, longitude, width, height, known, detail)

    def photo_with_hash(self, digest: bytes, model: Model) -> int | None:
        """Return the id of a photo with this content that has a vector of `model`."""
        row = self._row(
            "SELECT photo.id FROM photo JOIN vector ON vector.photo_id = photo.id AND vector.model_id = ?"
            " WHERE hash = ? ORDER BY photo.id LIMIT 1",
            model.id,
            digest,
        )
        return None if row is None else int(row[0])

    def put_photo(self, facts: PhotoFacts, photo_id: int | None) -> int:
        """Write a photo's row, new or in place of the row `photo_id`, and return its id."""
        values = (
            facts.uri,
            facts.stamp.bytes,
            facts.stamp.modified,
            facts.hash,
            facts.taken,
            facts.latitude,
            facts.longitude,
            facts.width,
            facts.height,
            None if facts.reason is None else facts.reason.value,
            facts.detail,
        )
        if photo_id is None:
            return self._write(
                "INSERT INTO photo (uri, bytes, modified, hash, taken, latitude, longitude, width, height,"
                " reason, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                *values,
            )
        self._write(
            "UPDATE photo SET uri = ?, bytes = ?, modified = ?, hash = ?, taken = ?, latitude = ?,"
            " longitude = ?, width = ?, height = ?, reason = ?, detail = ? WHERE id = ?",
            *values,
            photo_id,
        )
        return photo_id

    def remove_photos(self, uris: Iterable[str]) -> None:
        """Delete photos with their vectors."""
        with translated_errors(self.path):
            self._db.executemany("DELETE FROM photo WHERE uri = ?", ((uri,) for uri in uris))

    def skips(self) -> list[Skip]:
        """Return every skipped photo with its reason, by URI."""
        rows = self._rows("SELECT uri, reason, detail FROM photo WHERE reason IS NOT NULL ORDER BY uri")
        return [Skip(str(uri), self._reason(reason), str(detail or "")) for uri, reason, detail in rows]

    def skipped_ids(self) -> set[int]:
        """Return the ids of the skipped photos."""
        return {photo_id for (photo_id,) in self._rows("SELECT id FROM photo WHERE reason IS NOT NULL")}

    def select_ids(self, where: Filter) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the ids of the photos that pass a filter (its `ids` list included)."""
        terms, values = where.to_sql()
        rows = self._rows(f"SELECT id FROM photo WHERE reason IS NULL AND {terms}", *values)  # noqa: S608
        ids = np.fromiter((row[0] for row in rows), dtype=np.int64)
        return ids if where.ids is None else ids[np.isin(ids, np.fromiter(where.ids, dtype=np.int64))]

    def exif_columns(self) -> ExifColumns:
        """Return date and place of all indexed photos that have one of them, by id."""
        rows = self._rows(
            "SELECT id, taken, latitude, longitude FROM photo WHERE reason IS NULL"
            " AND (taken IS NOT NULL OR latitude IS NOT NULL) ORDER BY id"
        )
        try:
            columns = np.array(rows, np.float64).reshape(len(rows), 4).T  # None becomes NaN
        except (TypeError, ValueError):
            raise corrupt(self.path, "dates or places of its photos are no numbers") from None
        return ExifColumns(columns[0].astype(np.int64), *columns[1:])

    def matches(self, ids: Sequence[int], scores: Sequence[float]) -> list[Match]:
        """Return photos in the given order; those deleted meanwhile are left out."""
        rows: dict[int, Any] = {}
        for start in range(0, len(ids), _IDS_A_QUERY):
            some = [int(photo_id) for photo_id in ids[start : start + _IDS_A_QUERY]]
            marks = ", ".join("?" * len(some))
            for photo_id, *row in self._rows(
                f"SELECT id, uri, taken, width, height FROM photo WHERE id IN ({marks})",  # noqa: S608
                *some,
            ):
                rows[photo_id] = row
        pairs = zip(ids, scores, strict=True)
        return [self._match(int(i), float(score), *rows[int(i)]) for i, score in pairs if int(i) in rows]

    def _match(self, photo_id: int, score: float, uri: Any, taken: Any, width: Any, height: Any) -> Match:
        width, height = width or 0, height or 0
        is_placed = isinstance(uri, str) and isinstance(taken, (float, type(None)))
        if not is_placed or not isinstance(width, int) or not isinstance(height, int):
            raise corrupt(self.path, f"the row of photo {photo_id} makes no sense")
        return Match(photo_id, uri, score, taken, width, height)

    def same_bytes(self) -> list[list[int]]:
        """Return the ids of indexed photos whose files hold the same bytes, in groups of two or more."""
        rows = self._rows(
            "SELECT hash, id FROM photo WHERE reason IS NULL AND hash IN"
            " (SELECT hash FROM photo WHERE reason IS NULL GROUP BY hash HAVING COUNT(*) > 1) ORDER BY id"
        )
        groups: dict[bytes, list[int]] = {}
        for digest, photo_id in rows:
            groups.setdefault(digest, []).append(photo_id)
        return list(groups.values())

    # -- vectors ---------------------------------------------------------------------------------------------

    def put_vector(self, photo_id: int, model: Model, codes: Codes, scale: float) -> None:
        """Store a photo's vector: int8 [dim] and its scale."""
        self.remove_vectors(photo_id, model)
        self._write(
            "INSERT INTO vector (photo_id, model_id, scale, codes) VALUES (?, ?, ?, ?)",
            photo_id,
            model.id,
            float(scale),
            codes.tobytes(),
        )

    def remove_vectors(self, photo_id: int, model: Model | None = None) -> None:
        """Delete a photo's vector of one model, or of all."""
        if model is None:
            self._write("DELETE FROM vector WHERE photo_id = ?", photo_id)
        else:
            self._write("DELETE FROM vector WHERE photo_id = ? AND model_id = ?", photo_id, model.id)

    def vector_of(self, photo_id: int, model: Model) -> tuple[Codes, float] | None:
        """Return a photo's codes and scale."""
        row = self._row("SELECT codes, scale FROM vector WHERE photo_id = ? AND model_id = ?", photo_id, model.id)
        if row is None:
            return None
        self._check_vector(photo_id, row[1], row[0], model)
        return np.frombuffer(row[0], dtype=np.int8), row[1]

    def count_vectors(self, model: Model) -> int:
        """Return how many photos have a vector of `model`."""
        return int(self._row("SELECT COUNT(*) FROM vector WHERE model_id = ?", model.id)[0])

    def vectors_after(self, seq: int, model: Model) -> Iterator[tuple[int, int, float, bytes]]:
        """Yield (seq, photo id, scale, codes) of the vectors written after `seq`, in that order."""
        query = "SELECT seq, photo_id, scale, codes FROM vector WHERE seq > ? AND model_id = ? ORDER BY seq"
        with translated_errors(self.path):
            for row in self._db.execute(query, (seq, model.id)):
                found, photo_id, scale, codes = row
                self._check_vector(photo_id, scale, codes, model)
                yield found, photo_id, scale, codes

    def removed_seqs(self) -> list[int]:
        """Return the numbers of the vectors that were deleted since the scan file was last written."""
        return [int(seq) for (seq,) in self._rows("SELECT seq FROM removed")]

    def forget_removed(self, up_to: int) -> None:
        """Drop the numbers of deleted vectors that no scan file holds any more."""
        self._write("DELETE FROM removed WHERE seq <= ?", up_to)

    # -- checks ----------------------------------------------------------------------------------------------

    def check_integrity(self) -> list[str]:
        """Let SQLite read every page; return what it finds wrong (nothing = sound)."""
        rows = [str(row[0]) for row in self._rows("PRAGMA integrity_check")]
        return [] if rows == ["ok"] else rows

    def _model(self, key: object, fingerprint: object, name: object, dim: object, is_active: object) -> Model:
        is_hex = isinstance(fingerprint, str) and len(fingerprint) == 64 and set(fingerprint) <= set(hexdigits)
        if isinstance(key, int) and is_hex and isinstance(dim, int) and 1 <= dim <= MAX_DIM:
            return Model(key, str(fingerprint), str(name), dim, bool(is_active))
        raise corrupt(self.path, "the table of models makes no sense")

    def _uri(self, value: object) -> str:
        if isinstance(value, str):
            return value
        raise corrupt(self.path, "a photo has no URI")

    def _reason(self, value: object) -> SkipReason:
        try:
            return SkipReason(value)
        except ValueError:
            raise corrupt(self.path, f"it holds the unknown skip reason {value!r}") from None

    def _check_vector(self, photo_id: object, scale: object, codes: object, model: Model) -> None:
        if not isinstance(codes, bytes) or len(codes) != model.dim or not isinstance(photo_id, int):
            raise corrupt(self.path, "it holds a vector of the wrong length")
        if not isinstance(scale, float) or not 0 < scale <= 1:  # 1 / sqrt(sum codes^2)
            raise corrupt(self.path, "it holds a vector without a length")

    def query(self, sql: str, *values: object) -> list[Any]:
        """Run a statement for a part of the index that has a module of its own; writes belong inside `transaction`."""
        return self._rows(sql, *values)

    def _row(self, query: str, *values: object) -> Any:
        with translated_errors(self.path):
            return self._db.execute(query, values).fetchone()

    def _rows(self, query: str, *values: object) -> list[Any]:
        with translated_errors(self.path):
            return self._db.execute(query, values).fetchall()

    def _write(self, query: str, *values: object) -> int:
        with translated_errors(self.path):
            return self._db.execute(query, values).lastrowid or 0
