"""The rows: transactions, snapshots, and values of the wrong kind, which a damaged file may hold."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gallery_fixtures import assert_search_is_exact, counting, library, rows_of, synced
from magicmm.errors import ErrorCode, MagicError
from magicmm.filters import Filter
from magicmm.gallery import Gallery
from magicmm.index import Index, uri_range
from magicmm.quantise import quantise
from magicmm.records import PhotoFacts, Stamp

FACTS = PhotoFacts("file:///p/a.jpg", Stamp(10, 20), b"h" * 16, 1.5, -2.5, 3.5, 640, 480)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    """An empty index."""
    with closing(Index(tmp_path / "i.db", create=True)) as opened:
        yield opened


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    """Five photos, indexed, one more skipped."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "junk.jpg").write_bytes(b"junk")
    yield from library(tmp_path, 5)


def test_what_is_written_is_read_back(index: Index) -> None:
    with index.transaction():
        photo_id = index.put_photo(FACTS, None)
    assert index.photo_facts(photo_id) == FACTS
    assert index.photo_id(FACTS.uri) == photo_id
    assert index.photo_facts(photo_id + 1) is None
    assert index.photo_id("file:///other") is None


def test_a_failed_transaction_leaves_nothing(index: Index) -> None:
    with pytest.raises(KeyError), index.transaction():
        index.put_photo(FACTS, None)
        raise KeyError
    assert index.count_photos() == 0
    with index.transaction():
        index.put_photo(FACTS, None)
    assert index.count_photos() == 1


def test_a_snapshot_sees_one_state_nested_or_not(index: Index) -> None:
    with closing(Index(index.path)) as writer:
        with index.snapshot():
            assert index.count_photos() == 0
            with index.snapshot():
                with writer.transaction():
                    writer.put_photo(FACTS, None)
                assert index.count_photos() == 0
            assert index.count_photos() == 0
        assert index.count_photos() == 1


def test_a_writer_that_reads_first_waits_for_another_one_and_does_not_fail(index: Index) -> None:
    """A deferred transaction would take its snapshot before the other commits, and then could never write."""
    begun = threading.Event()
    errors: list[BaseException] = []

    def write() -> None:
        try:
            with closing(Index(index.path)) as other:
                begun.set()
                with other.transaction():
                    other.count_photos()
                    other.put_photo(replace(FACTS, uri="file:///p/b.jpg"), None)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=write)
    with index.transaction():
        index.put_photo(FACTS, None)
        thread.start()
        assert begun.wait(30)
        thread.join(0.2)  # give it the time to run into the lock
        assert thread.is_alive()
    thread.join(30)
    assert errors == []
    assert index.count_photos() == 2


def test_the_range_of_a_folder_holds_what_is_below_it_and_nothing_else() -> None:
    low, high = uri_range("file:///a/b/")
    inside = ["file:///a/b/", "file:///a/b/c.jpg", "file:///a/b/%FF", "file:///a/b/~"]
    outside = ["file:///a/b", "file:///a/b0", "file:///a/b.jpg", "file:///a/b-c/d", "file:///a/", "file:///a/c/"]
    assert all(low <= uri < high for uri in inside)
    assert not any(low <= uri < high for uri in outside)


def test_a_vector_is_replaced_and_its_old_number_remembered(index: Index) -> None:
    codes, scales = quantise(np.eye(4, dtype=np.float32))
    with index.transaction():
        model = index.add_model("ab" * 32, "m", 4, True)
        photo_id = index.put_photo(FACTS, None)
        for row in range(2):
            index.put_vector(photo_id, model, codes[row], float(scales[row]))
    assert index.count_vectors(model) == 1
    assert index.removed_seqs() == [1]
    found = index.vector_of(photo_id, model)
    assert found is not None
    assert found[0].tolist() == codes[1].tolist()
    with index.transaction():
        index.remove_photos([FACTS.uri])
    assert index.removed_seqs() == [1, 2]  # a cascade runs the trigger too
    assert index.vector_of(photo_id, model) is None


def test_a_removed_photo_leaves_no_trace_in_the_file(tmp_path: Path) -> None:
    secret = "file:///p/a-very-secret-name.jpg"
    with closing(Index(tmp_path / "i.db", create=True)) as index:
        with index.transaction():
            index.put_photo(FACTS, None)
            index.put_photo(PhotoFacts(secret, Stamp(1, 1), None), None)
        with index.transaction():
            index.remove_photos([secret])
    assert b"a-very-secret-name" not in (tmp_path / "i.db").read_bytes()


def test_only_one_model_can_be_active(index: Index) -> None:
    with pytest.raises(MagicError), index.transaction():
        index.add_model("ab" * 32, "m", 4, True)
        index.add_model("cd" * 32, "n", 4, True)


def test_integrity_is_checked_by_reading_every_page(gallery: Gallery) -> None:
    with closing(Index(gallery.index_path)) as index:
        assert index.check_integrity() == []


