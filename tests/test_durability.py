"""Killed at any moment, or out of space: nothing lost, nothing doubled, at most one batch done twice, no litter."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from time import monotonic

import pytest

from gallery_fixtures import (
    assert_index_is_sound,
    assert_search_is_exact,
    bundle,
    counting,
    make_photos,
    rebuilt,
    rows_of,
    synced,
)
from magicmm.errors import ErrorCode, MagicError
from magicmm.gallery import Gallery

PHOTOS = 200
BATCH = 4
KILLS = 56

# Syncs or rebuilds, says on stdout what is committed, and writes an "x" for every photo before the model sees it.
CHILD = """
import os, sys, time
from magicmm import scan, sync
from magicmm.embedder import Embedder
from magicmm.gallery import Gallery
import onnxruntime, filelock

verb, index, bundle, photos, log = sys.argv[1:]
sync.BATCH, sync._WINDOW = 4, 16
scan._REWRITE_ROWS, scan._CHUNK_ROWS = 8, 16
fsync = os.fsync

class Slow(Embedder):
    def embed_pixels(self, pixels, role="photo"):
        with open(log, "a") as file:
            file.write("x" * len(pixels))
        time.sleep(0.003)
        return super().embed_pixels(pixels, role)

def slow_fsync(file):
    time.sleep(0.03)  # so that some kills find the scan file half written
    fsync(file)

os.fsync = slow_fsync
os.write(1, b"ready\\n")
with Gallery.open(index, Slow.open(bundle, threads=1), [photos]) as gallery:
    for _ in getattr(gallery, verb)():
        status = gallery.status()
        os.write(1, b"%d\\n" % (status.rebuilt if verb == "rebuild" else status.indexed))
