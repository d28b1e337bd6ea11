"""Asking: exact whatever happened to index and scan file before, during a sync, and while a rebuild runs beside."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import numpy as np
import pytest

from gallery_fixtures import (
    MemorySource,
    answers,
    assert_index_is_sound,
    assert_search_is_exact,
    brute_force,
    bundle,
    counting,
    library,
    make_photo,
    make_photos,
    photo_bytes,
    rebuilt,
    rows_of,
    synced,
    touch,
    uris,
)
from magicmm import gallery as gallery_module
from magicmm import maintenance, scan
from magicmm.embedder import Embedder
from magicmm.errors import ErrorCode, MagicError, SkipReason
from magicmm.filters import Filter
from magicmm.gallery import Gallery
from magicmm.index import Index
from magicmm.scan import ScanMatrix, scan_path, write_scan_file
from magicmm.sources import FolderSource, path_uri
from magicmm.sync import Budget


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    """Forty photos of noise, indexed, with a scan file."""
    yield from library(tmp_path, 40)


def code_of(call: object, *args: object, **options: object) -> ErrorCode:
    with pytest.raises(MagicError) as caught:
        call(*args, **options)  # type: ignore[operator]
    return caught.value.code


def reopened(gallery: Gallery) -> Gallery:
    return Gallery.open(gallery.index_path, gallery.embedder)


# -- answers ---------------------------------------------------------------------------------------------------


def test_colours_are_found_by_their_words_and_by_their_photos(tmp_path: Path) -> None:
    for seed, colour in enumerate(["red", "green", "blue", "black"]):
        make_photo(tmp_path / "p" / f"{colour}.png", seed, colour)
    with Gallery.open(tmp_path / "i.db", counting(), [tmp_path / "p"]) as gallery:
        synced(gallery)
        for colour in ("red", "green", "blue", "black"):
            assert uris(gallery.search(colour, k=1)) == [path_uri(tmp_path / "p" / f"{colour}.png")]
            by_photo = gallery.search(image=photo_bytes(99, colour), k=1)
            assert uris(by_photo) == [path_uri(tmp_path / "p" / f"{colour}.png")]
            assert by_photo.matches[0].score > 0.99


@pytest.mark.parametrize("k", [1, 7, 40, 41, 1000])
def test_k_asked_is_k_given(gallery: Gallery, k: int) -> None:
    results = gallery.search("red", k=k)
    assert len(results) == min(k, 40)
    assert results.searched == 40
    assert answers(results) == brute_force(gallery.index_path, gallery.embedder.embed_text("red"), k)


@pytest.mark.parametrize("k", [0, -1, gallery_module.MAX_K + 1])
def test_a_senseless_k_is_refused(gallery: Gallery, k: int) -> None:
    assert code_of(gallery.search, "red", k=k) is ErrorCode.ARGUMENT_INVALID
    assert code_of(gallery.similar, 1, k=k) is ErrorCode.ARGUMENT_INVALID


def test_filters_apply_before_the_k_best_are_taken(gallery: Gallery) -> None:
    vector = gallery.embedder.embed_text("red")
    everything = [photo_id for photo_id, *_ in brute_force(gallery.index_path, vector, 100)]
    worst = frozenset(everything[-5:])
    results = gallery.search("red", k=3, where=Filter(ids=worst))
    assert answers(results) == brute_force(gallery.index_path, vector, 3, worst)
    assert results.searched == 5
    assert gallery.search("red", where=Filter(ids=())).matches == ()
    assert gallery.search("red", where=Filter(ids=(10**9, 2**63 - 1))).matches == ()


def test_a_least_score_cuts_the_ranking_and_nothing_else(gallery: Gallery) -> None:
    everything = answers(gallery.search("red", k=100))
    least = everything[10][2]
    assert answers(gallery.search("red", k=100, min_score=least)) == [row for row in everything if row[2] >= least]


def test_equal_scores_are_ordered_by_id(gallery: Gallery, tmp_path: Path) -> None:
    for number in range(12):
        shutil.copy(tmp_path / "photos" / "0007.png", tmp_path / "photos" / f"copy-{number}.png")
    synced(gallery)
    twin = gallery.search(image=tmp_path / "photos" / "0007.png", k=8)
    assert len({match.score for match in twin.matches}) == 1
    found = [match.id for match in twin.matches]
    copies = [row[0] for row in rows_of(gallery.index_path, "SELECT id FROM photo GROUP BY id, hash ORDER BY id")]
    assert found == sorted(found)
    same = gallery.duplicates()[0]
    assert found == [match.id for match in same.photos][:8]
    assert set(found) <= set(copies)
    assert_search_is_exact(gallery)


def test_similar_leaves_out_the_photo_itself_and_nothing_else(gallery: Gallery) -> None:
    vector = gallery.embedder.embed_image(Path(gallery.index_path.parent / "photos" / "0003.png"))
    photo_id = gallery.photo_id(path_uri(gallery.index_path.parent / "photos" / "0003.png"))
    assert photo_id is not None
    expected = [row for row in brute_force(gallery.index_path, vector, 100) if row[0] != photo_id]
    results = gallery.similar(photo_id, k=39)
    assert answers(results) == expected
    assert results.searched == 39
    few = frozenset(row[0] for row in expected[5:9])
    assert [match.id for match in gallery.similar(photo_id, k=3, where=Filter(ids=few)).matches] == [
        row[0] for row in expected[5:8]
    ]


@pytest.mark.parametrize("photo_id", [0, -1, 10**9, 2**63 - 1, 2**63, -(2**80)])
def test_similar_to_an_unknown_photo_is_refused(gallery: Gallery, photo_id: int) -> None:
    assert code_of(gallery.similar, photo_id) is ErrorCode.ARGUMENT_INVALID


def test_similar_takes_the_number_types_of_numpy(gallery: Gallery) -> None:
    assert gallery.similar(np.int64(1)) == gallery.similar(1)


def test_similar_to_a_skipped_photo_is_refused(gallery: Gallery, tmp_path: Path) -> None:
    (tmp_path / "photos" / "junk.jpg").write_bytes(b"junk")
    synced(gallery)
    uri = path_uri(tmp_path / "photos" / "junk.jpg")
    ((photo_id,),) = rows_of(gallery.index_path, "SELECT id FROM photo WHERE uri = ?", uri)
    assert gallery.photo_id(uri) is None
    assert code_of(gallery.similar, photo_id) is ErrorCode.ARGUMENT_INVALID


def test_a_closed_gallery_says_so_and_does_not_blame_the_index(gallery: Gallery) -> None:
    gallery.close()
    assert code_of(gallery.search, "red") is ErrorCode.ARGUMENT_INVALID
    assert code_of(gallery.status) is ErrorCode.ARGUMENT_INVALID


def test_no_index_and_no_sources_is_an_error_that_makes_no_file(tmp_path: Path) -> None:
    assert code_of(Gallery.open, tmp_path / "none" / "i.db", counting()) is ErrorCode.SOURCE_UNAVAILABLE
    assert list(tmp_path.iterdir()) == []


def test_a_gallery_without_photos_yet_says_how_to_fill_it(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    with Gallery.open(tmp_path / "i.db", counting(), [tmp_path / "p"]) as gallery:
        assert code_of(gallery.search, "red") is ErrorCode.SOURCE_UNAVAILABLE
        assert gallery.status().indexed == 0
        synced(gallery)
        results = gallery.search("red")
        assert (results.matches, results.searched) == ((), 0)
        assert gallery.duplicates() == gallery.duplicates(0.5) == []


def test_one_folder_may_be_given_as_a_string(tmp_path: Path) -> None:
    make_photos(tmp_path / "p", 2)
    with Gallery.open(tmp_path / "i.db", counting(), str(tmp_path / "p")) as gallery:
        assert synced(gallery).embedded == 2


# -- the scan file is never the truth --------------------------------------------------------------------------


def _truncated(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _longer(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(8))


def _empty(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def _gone(path: Path, other: Path) -> None:
    path.unlink()


def _foreign(path: Path, other: Path) -> None:
    shutil.copy(other, path)


def _folder(path: Path, other: Path) -> None:
    path.unlink()
    path.mkdir()


def _flip(at: int) -> object:
    def damage(path: Path, other: Path) -> None:
        data = bytearray(path.read_bytes())
        data[at] ^= 0x41
        path.write_bytes(data)

    return damage


@pytest.mark.parametrize(
    "damage",
    [_truncated, _longer, _empty, _gone, _foreign, _folder]
    + [_flip(at) for at in (0, 9, 13, 17, 25, 60, 90, 100, 106, 128, 140, 128 + 8 * 40, 128 + 16 * 40 + 3)],
)
def test_a_damaged_or_foreign_scan_file_changes_no_answer(tmp_path: Path, gallery: Gallery, damage: object) -> None:
    make_photos(tmp_path / "other", 40, first=100)
    with Gallery.open(tmp_path / "other.db", gallery.embedder, [tmp_path / "other"]) as other:
        synced(other)
    damage(scan_path(gallery.index_path), scan_path(tmp_path / "other.db"))  # type: ignore[operator]
    with reopened(gallery) as fresh:
        assert_search_is_exact(fresh)
        some = frozenset(range(3, 17))
        vector = fresh.embedder.embed_text("red")
        found = answers(fresh.search("red", k=5, where=Filter(ids=some)))
        assert found == brute_force(fresh.index_path, vector, 5, some)


def test_damaged_codes_in_the_scan_file_are_found_by_its_checksum(gallery: Gallery) -> None:
    path = scan_path(gallery.index_path)
    assert scan.data_is_sound(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert not scan.data_is_sound(path)
    path.unlink()
    assert not scan.data_is_sound(path)


def rewrite_scan_file(index_path: Path) -> None:
    with closing(Index(index_path)) as index:
        model = index.active_model()
        assert model is not None
        write_scan_file(index, model)


def test_a_scan_file_older_than_the_last_compaction_is_not_used(tmp_path: Path, gallery: Gallery) -> None:
    path = scan_path(gallery.index_path)
    old = path.read_bytes()
    (tmp_path / "photos" / "0000.png").unlink()
    synced(gallery)
    rewrite_scan_file(gallery.index_path)  # forgets which rows of older files are dead
    path.write_bytes(old)
    with reopened(gallery) as fresh:
        assert_search_is_exact(fresh)
        assert len(fresh.search("red", k=100)) == 39


def test_a_stale_scan_file_is_completed_from_the_index(tmp_path: Path, gallery: Gallery) -> None:
    before = scan_path(gallery.index_path).read_bytes()
    make_photos(tmp_path / "photos", 3, first=200)
    (tmp_path / "photos" / "0001.png").unlink()
    make_photo(tmp_path / "photos" / "0002.png", 300)
    synced(gallery)
    assert scan_path(gallery.index_path).read_bytes() == before
    with reopened(gallery) as fresh:
        assert_search_is_exact(fresh)
        assert len(fresh.search("red", k=100)) == 42


def test_a_scan_file_from_the_future_of_a_restored_index_never_comes_to_fit(tmp_path: Path, gallery: Gallery) -> None:
    gallery.close()
    backup = gallery.index_path.read_bytes()
    with reopened(gallery) as later:
        make_photos(tmp_path / "photos", 5, first=400)
        synced(later)
        rewrite_scan_file(later.index_path)
    gallery.index_path.write_bytes(backup)
    for seed in range(5):
        (tmp_path / "photos" / f"0{400 + seed}.png").unlink()
    with reopened(gallery) as restored:
        assert_search_is_exact(restored)
        for seed in range(500, 512):
            make_photo(tmp_path / "photos" / f"{seed}.png", seed)
            for _ in restored.sync():
                with reopened(gallery) as reader:
                    assert_search_is_exact(reader)


def test_a_full_disk_while_the_scan_file_is_written_leaves_the_old_one(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = scan_path(gallery.index_path).read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert code_of(rewrite_scan_file, gallery.index_path) is ErrorCode.STORAGE_FAILED
    monkeypatch.undo()
    assert scan_path(gallery.index_path).read_bytes() == before
    assert not list(gallery.index_path.parent.glob("*.new"))
    assert_search_is_exact(gallery)


def test_a_scan_file_of_another_index_is_cleared_away_by_the_next_sync(gallery: Gallery) -> None:
    scan_path(gallery.index_path).write_bytes(b"foreign")
    discarded = gallery.sync()
    next(discarded)
    assert not scan_path(gallery.index_path).exists()
    discarded.close()  # type: ignore[attr-defined]
    synced(gallery)
    assert scan.data_is_sound(scan_path(gallery.index_path))


def test_a_half_written_scan_file_is_cleared_away_by_the_next_sync(gallery: Gallery) -> None:
    litter = scan_path(gallery.index_path).with_name(gallery.index_path.name + ".scan.new")
    litter.write_bytes(b"half")
    synced(gallery)
    assert not litter.exists()


class Changer:
    """Makes random changes to a library of two folders and a gallery of it."""

    def __init__(self, folder: Path, seed: int) -> None:
        """Start with an empty library."""
        self.random = Random(seed)
        self.folder = folder
        self.seed = 1000 * seed
        self.index_path = folder / "index.db"
        self.model = counting()
        for name in ("a", "b"):
            make_photos(folder / name, 3, first=self._next(3))
        self.kept: list[bytes] = []

    def _next(self, count: int = 1) -> int:
        self.seed += count
        return self.seed

    def files(self) -> list[Path]:
        return sorted(path for name in ("a", "b") for path in (self.folder / name).rglob("*.*"))

    def _free_path(self) -> Path:
        return self.folder / self.random.choice("ab") / self.random.choice(["", "in"]) / f"{self._next()}.png"

    def add(self) -> None:
        """Add some photos."""
        for _ in range(self.random.randint(1, 4)):
            path = self._free_path()
            make_photo(path, self._next())

    def edit(self) -> None:
        """Give a photo other content."""
        path = self.random.choice(self.files())
        make_photo(path, self._next())
        touch(path, self._next())

    def touch(self) -> None:
        """Move a time on."""
        touch(self.random.choice(self.files()), self._next())

    def spoil(self) -> None:
        """Replace a photo by rubbish."""
        path = self.random.choice(self.files())
        path.write_bytes(b"rubbish %d" % self._next())

    def delete(self) -> None:
        """Delete a photo, but never the last of a folder."""
        path = self.random.choice(self.files())
        if len([other for other in self.files() if other.parts[:-1] == path.parts[:-1]]) > 1:
            path.unlink()

    def move(self) -> None:
        """Rename a photo."""
        path, goal = self.random.choice(self.files()), self._free_path()
        goal.parent.mkdir(exist_ok=True)
        if len([other for other in self.files() if other.parts[:-1] == path.parts[:-1]]) > 1:
            path.rename(goal)

    def copy(self) -> None:
        """Copy a photo."""
        goal = self._free_path()
        goal.parent.mkdir(exist_ok=True)
        shutil.copy(self.random.choice(self.files()), goal)

    def swap(self) -> None:
        """Let two photos trade places."""
        one, other = self.random.choice(self.files()), self.random.choice(self.files())
        data = one.read_bytes(), other.read_bytes()
        for path, content in ((one, data[1]), (other, data[0])):
            path.write_bytes(content)
            touch(path, self._next())

    def rewrite_scan(self) -> None:
        """Write the scan file anew."""
        rewrite_scan_file(self.index_path)

    def keep_scan(self) -> None:
        """Remember the scan file of now."""
        if scan_path(self.index_path).exists():
            self.kept.append(scan_path(self.index_path).read_bytes())

    def restore_scan(self) -> None:
        """Bring back a scan file of before."""
        if self.kept:
            scan_path(self.index_path).unlink(missing_ok=True)
            scan_path(self.index_path).write_bytes(self.random.choice(self.kept))

    def drop_scan(self) -> None:
        """Delete the scan file."""
        scan_path(self.index_path).unlink(missing_ok=True)

    CHANGES = (add, add, edit, touch, spoil, delete, delete, move, move, copy, swap)
    SCANS = (rewrite_scan, keep_scan, keep_scan, restore_scan, drop_scan)

    def step(self) -> None:
        """Make one to four changes."""
        for _ in range(self.random.randint(1, 4)):
            self.random.choice(self.CHANGES)(self)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_random_life_of_a_library_never_makes_a_search_inexact(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "_REWRITE_ROWS", 6)
    monkeypatch.setattr(scan, "_CHUNK_ROWS", 5)
    changer = Changer(tmp_path, seed)
    with Gallery.open(changer.index_path, changer.model, [tmp_path / "a", tmp_path / "b"]) as gallery:
        synced(gallery)
        for number in range(80):
            changer.step()
            plan = gallery.plan()
            last = synced(gallery)
            assert last.total == plan.new + plan.changed == last.embedded + last.reused + last.skipped
            changer.random.choice(changer.SCANS)(changer)
            text = changer.random.choice(["red", "green", "a black dog"])
            assert_search_is_exact(gallery, text, k=changer.random.choice([1, 5, 1000]))
            with reopened(gallery) as fresh:
                assert_search_is_exact(fresh, text)
            on_disk = {path_uri(path) for path in changer.files()}
            assert {uri for (uri,) in rows_of(gallery.index_path, "SELECT uri FROM photo")} == on_disk
            if number % 20 == 0:
                assert_index_is_sound(gallery.index_path)
        # Every content that was ever seen went through the model once while it lived: compare with a fresh index.
        with Gallery.open(tmp_path / "again.db", counting(), [tmp_path / "a", tmp_path / "b"]) as again:
            synced(again)
            vectors = "SELECT uri, hash, reason, scale, codes FROM photo LEFT JOIN vector ON photo.id = photo_id"
            assert sorted(rows_of(again.index_path, vectors), key=str) == sorted(
                rows_of(gallery.index_path, vectors), key=str
            )


# -- while a sync runs -----------------------------------------------------------------------------------------


def test_another_thread_searches_the_same_gallery_while_it_syncs(tmp_path: Path) -> None:
    make_photos(tmp_path / "p", 100)
    model = counting()
    with Gallery.open(tmp_path / "i.db", model, [tmp_path / "p"]) as gallery:
        steps = gallery.sync()
        while next(steps).done == 0:
            pass
        seen: list[int] = []
        errors: list[BaseException] = []
        stop = threading.Event()
        searched = threading.Event()

        def ask() -> None:
            try:
                while not stop.is_set():
                    seen.append(len(gallery.search("red", k=1000)))
                    searched.set()
            except BaseException as error:
                errors.append(error)
                searched.set()

        def wait_for_a_search() -> None:
            searched.clear()
            assert searched.wait(30)

        model.before.append(wait_for_a_search)  # a search finishes while every batch is under way
        reader = threading.Thread(target=ask)
        reader.start()
        for event in steps:
            assert len(gallery.search("red", k=1000)) == event.embedded
        stop.set()
        reader.join(30)
        assert errors == []
        assert seen == sorted(seen)
        assert {16, 32, 48, 64, 80} <= set(seen)


READER = """
import sys
from magicmm.gallery import Gallery
with Gallery.open(sys.argv[1], sys.argv[2]) as gallery:
    for line in sys.stdin:
        results = gallery.search("red", k=1000)
        scores = [match.score for match in results.matches]
        assert scores == sorted(scores, reverse=True)
        sys.stdout.write(f"{len(results)}\\n")
        sys.stdout.flush()