WRONG = [
    "UPDATE vector SET codes = x'00'",
    "UPDATE vector SET codes = 'text'",
    "UPDATE vector SET scale = 'text'",
    "UPDATE vector SET scale = -1.0",
    "UPDATE vector SET scale = 0.0",
    "UPDATE vector SET scale = 9e999",
    "UPDATE vector SET scale = 1e300",
    "UPDATE vector SET photo_id = 'text' WHERE seq = 2",
    "UPDATE photo SET uri = x'ff' || id",
    "UPDATE photo SET uri = CAST(x'ff' AS TEXT) || id",
    "UPDATE photo SET width = 'wide'",
    "UPDATE photo SET height = x'00'",
    "UPDATE photo SET taken = 'yesterday'",
    "UPDATE photo SET bytes = 'many', modified = x'00'",
    "UPDATE photo SET hash = 'text'",
    "UPDATE photo SET hash = NULL",
    "UPDATE photo SET reason = 'unheard_of'",
    "UPDATE photo SET reason = x'01'",
    "UPDATE photo SET reason = 5",
    "UPDATE model SET dim = 'wide'",
    "UPDATE model SET dim = -8",
    "UPDATE model SET dim = 0",
    "UPDATE model SET dim = 9223372036854775807",
    "UPDATE model SET dim = 16",
    "UPDATE model SET fingerprint = 'short'",
    "UPDATE model SET fingerprint = x'00'",
    "UPDATE model SET is_active = 'perhaps'",
    "UPDATE meta SET value = 'many' WHERE key = 'generation'",
    "UPDATE meta SET value = '-5' WHERE key = 'generation'",
    "UPDATE meta SET value = '99999999999999999999' WHERE key = 'generation'",
    "UPDATE meta SET value = 'x' WHERE key = 'compacted'",
    "UPDATE meta SET value = x'ffff' WHERE key = 'index_id'",
    "UPDATE meta SET value = 'nan' WHERE key = 'photos_per_second'",
    "UPDATE meta SET value = 'fast' WHERE key = 'photos_per_second'",
    "UPDATE source SET uri = x'00'",
    "UPDATE source SET uri = ''",
    "UPDATE source SET uri = 'file:///%'",
    "DELETE FROM meta",
    "DELETE FROM model",
    "DELETE FROM source",
    "DELETE FROM photo WHERE id = 2",
    "INSERT INTO removed (seq) VALUES (1), (9999999)",
    "DROP TABLE removed",
    "DROP TABLE vector",
    "DROP TABLE meta",
    "ALTER TABLE photo RENAME COLUMN taken TO shot",
]


def assert_finite_and_sorted(results: object) -> None:
    scores = [match.score for match in results.matches]  # type: ignore[attr-defined]
    assert np.isfinite(scores).all()
    assert scores == sorted(scores, reverse=True)
    assert all(type(match.uri) is str for match in results.matches)  # type: ignore[attr-defined]


def try_everything(gallery: Gallery) -> list[MagicError]:
    """Call all verbs; only a `MagicError` may come out."""
    calls: list[Callable[[], object]] = [
        gallery.status,
        gallery.plan,
        lambda: assert_finite_and_sorted(gallery.search("red")),
        lambda: assert_finite_and_sorted(gallery.search("red", where=Filter(min_side=1, ids=range(100)))),
        lambda: assert_finite_and_sorted(gallery.similar(1)),
        gallery.duplicates,
        lambda: gallery.duplicates(0.5),
        lambda: synced(gallery),
        lambda: assert_finite_and_sorted(gallery.search("red")),
    ]
    errors = []
    for call in calls:
        try:
            call()
        except MagicError as error:
            errors.append(error)
    return errors


@pytest.mark.parametrize("scan_file", ["kept", "gone"])
@pytest.mark.parametrize("damage", WRONG)
def test_values_of_the_wrong_kind_are_damage_and_never_a_crash(gallery: Gallery, damage: str, scan_file: str) -> None:
    gallery.close()
    with closing(sqlite3.connect(gallery.index_path)) as database:
        database.execute("PRAGMA ignore_check_constraints = ON")
        database.execute(damage)
        database.commit()
    if scan_file == "gone":
        gallery.index_path.with_name("index.db.scan").unlink()
    with Gallery.open(gallery.index_path, counting(), [gallery.index_path.parent / "photos"]) as damaged:
        errors = try_everything(damaged)
    allowed = {ErrorCode.INDEX_CORRUPT, ErrorCode.SOURCE_UNAVAILABLE, ErrorCode.MODEL_MISMATCH}
    assert {error.code for error in errors} <= allowed | {ErrorCode.ARGUMENT_INVALID}


@pytest.mark.parametrize("damage", WRONG[:8])
def test_a_damaged_vector_that_must_be_read_is_reported(gallery: Gallery, damage: str) -> None:
    gallery.close()
    with closing(sqlite3.connect(gallery.index_path)) as database:
        database.execute(damage)
        database.commit()
    gallery.index_path.with_name("index.db.scan").unlink()
    with Gallery.open(gallery.index_path, counting()) as damaged:
        with pytest.raises(MagicError) as caught:
            damaged.search("red")
        assert caught.value.code is ErrorCode.INDEX_CORRUPT
        assert "rebuild" in caught.value.remedy


def test_a_sound_gallery_passes_the_same_calls(gallery: Gallery) -> None:
    assert try_everything(gallery) == []
    assert_search_is_exact(gallery)
    assert rows_of(gallery.index_path, "SELECT COUNT(*) FROM vector") == [(5,)]
