"""Vectors of entries, kept on disk under what they are vectors of: content, role and embedder.

A run that was killed finds what it had committed; a second stage with the same model embeds nothing twice.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.storage import storage_errors, write_aside

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from magicmm_training.entries import Entry, EntryEmbedder, Floats

    Keys = NDArray[np.bytes_]
    Rows = NDArray[np.int64]

KEY_BYTES = 16
COMMIT = 8192
"""Vectors of a shard: most that a kill can lose."""

_BAD_ENTRY = {ErrorCode.IMAGE_INVALID, ErrorCode.TEXT_INVALID, ErrorCode.ARGUMENT_INVALID}
"""What an embedder raises for an entry rather than for itself."""


def vector_key(entry: Entry, content_id: str) -> bytes:
    """Return the name of an entry's vector under any one embedder.

    Args:
        entry: Its role counts: the same picture has another vector under another instruction.
        content_id: Of `entry`, which costs a read of its picture.
    """
    role = entry.role
    text = json.dumps([content_id, role.instruction, role.side.value, role.reads.value, role.max_tiles])
    return hashlib.sha256(text.encode()).digest()[:KEY_BYTES]


class VectorCache:
    """The vectors of one embedder, in shards that are written once and mapped into memory."""

    def __init__(self, folder: Path, embedder: EntryEmbedder, batch: int = 32, commit: int = COMMIT) -> None:
        """Open the cache, or make it.

        Args:
            folder: Of the vectors of all embedders.
            embedder: Makes what is missing.
            batch: Entries that it gets at once.
            commit: Vectors of a shard.

        Raises:
            MagicError: `storage_failed` when the folder cannot be used, or a shard in it is damaged.
        """
        self._embedder = embedder
        self._batch = batch
        self._commit = commit
        self._type = np.dtype([("key", f"S{KEY_BYTES}"), ("vector", "<f4", (embedder.dim,))])
        # A fingerprint is free text of an embedder, no name of a folder.
        name = hashlib.sha256(embedder.fingerprint.encode()).hexdigest()[:32]
        self._folder = folder / name
        with storage_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            paths = sorted(self._folder.glob("*.npy"))
        self._shards = [self._open(path) for path in paths]
        self._index()

    def __len__(self) -> int:
        """Return how many vectors there are."""
        return len(self._keys)

    def rows(
        self,
        keys: Sequence[bytes] | Keys,
        entry: Callable[[int], Entry],
        report: Callable[[int, int], None] | None = None,
    ) -> tuple[Rows, dict[int, MagicError]]:
        """Return where the vectors of some entries are, after embedding those that are missing.

        Args:
            keys: `vector_key` of each entry.
            entry: Returns the entry of a key by its place in `keys`; asked for missing ones only.
            report: Called with (embedded, to embed).

        Returns:
            int64 [n], rows for `read`, -1 for an entry that cannot be embedded; and why, by place in `keys`.

        Raises:
            MagicError: `storage_failed`; `runtime_failed` when the embedder fails, or gives no unit vectors.
        """
        wanted = np.array(keys, f"S{KEY_BYTES}")
        missing = self._missing(wanted)
        faults: dict[int, MagicError] = {}
        pending: list[tuple[bytes, Floats]] = []
        for start in range(0, len(missing), self._batch):
            places = missing[start : start + self._batch]
            pending += self._embed(places, keys, entry, faults)
            if len(pending) >= self._commit:
                self._write(pending)
                pending = []
            if report:
                report(start + len(places), len(missing))
        if pending:
            self._write(pending)
        if len(missing):
            self._index()
        found = self._find(wanted)
        spread = {keys[place]: fault for place, fault in faults.items()}
        return found, {place: spread[keys[place]] for place in np.flatnonzero(found < 0).tolist()}

    def read(self, rows: Rows) -> Floats:
        """Return the vectors of some rows, float32 [n, dim]."""
        vectors = np.empty((len(rows), self._embedder.dim), np.float32)
        shards = np.searchsorted(self._starts, rows, "right") - 1
        for shard in np.unique(shards).tolist():
            here = shards == shard
            vectors[here] = self._shards[shard]["vector"][rows[here] - self._starts[shard]]
        return vectors

    def _missing(self, wanted: Keys) -> list[int]:
        """Return the first place of each key without a vector, in order."""
        absent = np.flatnonzero(self._find(wanted) < 0)
        _, first = np.unique(wanted[absent], return_index=True)
        places: list[int] = absent[np.sort(first)].tolist()
        return places

    def _find(self, wanted: Keys) -> Rows:
        if not len(self._keys):
            return np.full(len(wanted), -1)
        at = np.searchsorted(self._keys, wanted).clip(max=len(self._keys) - 1)
        return np.where(self._keys[at] == wanted, self._order[at], -1)

    def _embed(
        self,
        places: Sequence[int],
        keys: Sequence[bytes] | Keys,
        entry: Callable[[int], Entry],
        faults: dict[int, MagicError],
    ) -> list[tuple[bytes, Floats]]:
        """Return the vectors of a batch; an entry that fails leaves the others alone."""
        entries: dict[int, Entry] = {}
        for place in places:
            try:
                entries[place] = entry(place)
            except MagicError as error:
                faults[place] = error
        try:
            vectors = self._vectors(list(entries.values()))
        except MagicError as error:
            if error.code not in _BAD_ENTRY:
                raise
            if len(places) == 1:
                faults[places[0]] = error
                return []
            return [pair for place in entries for pair in self._embed([place], keys, entry, faults)]
        return [(keys[place], vector) for place, vector in zip(entries, vectors, strict=True)]

    def _vectors(self, entries: Sequence[Entry]) -> Floats:
        if not entries:
            return np.empty((0, self._embedder.dim), np.float32)
        vectors = self._embedder.embed(entries)
        lengths = np.linalg.norm(vectors, axis=-1) if vectors.shape == (len(entries), self._embedder.dim) else None
        if lengths is None or not np.allclose(lengths, 1, atol=1e-2):  # false for NaN too
            raise MagicError(
                ErrorCode.RUNTIME_FAILED,
                f"{self._embedder.name} gave no {len(entries)} unit vectors of {self._embedder.dim} numbers.",
                "Check the checkpoint; training may have diverged.",
            )
        return vectors

    def _write(self, pending: Sequence[tuple[bytes, Floats]]) -> None:
        shard = np.empty(len(pending), self._type)
        for place, (key, vector) in enumerate(pending):
            shard[place] = (key, vector)
        # Named by content too: processes that embed a share each never write the same file.
        name = hashlib.sha256(shard["key"].tobytes()).hexdigest()[:16]
        path = self._folder / f"{len(self._shards):06}-{name}.npy"
        with write_aside(path) as file:
            np.save(file, shard, allow_pickle=False)
        self._shards.append(self._open(path))

    def _open(self, path: Path) -> NDArray[np.void]:
        try:
            shard: NDArray[np.void] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise self._damaged(path, str(error)) from None
        if shard.dtype != self._type or shard.ndim != 1:
            raise self._damaged(path, f"it holds {shard.dtype}")
        return shard

    def _damaged(self, path: Path, what: str) -> MagicError:
        return MagicError(
            ErrorCode.STORAGE_FAILED, f"{path} cannot be read: {what}.", "Delete it; its vectors are made again."
        )

    def _index(self) -> None:
        keys = [shard["key"] for shard in self._shards]
        joined = np.concatenate([np.empty(0, f"S{KEY_BYTES}"), *keys])
        self._starts = np.cumsum([0, *map(len, keys)])
        # Of equal keys the first row is found, whatever was added later.
        self._order = np.argsort(joined, kind="stable")
        self._keys = joined[self._order]
