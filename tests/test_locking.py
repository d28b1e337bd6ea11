"""One writer at a time, whoever it is; a lock dies with its holder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gallery_fixtures import bundle, counting, library, make_photos, synced
from magicmm.errors import ErrorCode, MagicError
from magicmm.gallery import Gallery
from magicmm.locking import writer_lock

HOLDER = """
import sys
from pathlib import Path
from magicmm.locking import writer_lock
with writer_lock(Path(sys.argv[1])):
    sys.stdout.write("held\\n")
    sys.stdout.flush()
    sys.stdin.readline()
"""

OPENER = """
import sys
from magicmm.gallery import Gallery
sys.stdout.write("ready\\n")
sys.stdout.flush()
sys.stdin.readline()
with Gallery.open(sys.argv[1], sys.argv[2], [sys.argv[3]]) as gallery:
    sys.stdout.write(str(gallery.status().indexed))
"""


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    """Three photos, indexed."""
    yield from library(tmp_path, 3)


def held_by_another_process(index_path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(index_path)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def assert_locked(call: object, *args: object) -> None:
    with pytest.raises(MagicError) as caught:
        call(*args)  # type: ignore[operator]
    assert caught.value.code is ErrorCode.INDEX_LOCKED


def test_a_second_writer_is_refused_at_once_and_searching_goes_on(gallery: Gallery) -> None:
    with writer_lock(gallery.index_path):
        assert_locked(synced, gallery)
        assert_locked(list, gallery.rebuild())
        assert_locked(gallery.forget, gallery.status().sources[0])
        assert len(gallery.search("red")) == 3
        assert gallery.plan().unchanged == 3
    assert synced(gallery).total == 0


def test_a_sync_that_is_under_way_locks_out_another_one_of_the_same_process(gallery: Gallery) -> None:
    steps = gallery.sync()
    next(steps)
    assert_locked(synced, gallery)
    with Gallery.open(gallery.index_path, gallery.embedder) as other:
        assert_locked(synced, other)
    steps.close()  # type: ignore[attr-defined]
    assert synced(gallery).total == 0


def test_a_sync_that_was_not_begun_locks_nothing(gallery: Gallery) -> None:
    steps = gallery.sync()
    assert synced(gallery).total == 0
    assert len(list(steps)) == 2


def test_the_lock_of_another_process_holds_until_it_is_killed(gallery: Gallery) -> None:
    holder = held_by_another_process(gallery.index_path)
    assert_locked(synced, gallery)
    holder.kill()
    holder.communicate()
    assert synced(gallery).total == 0


def test_a_failing_writer_frees_its_lock(gallery: Gallery) -> None:
    with pytest.raises(KeyError), writer_lock(gallery.index_path):
        raise KeyError
    assert synced(gallery).total == 0


def test_a_folder_that_cannot_be_written_to_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(MagicError) as caught, writer_lock(tmp_path / "index.db"):
        pass
    monkeypatch.undo()
    assert caught.value.code is ErrorCode.STORAGE_FAILED


def test_processes_that_make_the_same_index_at_once_all_succeed(tmp_path: Path) -> None:
    make_photos(tmp_path / "p", 1)
    for number in range(3):
        index_path = tmp_path / f"{number}.db"
        command = [sys.executable, "-c", OPENER, str(index_path), str(bundle().path), str(tmp_path / "p")]
        openers = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(4)
        ]
        for opener in openers:
            assert opener.stdout is not None
            assert opener.stdout.readline() == "ready\n"
        for opener in openers:
            assert opener.stdin is not None
            opener.stdin.write("go\n")
            opener.stdin.flush()
        said = [opener.communicate(timeout=30) for opener in openers]
        assert said == [("0", "")] * 4
        with Gallery.open(index_path, counting(), [tmp_path / "p"]) as gallery:
            assert synced(gallery).embedded == 1