"""


def test_another_process_sees_every_committed_batch_and_is_not_blocked(tmp_path: Path) -> None:
    make_photos(tmp_path / "p", 100)
    model = counting()
    with Gallery.open(tmp_path / "i.db", model, [tmp_path / "p"]) as gallery:
        steps = gallery.sync()
        while next(steps).done == 0:
            pass
        command = [sys.executable, "-c", READER, str(gallery.index_path), str(bundle().path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
            assert reader.stdin is not None
            assert reader.stdout is not None

            def ask() -> int:
                reader.stdin.write("?\n")  # type: ignore[union-attr]
                reader.stdin.flush()  # type: ignore[union-attr]
                return int(reader.stdout.readline())  # type: ignore[union-attr]

            during: list[int] = []
            model.before.append(lambda: during.append(ask()))
            for event in steps:
                assert ask() == event.embedded
            reader.stdin.close()
            assert reader.wait(30) == 0
        assert during == [16, 32, 48, 64, 80, 96]


def test_an_open_transaction_of_a_writer_neither_blocks_nor_shows(gallery: Gallery) -> None:
    with closing(Index(gallery.index_path)) as writer:
        with writer.transaction():
            writer.remove_photos([path_uri(gallery.index_path.parent / "photos" / "0000.png")])
            writer.bump_generation()
            assert len(gallery.search("red", k=100)) == 40
        assert len(gallery.search("red", k=100)) == 39


def test_vectors_and_rows_of_one_answer_are_of_one_moment(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos deleted between scanning and naming them must not shorten the answer."""
    search = ScanMatrix.search
    before = answers(gallery.search("red", k=10))

    def delete_then_search(self: ScanMatrix, *args: object) -> object:
        monkeypatch.undo()
        with closing(Index(gallery.index_path)) as writer, writer.transaction():
            writer.remove_photos(uri for _, uri, _ in before[:5])
            writer.bump_generation()
        return search(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(ScanMatrix, "search", delete_then_search)
    assert answers(gallery.search("red", k=10)) == before
    assert len(gallery.search("red", k=10)) == 10
    assert_search_is_exact(gallery)


# -- another model ---------------------------------------------------------------------------------------------


def test_a_gallery_of_another_model_refuses_to_search_and_to_sync(gallery: Gallery) -> None:
    with Gallery.open(gallery.index_path, counting(1)) as other:
        assert code_of(other.search, "red") is ErrorCode.MODEL_MISMATCH
        assert code_of(synced, other) is ErrorCode.MODEL_MISMATCH
        assert other.similar(1).matches  # needs no model
        assert other.status().model == "tiny-0"
    assert_search_is_exact(gallery)


def test_a_rebuild_runs_beside_and_takes_over_at_once_when_it_is_complete(gallery: Gallery) -> None:
    model = counting(1)
    with Gallery.open(gallery.index_path, model) as other:
        expected = answers(gallery.search("red", k=100))
        for event in other.rebuild():
            status = gallery.status()
            assert (status.model, status.rebuilt) == ("tiny-0", event.embedded)
            assert answers(gallery.search("red", k=100)) == expected
            with Gallery.open(gallery.index_path, gallery.embedder) as second:
                assert answers(second.search("red", k=100)) == expected
        assert (event.embedded, event.done) == (40, 40)
        assert code_of(gallery.search, "red") is ErrorCode.MODEL_MISMATCH
        assert_search_is_exact(other)
        status = other.status()
        assert (status.model, status.rebuilding, status.indexed) == ("tiny-1", None, 40)
        assert rows_of(gallery.index_path, "SELECT COUNT(*) FROM vector") == [(40,)]
        assert synced(other).total == 0
    assert model.count == 40


def test_a_rebuild_keeps_the_old_vectors_of_copies(gallery: Gallery, tmp_path: Path) -> None:
    for number in range(3):
        shutil.copy(tmp_path / "photos" / "0001.png", tmp_path / "photos" / f"copy-{number}.png")
    synced(gallery)
    expected = answers(gallery.search("red", k=100))
    model = counting(1)
    with Gallery.open(gallery.index_path, model) as other:
        for _ in other.rebuild():
            if other.status().rebuilding is not None:
                assert answers(gallery.search("red", k=100)) == expected
        assert model.count == 40
        assert other.status().indexed == 43


@pytest.mark.parametrize("stop", ["close", "budget"])
def test_an_interrupted_rebuild_goes_on_without_doing_anything_twice(gallery: Gallery, stop: str) -> None:
    model = counting(1)
    with Gallery.open(gallery.index_path, model) as other:
        if stop == "close":
            steps = other.rebuild()
            while next(steps).done == 0:
                pass
            steps.close()  # type: ignore[attr-defined]
        else:
            rebuilt(other, Budget(files=16))
        assert (other.status().rebuilding, other.status().rebuilt) == ("tiny-1", 16)
        assert_search_is_exact(gallery)
    with Gallery.open(gallery.index_path, model) as other:
        assert rebuilt(other).embedded == 24
        assert other.status().rebuilding is None
        assert_search_is_exact(other)
    assert model.count == 40


def test_a_budget_that_ends_with_the_last_photo_activates_the_new_model(gallery: Gallery) -> None:
    with Gallery.open(gallery.index_path, counting(1)) as other:
        rebuilt(other, Budget(files=40))
        assert other.status().model == "tiny-1"


def test_the_old_model_syncs_on_during_an_interrupted_rebuild(gallery: Gallery, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    model = counting(1)
    with Gallery.open(gallery.index_path, model) as other:
        rebuilt(other, Budget(files=16))
    make_photo(photos / "new.png", 90)
    make_photo(photos / "0000.png", 91)
    (photos / "0001.png").unlink()
    (photos / "0002.png").rename(photos / "renamed.png")
    (photos / "0039.png").rename(photos / "renamed-too.png")
    last = synced(gallery)
    assert (last.embedded, last.reused, last.removed) == (2, 2, 1)
    assert_search_is_exact(gallery)
    assert_index_is_sound(gallery.index_path)
    with Gallery.open(gallery.index_path, model) as other:
        rebuilt(other)
        assert_search_is_exact(other)
        assert other.status().indexed == 40
    assert model.count == 16 + (40 - 14)  # 14 of the first 16 were still as they had been


def test_a_photo_that_moves_before_a_rebuild_looks_gets_its_new_vector(gallery: Gallery, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    before = gallery.photo_id(path_uri(photos / "0030.png"))
    (photos / "0030.png").rename(photos / "moved.png")
    model = counting(1)
    with Gallery.open(gallery.index_path, model) as other:
        rebuilt(other)
        assert other.status().model == "tiny-1"
        assert other.photo_id(path_uri(photos / "moved.png")) == before
        assert other.status().indexed == 40
    assert model.count == 40


def test_a_rebuild_with_a_third_model_drops_the_second(gallery: Gallery) -> None:
    with Gallery.open(gallery.index_path, counting(1)) as second:
        rebuilt(second, Budget(files=16))
    with Gallery.open(gallery.index_path, counting(2)) as third:
        assert rebuilt(third).embedded == 40
        assert third.status().model == "tiny-2"
    assert rows_of(gallery.index_path, "SELECT COUNT(*) FROM model") == [(1,)]


def test_a_rebuild_with_the_same_model_is_exact_at_every_step(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = counting()
    with Gallery.open(gallery.index_path, model) as again:
        rebuilt(again, Budget(files=20))
        make_photos(tmp_path / "photos", 5, first=600)
        synced(gallery)
        rewrite_scan_file(gallery.index_path)  # ends amid the vectors of the rebuild

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(maintenance, "write_scan_file", killed)
        with pytest.raises(KeyboardInterrupt):
            rebuilt(again)
        monkeypatch.undo()
        with reopened(gallery) as fresh:
            assert fresh.status().rebuilding is None
            assert len(fresh.search("red", k=100)) == 45
            assert_search_is_exact(fresh)
    assert model.count == 45


def test_photos_on_a_missing_drive_block_the_activation_with_a_clear_error(gallery: Gallery, tmp_path: Path) -> None:
    drive = tmp_path / "drive"
    make_photos(drive, 4, first=700)
    with Gallery.open(gallery.index_path, gallery.embedder, [drive]) as both:
        synced(both)
    drive.rename(tmp_path / "unplugged")
    model = counting(1)
    with Gallery.open(gallery.index_path, model) as other:
        assert rebuilt(other, Budget(files=16)).embedded == 16  # stopped by the budget: no error yet
        with pytest.raises(MagicError) as caught:
            rebuilt(other)
        assert caught.value.code is ErrorCode.SOURCE_UNAVAILABLE
        assert "4 photos" in caught.value.message
        assert FolderSource(drive).uri in caught.value.message
        assert other.status().model == "tiny-0"
        assert_search_is_exact(gallery)
        (tmp_path / "unplugged").rename(drive)
        assert rebuilt(other).embedded == 4
        assert other.status().model == "tiny-1"
    assert model.count == 44


def test_photos_of_a_source_that_nobody_brought_block_the_activation_too(tmp_path: Path) -> None:
    source = MemorySource()
    source.put("1", photo_bytes(1))
    with Gallery.open(tmp_path / "i.db", counting(), [source]) as gallery:
        synced(gallery)
        with Gallery.open(tmp_path / "i.db", counting(1)) as other:
            with pytest.raises(MagicError) as caught:
                rebuilt(other)
            assert caught.value.code is ErrorCode.SOURCE_UNAVAILABLE
            assert source.uri in caught.value.message
        assert_search_is_exact(gallery)


def test_a_rebuild_tries_skipped_photos_again(tmp_path: Path) -> None:
    source = MemorySource()
    source.put("1", photo_bytes(1))
    uri = source.put("2", SkipReason.READ_FAILED)
    with Gallery.open(tmp_path / "i.db", counting(), [source]) as gallery:
        synced(gallery)
    source.photos[uri] = photo_bytes(2)
    with Gallery.open(tmp_path / "i.db", counting(1), [source]) as other:
        assert rebuilt(other).embedded == 2
        assert other.status().indexed == 2


def test_a_search_that_began_before_the_takeover_is_not_answered_with_vectors_of_two_models(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = Embedder.embed_query

    def slow(self: Embedder, *args: object) -> object:
        vector = embed(self, *args)  # type: ignore[arg-type]
        monkeypatch.undo()
        with Gallery.open(gallery.index_path, counting(1)) as other:
            rebuilt(other)
        return vector

    monkeypatch.setattr(Embedder, "embed_query", slow)
    assert code_of(gallery.search, "red") is ErrorCode.MODEL_MISMATCH


def test_changed_files_of_a_bundle_make_no_index(tmp_path: Path) -> None:
    folder = shutil.copytree(bundle().path, tmp_path / "damaged.magicmm")
    graph = folder / "image.onnx"
    data = bytearray(graph.read_bytes())
    data[-1] ^= 1
    graph.write_bytes(data)
    make_photos(tmp_path / "p", 1)
    with Gallery.open(tmp_path / "i.db", folder, [tmp_path / "p"]) as gallery:
        assert code_of(synced, gallery) is ErrorCode.BUNDLE_INVALID
        assert gallery.status().model is None