os.write(1, b"end\\n")
"""


class Scenario:
    """One index from its first photo to the end of a rebuild, killed again and again on the way."""

    def __init__(self, folder: Path, photos: Path) -> None:
        """Begin without an index."""
        self.photos = photos
        self.index_path = folder / "index.db"
        self.log = folder.with_name(folder.name + ".log")
        self.verb = "sync"
        folder.mkdir()

    @property
    def seed(self) -> int:
        """Which model the present verb works with."""
        return int(self.verb == "rebuild")

    def vectors(self) -> int:
        """Count what is committed of the present model."""
        if not self.index_path.exists() or not rows_of(self.index_path, "PRAGMA table_info(vector)"):
            return 0
        query = "SELECT COUNT(*) FROM vector JOIN model ON model.id = model_id WHERE fingerprint = ?"
        return int(rows_of(self.index_path, query, bundle(self.seed).fingerprint)[0][0])

    def start(self) -> subprocess.Popen[bytes]:
        """Start a child and wait until its modules are loaded."""
        self.log.write_bytes(b"")
        arguments = [self.verb, self.index_path, bundle(self.seed).path, self.photos, self.log]
        child = subprocess.Popen([sys.executable, "-c", CHILD, *map(str, arguments)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        return child

    def run(self, seconds: float) -> bool:
        """Run a child, kill it after some seconds, check everything; return whether it was killed."""
        before = self.vectors()
        child = self.start()
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.kill()
        out, _ = child.communicate()
        *lines, _ = out.decode().split("\n")  # the last line may be cut
        has_ended = lines[-1:] == ["end"]
        assert has_ended or child.returncode == -9
        now = self.vectors()
        reported = [int(line) for line in lines if line != "end"]
        assert now >= max(reported, default=0), "what was reported is lost"
        assert now >= before
        assert self.log.stat().st_size <= now - before + BATCH, "more than the batch in hand was lost"
        self.check()
        if has_ended or (self.verb == "rebuild" and self.is_taken_over()):
            self.verb = "rebuild" if self.verb == "sync" else "done"
        return not has_ended

    def is_taken_over(self) -> bool:
        """Whether the rebuild's model answers searches."""
        return rows_of(self.index_path, "SELECT fingerprint FROM model WHERE is_active") == [(bundle(1).fingerprint,)]

    def check(self) -> None:
        """Look at the index as it was left behind."""
        with Gallery.open(self.index_path, counting(1 if self._is_rebuilt() else 0), [self.photos]) as gallery:
            if gallery.status().indexed:
                assert_search_is_exact(gallery)
        assert_index_is_sound(self.index_path)

    def _is_rebuilt(self) -> bool:
        return self.verb == "rebuild" and self.is_taken_over()

    def finish(self) -> None:
        """Sync a last time without a kill."""
        model = counting(self.seed if self.verb != "done" else 1)
        with Gallery.open(self.index_path, model, [self.photos]) as gallery:
            if self.verb == "rebuild":
                rebuilt(gallery)
            synced(gallery)
            assert gallery.status().indexed == PHOTOS
            assert_search_is_exact(gallery)
        assert_index_is_sound(self.index_path)
        assert rows_of(self.index_path, "SELECT COUNT(*) FROM photo") == [(PHOTOS,)]
        left = {path.name for path in self.index_path.parent.iterdir()}
        assert left <= {"index.db", "index.db.scan", "index.db.lock", "index.db-wal", "index.db-shm"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hundred small photos."""
    folder = tmp_path_factory.mktemp("photos")
    make_photos(folder, PHOTOS)
    return folder


def test_a_sync_or_rebuild_killed_at_any_moment_loses_at_most_the_batch_in_hand(tmp_path: Path, photos: Path) -> None:
    undisturbed = Scenario(tmp_path / "undisturbed", photos)
    start = monotonic()
    child = undisturbed.start()
    started = monotonic()
    child.communicate()
    whole = monotonic() - started
    assert whole < 60
    assert started > start
    random = Random(20)
    kills, number, scenario = 0, 0, Scenario(tmp_path / "0", photos)
    while kills < KILLS:
        kills += scenario.run(random.uniform(0, 0.8 * whole))
        if scenario.verb == "done":
            scenario.finish()
            number += 1
            scenario = Scenario(tmp_path / str(number), photos)
    if scenario.index_path.exists():
        scenario.finish()
    assert number >= 2


# -- no space --------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a tmpfs cannot be mounted here: {error}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_is_an_error_that_leaves_a_sound_index_which_goes_on_later(
    small_disk: Path, photos: Path, tmp_path: Path
) -> None:
    ballast = small_disk / "ballast"
    model = counting()
    with Gallery.open(small_disk / "index.db", model, [photos]) as gallery:
        committed = 0
        steps = gallery.sync()
        while committed == 0:
            committed = next(steps).done
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(512))
        with pytest.raises(MagicError) as caught:
            for event in steps:
                committed = event.done
        assert caught.value.code is ErrorCode.STORAGE_FAILED
        assert gallery.status().indexed == committed < PHOTOS
        assert_search_is_exact(gallery)
        ballast.unlink()
        assert_index_is_sound(small_disk / "index.db")
        assert synced(gallery).done == PHOTOS - committed
        assert_search_is_exact(gallery)
    assert model.count <= PHOTOS + 16
    assert_index_is_sound(small_disk / "index.db")


def test_no_space_for_a_new_index_is_an_error_and_not_a_damaged_index(small_disk: Path, photos: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(1000 << 10))
    with pytest.raises(MagicError) as caught, Gallery.open(small_disk / "index.db", counting(), [photos]) as gallery:
        synced(gallery)
    assert caught.value.code is ErrorCode.STORAGE_FAILED
    (small_disk / "ballast").unlink()
    with Gallery.open(small_disk / "index.db", counting(), [photos]) as gallery:
        assert synced(gallery).embedded > 0


LIMITED = """
import resource, sys
from magicmm.errors import MagicError
from magicmm.gallery import Gallery
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), resource.RLIM_INFINITY))
try:
    with Gallery.open(sys.argv[1], sys.argv[2], [sys.argv[3]]) as gallery:
        for _ in gallery.sync():
            pass
except MagicError as error:
    sys.stdout.write(error.code.value)
"""


@pytest.mark.parametrize("limit", [3000, 20_000, 60_000, 90_000])
def test_a_limit_on_the_size_of_files_is_reported_and_leaves_a_sound_index(
    tmp_path: Path, photos: Path, limit: int
) -> None:
    index_path = tmp_path / "index.db"
    arguments = [str(index_path), str(bundle().path), str(photos), str(limit)]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == ErrorCode.STORAGE_FAILED.value
    with Gallery.open(index_path, counting(), [photos]) as gallery:
        if gallery.status().indexed:
            assert_search_is_exact(gallery)
        synced(gallery)
        assert gallery.status().indexed == PHOTOS
        assert_search_is_exact(gallery)
    assert_index_is_sound(index_path)


def test_an_index_copied_together_with_its_log_opens_with_everything_that_was_committed(
    tmp_path: Path, photos: Path
) -> None:
    """What a power cut leaves: the main file and a write-ahead log that nobody folded in."""
    with Gallery.open(tmp_path / "index.db", counting(), [photos]) as gallery:
        steps = gallery.sync()
        done = 0
        while done < 100:
            done = next(steps).done
        (tmp_path / "copy").mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(f"{tmp_path / 'index.db'}{suffix}", f"{tmp_path / 'copy' / 'index.db'}{suffix}")
    with Gallery.open(tmp_path / "copy" / "index.db", counting()) as copy:
        assert copy.status().indexed == done
        assert_search_is_exact(copy)
