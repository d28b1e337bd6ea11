"""Embedding for mining or the judge by many processes: each takes a share, all fill one folder of vectors.

At the paper's 16 million pairs, one accelerator would embed for a week. Shares need nothing of each other: start one
for each accelerator, by any launcher; the stage itself, run afterwards, finds all vectors and only ranks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.data.candidates import part_of, parts_of
from magicmm_training.mining.embedded import check_names
from magicmm_training.mining.vectors import KEY_BYTES, VectorCache, vector_key

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from magicmm_training.entries import Entry, EntryEmbedder, PairSet
    from magicmm_training.mining.embedded import Progress


def embed_share(
    pair_sets: Sequence[PairSet],
    embedder: EntryEmbedder,
    vectors: Path,
    share: int,
    shares: int,
    batch: int = 32,
    progress: Progress | None = None,
) -> int:
    """Embed queries and candidates of every `shares`-th pair.

    What cannot be read or embedded is left out; the stage itself counts it.

    Args:
        pair_sets: Data of the stage.
        embedder: Model of the stage.
        vectors: The folder that the stage is given, too.
        share: Which share, from 0.
        shares: How many there are.
        batch: Entries that the model gets at once.
        progress: Called with (what is done, how much of it, of how much).

    Returns:
        How many vectors the folder holds afterwards, as far as this process knows.

    Raises:
        MagicError: `argument_invalid` for a share that there is not, or equal names; `runtime_failed`,
            `storage_failed`.
    """
    if not 0 <= share < shares:
        raise MagicError(ErrorCode.ARGUMENT_INVALID, f"There is no share {share} of {shares}.", "Count shares from 0.")
    check_names(pair_sets)
    cache = VectorCache(vectors, embedder, batch)
    for pairs in pair_sets:
        work = _Share(pairs, range(share, len(pairs), shares))

        def tell(done: int, total: int, name: str = pairs.name) -> None:
            if progress:
                progress(f"{name}: share {share + 1} of {shares}", done, total)

        cache.rows(np.array(work.keys, f"S{KEY_BYTES}"), work.entry, tell)
    return len(cache)


class _Share:
    """The entries of some pairs, read again when they are embedded: keys only are kept."""

    def __init__(self, pairs: PairSet, places: range) -> None:
        self._pairs = pairs
        self._refs: list[tuple[int, str | None]] = []
        self.keys: list[bytes] = []
        for place in places:
            try:
                pair = pairs[place]
                found = [(None, pair.query), *parts_of(pair)]
                keys = [vector_key(entry, entry.content_id()) for _, entry in found]
            except MagicError:
                continue
            self._refs += [(place, part) for part, _ in found]
            self.keys += keys

    def entry(self, at: int) -> Entry:
        """Return the query (part None) or a candidate."""
        place, part = self._refs[at]
        pair = self._pairs[place]
        return pair.query if part is None else part_of(pair, part)
