"""The cache of vectors: nothing is embedded twice, a kill loses no committed shard, one bad entry spoils no other."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from magicmm import ErrorCode, MagicError
from magicmm_training.entries import Entry
from magicmm_training.mining.vectors import VectorCache, vector_key
from training_pairs import HashEmbedder, candidate, picture, query

if TYPE_CHECKING:
    from magicmm_training.entries import Floats

ENTRIES = [candidate(f"answer {n}") for n in range(10)]
KEYS = [vector_key(entry, entry.content_id()) for entry in ENTRIES]


def filled(folder: Path, embedder: HashEmbedder, batch: int = 4, commit: int = 4) -> np.ndarray:
    cache = VectorCache(folder, embedder, batch, commit)
    rows, faults = cache.rows(KEYS, ENTRIES.__getitem__)
    assert not faults
    return cache.read(rows)


def test_vectors_are_those_of_the_embedder(tmp_path: Path) -> None:
    assert np.array_equal(filled(tmp_path, HashEmbedder()), HashEmbedder().embed(ENTRIES))


def test_nothing_is_embedded_twice(tmp_path: Path) -> None:
    first, second = HashEmbedder(), HashEmbedder()
    once = filled(tmp_path, first)
    assert np.array_equal(filled(tmp_path, second, batch=3, commit=100), once)
    assert (first.batches, second.batches) == ([4, 4, 2], [])


def test_equal_entries_are_embedded_once(tmp_path: Path) -> None:
    embedder = HashEmbedder()
    cache = VectorCache(tmp_path, embedder)
    rows, _ = cache.rows([*KEYS, *KEYS], (ENTRIES * 2).__getitem__)
    assert (sum(embedder.batches), len(cache)) == (10, 10)
    assert np.array_equal(rows[:10], rows[10:])


def test_a_later_call_reads_rows_of_all_shards(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path, HashEmbedder(), batch=2, commit=2)
    cache.rows(KEYS[5:], ENTRIES[5:].__getitem__)
    rows, _ = cache.rows(KEYS, ENTRIES.__getitem__)
    assert np.array_equal(cache.read(rows[::-1]), HashEmbedder().embed(ENTRIES[::-1]))
    assert cache.read(rows[:0]).shape == (0, 8)


def test_another_embedder_has_vectors_of_its_own(tmp_path: Path) -> None:
    filled(tmp_path, HashEmbedder())
    other = HashEmbedder(fingerprint="../hash-2")
    filled(tmp_path, other)
    assert sum(other.batches) == 10
    assert all(path.parent == tmp_path for path in tmp_path.iterdir())


def test_the_key_names_content_and_role() -> None:
    image = picture((9, 9, 9))
    entries = [
        candidate("a"),
        candidate("b"),
        candidate("a", instruction="Else."),
        query("a", instruction="Represent it."),
        candidate("a", image),
        candidate(None, image),
        replace(candidate(None, image), max_tiles=4),
    ]
    keys = {vector_key(entry, entry.content_id()) for entry in entries}
    assert len(keys) == len(entries)
    assert vector_key(candidate("a"), candidate("a").content_id()) in keys


def test_an_entry_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    def refuse(entry: Entry) -> None:
        if entry.text == "answer 5":
            raise MagicError(ErrorCode.IMAGE_INVALID, "no picture", "")

    def entry(place: int) -> Entry:
        if place == 2:
            raise MagicError(ErrorCode.TEXT_INVALID, "no row", "")
        return ENTRIES[place]

    cache = VectorCache(tmp_path, HashEmbedder(refuse=refuse), batch=4)
    rows, faults = cache.rows([*KEYS, KEYS[5]], entry)
    assert {place: str(fault) for place, fault in faults.items()} == {2: "no row", 5: "no picture", 10: "no picture"}
    assert np.flatnonzero(rows < 0).tolist() == [2, 5, 10]
    good = [place for place in range(10) if place not in faults]
    assert np.array_equal(cache.read(rows[good]), HashEmbedder().embed([ENTRIES[place] for place in good]))


def test_a_failing_embedder_stops_the_run(tmp_path: Path) -> None:
    def fail(_: Entry) -> None:
        raise MagicError(ErrorCode.RUNTIME_FAILED, "out of memory", "")

    with pytest.raises(MagicError, match="out of memory"):
        VectorCache(tmp_path, HashEmbedder(refuse=fail)).rows(KEYS, ENTRIES.__getitem__)


@pytest.mark.parametrize("value", [np.nan, 0.0, 3.0])
def test_what_is_no_unit_vector_is_never_kept(tmp_path: Path, value: float) -> None:
    class Broken(HashEmbedder):
        def embed(self, entries: Sequence[Entry]) -> Floats:
            vectors = super().embed(entries)
            vectors[-1] = value
            return vectors

    with pytest.raises(MagicError, match="no 4 unit vectors of 8 numbers") as caught:
        VectorCache(tmp_path, Broken(), batch=4).rows(KEYS, ENTRIES.__getitem__)
    assert caught.value.code is ErrorCode.RUNTIME_FAILED
    assert not list(tmp_path.rglob("*.npy"))


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    filled(tmp_path, HashEmbedder())
    shard = min(tmp_path.rglob("*.npy"))
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(MagicError, match=shard.name) as caught:
        VectorCache(tmp_path, HashEmbedder())
    assert caught.value.code is ErrorCode.STORAGE_FAILED
    shard.unlink()
    again = HashEmbedder()
    filled(tmp_path, again)
    assert sum(again.batches) == 4


def test_a_shard_of_another_width_is_refused(tmp_path: Path) -> None:
    filled(tmp_path, HashEmbedder())
    with pytest.raises(MagicError, match="it holds"):
        VectorCache(tmp_path, HashEmbedder(dim=4))


def test_a_full_disk_keeps_what_was_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync, calls = os.fsync, []

    def full(number: int) -> None:
        calls.append(number)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(number)

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(MagicError, match="No space left") as caught:
        filled(tmp_path, HashEmbedder())
    assert caught.value.code is ErrorCode.STORAGE_FAILED
    assert len(list(tmp_path.rglob("*.*"))) == 1
    again = HashEmbedder()
    filled(tmp_path, again)
    assert sum(again.batches) == 6


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    VectorCache(tmp_path, HashEmbedder(), batch=4).rows(KEYS, ENTRIES.__getitem__, lambda *counts: told.append(counts))
    assert told == [(4, 10), (8, 10), (10, 10)]


def test_a_killed_run_goes_on_where_it_had_committed(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from test_mining_vectors import ENTRIES, KEYS
        from magicmm_training.mining.vectors import VectorCache
        from training_pairs import HashEmbedder

        def refuse(entry):
            if entry.text == "answer 9":
                os.kill(os.getpid(), signal.SIGKILL)

        VectorCache(Path(sys.argv[1]), HashEmbedder(refuse=refuse), 2, 4).rows(KEYS, ENTRIES.__getitem__)
        """
    )
    paths = [*sys.path, str(Path(__file__).parent)]
    killed = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    )
    assert killed.returncode == -signal.SIGKILL
    again = HashEmbedder()
    vectors = filled(tmp_path, again, batch=2)
    assert again.batches == [2]
    assert np.array_equal(vectors, HashEmbedder().embed(ENTRIES))
