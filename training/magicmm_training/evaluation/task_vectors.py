"""The vectors of a task's entries: each content once, and none that an earlier run kept."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.entries import LazyEntries
from magicmm_training.evaluation.task import MISSING
from magicmm_training.mining.vectors import vector_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from magicmm_training.entries import Entry
    from magicmm_training.mining.vectors import VectorCache

    Floats = NDArray[np.float32]


class JoinedEntries(LazyEntries):
    """Entries of several sequences as one; those that lie on disk stay there."""

    def __init__(self, *parts: Sequence[Entry]) -> None:
        """Join sequences."""
        self._parts = parts
        self._starts = [0, *accumulate(map(len, parts))]

    def __len__(self) -> int:
        return self._starts[-1]

    def at(self, place: int) -> Entry:
        """Return an entry."""
        part = bisect_right(self._starts, place) - 1
        return self._parts[part][place - self._starts[part]]


@dataclass(frozen=True, slots=True)
class EntryVectors:
    """Vectors of some entries.

    Attributes:
        different: float32 [u, dim], one row a content under its instruction.
        rows: int64 [n], the row of each entry; -1 = it could not be read.
        embedded: How many went through the model; the others were kept from an earlier run.
        truncated: How many entries have a text that the model cuts; None = it does not say.
        reason: Why an entry could not be read, or None.
    """

    different: Floats
    rows: NDArray[np.int64]
    embedded: int
    truncated: int | None
    reason: str | None


def embed_entries(
    entries: Sequence[Entry],
    cache: VectorCache,
    truncates: Callable[[Entry], bool] | None = None,
    note: Callable[[Entry], None] | None = None,
    report: Callable[[int, int], None] | None = None,
) -> EntryVectors:
    """Embed entries, equal ones once.

    Args:
        entries: Any number.
        cache: Makes and keeps vectors.
        truncates: Whether the model cuts the text of an entry.
        note: Called with every readable entry.
        report: Called with (embedded, to embed).

    Raises:
        MagicError: `runtime_failed` when the embedder fails or gives no unit vectors, `storage_failed`.
    """
    reason, truncated = None, 0
    places: dict[bytes, list[int]] = {}
    costs: dict[bytes, tuple[int, int]] = {}
    for place, entry in enumerate(entries):
        try:
            key = _key(entry)
        except MagicError as error:
            reason = reason or error.message
            continue
        places.setdefault(key, []).append(place)
        costs.setdefault(key, _cost(entry))
        if note is not None:
            note(entry)
        truncated += truncates is not None and entry.text is not None and truncates(entry)
    # Entries of a kind and of about one length share a batch: less padding.
    keys = sorted(places, key=costs.__getitem__)
    before = len(cache)
    found, faults = cache.rows(keys, lambda place: entries[places[keys[place]][0]], report)
    readable = np.flatnonzero(found >= 0)
    rows = np.full(len(entries), -1, np.int64)
    for row, place in enumerate(readable.tolist()):
        rows[places[keys[place]]] = row
    if faults:
        reason = reason or next(iter(faults.values())).message
    different = cache.read(found[readable])
    return EntryVectors(different, rows, len(cache) - before, None if truncates is None else truncated, reason)


def _key(entry: Entry) -> bytes:
    if isinstance(entry.image, bytes) and entry.image == MISSING:
        raise MagicError(ErrorCode.IMAGE_INVALID, "A picture is missing.", "Restore it.")
    return vector_key(entry, entry.content_id())


def _cost(entry: Entry) -> tuple[int, int]:
    return 0 if entry.image is None else entry.max_tiles, len(entry.text or "")
