"""What a sync does with every kind of change; 'no re-embedding' is proven by counting what the model saw."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gallery_fixtures import (
    MemorySource,
    assert_index_is_sound,
    assert_search_is_exact,
    counting,
    is_nearly,
    library,
    make_photo,
    make_photos,
    photo_bytes,
    rows_of,
    synced,
    touch,
    uris,
)
from magicmm import sync as sync_module
from magicmm.errors import ErrorCode, MagicError, PhotoSkipped, SkipReason
from magicmm.gallery import Gallery
from magicmm.sources import FolderSource, PhotoFile, path_uri
from magicmm.sync import Budget


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    """Six photos of noise, indexed."""
    yield from library(tmp_path, 6)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return the folder of `gallery`."""
    return tmp_path / "photos"


def ids(gallery: Gallery) -> dict[str, int]:
    return dict(rows_of(gallery.index_path, "SELECT uri, id FROM photo"))


def assert_reused(gallery: Gallery, reused: int, removed: int = 0) -> None:
    """Sync and check that the model saw nothing."""
    before = gallery.embedder.count  # type: ignore[attr-defined]
    last = synced(gallery)
    assert (last.embedded, last.reused, last.removed, last.skipped) == (0, reused, removed, 0)
    assert gallery.embedder.count == before  # type: ignore[attr-defined]
    assert_index_is_sound(gallery.index_path)
    assert_search_is_exact(gallery)


# -- changes of content ----------------------------------------------------------------------------------------


def test_the_first_sync_embeds_every_photo_once_and_the_second_nothing(gallery: Gallery) -> None:
    assert gallery.embedder.count == 6  # type: ignore[attr-defined]
    assert gallery.status().indexed == 6
    assert_reused(gallery, 0)


def test_an_edited_photo_is_embedded_anew_and_keeps_its_id(gallery: Gallery, photos: Path) -> None:
    before = ids(gallery)
    make_photo(photos / "0002.png", 99, "red")
    last = synced(gallery)
    assert (last.embedded, last.total, last.removed) == (1, 1, 0)
    assert ids(gallery) == before
    assert uris(gallery.search("red", k=1)) == [path_uri(photos / "0002.png")]
    assert_search_is_exact(gallery)


def test_an_edit_of_the_same_size_is_seen_by_its_time(gallery: Gallery, photos: Path) -> None:
    path = photos / "0001.png"
    size = path.stat().st_size
    path.write_bytes(photo_bytes(1, "green").ljust(size, b"\0"))
    touch(path)
    assert synced(gallery).embedded == 1


def test_touched_photos_are_not_embedded_again_nor_looked_at_twice(gallery: Gallery, photos: Path) -> None:
    before = ids(gallery)
    for path in photos.iterdir():
        touch(path)
    assert_reused(gallery, 6)
    assert ids(gallery) == before
    assert synced(gallery).total == 0


def test_a_touched_copy_keeps_its_own_row_and_vector(gallery: Gallery, photos: Path) -> None:
    shutil.copy(photos / "0000.png", photos / "copy.png")
    assert_reused(gallery, 1)
    seqs = rows_of(gallery.index_path, "SELECT photo_id, seq FROM vector ORDER BY 1")
    touch(photos / "copy.png")
    assert_reused(gallery, 1)
    assert rows_of(gallery.index_path, "SELECT photo_id, seq FROM vector ORDER BY 1") == seqs


# -- changes of place ------------------------------------------------------------------------------------------


def test_a_renamed_photo_keeps_id_vector_and_facts(gallery: Gallery, photos: Path) -> None:
    facts = "SELECT id, hash, width, height, seq FROM photo JOIN vector ON photo.id = photo_id ORDER BY id"
    before = rows_of(gallery.index_path, facts)
    (photos / "0003.png").rename(photos / "holiday.png")
    assert_reused(gallery, 1)
    assert rows_of(gallery.index_path, facts) == before
    assert path_uri(photos / "holiday.png") in ids(gallery)


def test_a_moved_folder_keeps_all_ids(gallery: Gallery, photos: Path) -> None:
    before = {Path(uri).name: photo_id for uri, photo_id in ids(gallery).items()}
    (photos / "2024" / "may").mkdir(parents=True)
    for path in photos.glob("*.png"):
        path.rename(photos / "2024" / "may" / path.name)
    assert_reused(gallery, 6)
    assert {Path(uri).name: photo_id for uri, photo_id in ids(gallery).items()} == before
    assert len(ids(gallery)) == 6


def test_a_photo_moved_to_another_source_keeps_its_id(tmp_path: Path, gallery: Gallery, photos: Path) -> None:
    other = tmp_path / "archive"
    other.mkdir()
    before = gallery.photo_id(path_uri(photos / "0001.png"))
    (photos / "0001.png").rename(other / "0001.png")
    with Gallery.open(gallery.index_path, gallery.embedder, [other]) as both:
        assert_reused(both, 1)
        assert both.photo_id(path_uri(other / "0001.png")) == before
        assert both.status().sources == tuple(sorted(FolderSource(path).uri for path in (photos, other)))


def test_a_copy_is_a_photo_of_its_own_with_the_same_vector(gallery: Gallery, photos: Path) -> None:
    shutil.copy(photos / "0000.png", photos / "copy.png")
    assert_reused(gallery, 1)
    (group,) = gallery.duplicates()
    assert {match.uri for match in group.photos} == {path_uri(photos / "0000.png"), path_uri(photos / "copy.png")}
    assert len({match.id for match in group.photos}) == 2


def test_a_photo_moved_and_copied_at_once_keeps_its_id_for_one_of_the_two(gallery: Gallery, photos: Path) -> None:
    before = gallery.photo_id(path_uri(photos / "0000.png"))
    shutil.copy(photos / "0000.png", photos / "a.png")
    (photos / "0000.png").rename(photos / "b.png")
    assert_reused(gallery, 2)
    now = ids(gallery)
    assert before in (now[path_uri(photos / "a.png")], now[path_uri(photos / "b.png")])
    assert len(now) == 7


def test_two_photos_that_swap_their_names_are_not_embedded_again(gallery: Gallery, photos: Path) -> None:
    one, other = photos / "0000.png", photos / "0001.png"
    hashes = dict(rows_of(gallery.index_path, "SELECT uri, hash FROM photo"))
    one.rename(photos / "t")
    other.rename(one)
    (photos / "t").rename(other)
    assert_reused(gallery, 2)
    now = dict(rows_of(gallery.index_path, "SELECT uri, hash FROM photo"))
    assert now[path_uri(one)] == hashes[path_uri(other)]
    assert now[path_uri(other)] == hashes[path_uri(one)]


@pytest.mark.parametrize("step", [1, -1])
def test_renumbered_photos_are_not_embedded_again_however_many_batches_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.setattr(sync_module, "_MOST_OUTCOMES", 3)
    paths = make_photos(tmp_path / "p", 20, first=1)
    with Gallery.open(tmp_path / "i.db", counting(), [tmp_path / "p"]) as gallery:
        synced(gallery)
        for path in paths[::-step]:
            path.rename(path.with_name(f"{int(path.stem) + step:04}.png"))
        assert_reused(gallery, 20, removed=1)
        assert gallery.status().indexed == 20


def test_every_photo_trading_places_with_another_survives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_module, "_MOST_OUTCOMES", 4)
    paths = make_photos(tmp_path / "p", 30)
    with Gallery.open(tmp_path / "i.db", counting(), [tmp_path / "p"]) as gallery:
        synced(gallery)
        contents = [path.read_bytes() for path in paths]
        for path, place in zip(paths, np.random.default_rng(5).permutation(30), strict=True):
            path.write_bytes(contents[place])
            touch(path)
        assert_reused(gallery, 30)


# -- disappearances --------------------------------------------------------------------------------------------


def test_a_deleted_photo_leaves_nothing_behind(gallery: Gallery, photos: Path) -> None:
    gone = ids(gallery)[path_uri(photos / "0004.png")]
    (photos / "0004.png").unlink()
    last = synced(gallery)
    assert (last.total, last.removed) == (0, 1)
    assert rows_of(gallery.index_path, "SELECT COUNT(*) FROM photo WHERE id = ?", gone) == [(0,)]
    assert rows_of(gallery.index_path, "SELECT COUNT(*) FROM vector WHERE photo_id = ?", gone) == [(0,)]
    assert_search_is_exact(gallery)


def test_the_id_of_a_deleted_photo_is_never_given_again(gallery: Gallery, photos: Path) -> None:
    most = max(ids(gallery).values())
    (last_added,) = [uri for uri, photo_id in ids(gallery).items() if photo_id == most]
    (photos / Path(last_added).name).unlink()
    synced(gallery)
    make_photo(photos / "new.png", 77)
    synced(gallery)
    assert ids(gallery)[path_uri(photos / "new.png")] > most


def test_a_photo_replaced_by_rubbish_is_skipped_and_no_longer_found(gallery: Gallery, photos: Path) -> None:
    (photos / "0000.png").write_bytes(b"this was a photo once")
    last = synced(gallery)
    assert (last.skipped, last.embedded) == (1, 0)
    (skip,) = gallery.status().skipped
    assert (skip.uri, skip.reason) == (path_uri(photos / "0000.png"), SkipReason.NOT_AN_IMAGE)
    assert path_uri(photos / "0000.png") not in uris(gallery.search("red", k=100))
    assert len(gallery.search("red", k=100)) == 5
    assert_index_is_sound(gallery.index_path)


def test_a_root_that_vanishes_or_is_suddenly_empty_keeps_its_photos(gallery: Gallery, photos: Path) -> None:
    away = photos.with_name("away")
    photos.rename(away)
    for _ in range(2):  # first missing, then an empty mount point
        last = synced(gallery)
        assert (last.removed, last.unavailable) == (0, (FolderSource(photos).uri,))
        assert gallery.plan().unavailable == (FolderSource(photos).uri,)
        assert len(gallery.search("red", k=100)) == 6
        photos.mkdir(exist_ok=True)
    photos.rmdir()
    away.rename(photos)
    assert_reused(gallery, 0)


def test_one_missing_drive_does_not_keep_another_from_being_synced(tmp_path: Path, gallery: Gallery) -> None:
    other = tmp_path / "other"
    make_photos(other, 2, first=50)
    (tmp_path / "photos").rename(tmp_path / "away")
    with Gallery.open(gallery.index_path, gallery.embedder, [other]) as both:
        last = synced(both)
        assert (last.embedded, last.removed, len(last.unavailable)) == (2, 0, 1)
        assert both.status().indexed == 8


def test_a_photo_that_vanishes_between_looking_and_reading_is_forgotten_by_the_next_sync(
    gallery: Gallery, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = make_photo(photos / "blink.png", 40)
    load = FolderSource.load

    def vanish(self: FolderSource, uri: str) -> PhotoFile:
        new.unlink(missing_ok=True)
        return load(self, uri)

    monkeypatch.setattr(FolderSource, "load", vanish)
    last = synced(gallery)
    assert [skip.reason for skip in last.skips] == []
    assert [skip.reason for skip in gallery.status().skipped] == [SkipReason.VANISHED]
    assert synced(gallery).removed == 1
    assert gallery.status().skipped == ()


# -- photos that cannot be indexed -----------------------------------------------------------------------------


def test_lasting_reasons_are_kept_and_not_tried_again_until_the_file_changes(gallery: Gallery, photos: Path) -> None:
    junk = photos / "junk.jpg"
    junk.write_bytes(b"no photo")
    (photos / "empty.jpg").touch()
    assert synced(gallery).skipped == 2
    reasons = {Path(skip.uri).name: skip.reason for skip in gallery.status().skipped}
    assert reasons == {"junk.jpg": SkipReason.NOT_AN_IMAGE, "empty.jpg": SkipReason.EMPTY_FILE}
    assert synced(gallery).total == 0
    make_photo(junk, 8)
    last = synced(gallery)
    assert (last.total, last.embedded) == (1, 1)
    assert [skip.reason for skip in gallery.status().skipped] == [SkipReason.EMPTY_FILE]


@pytest.mark.parametrize("reason", [reason for reason in SkipReason if reason.is_transient])
def test_passing_reasons_are_tried_again_by_every_sync(tmp_path: Path, reason: SkipReason) -> None:
    source = MemorySource()
    uri = source.put("a.jpg", reason)
    with Gallery.open(tmp_path / "i.db", counting(), [source]) as gallery:
        for _ in range(3):
            last = synced(gallery)
            assert (last.total, last.skipped) == (1, 1)
            assert [(skip.uri, skip.reason) for skip in gallery.status().skipped] == [(uri, reason)]
        assert source.loaded == [uri] * 3
        source.photos[uri] = photo_bytes(1)
        assert synced(gallery).embedded == 1
        assert gallery.status().skipped == ()


@pytest.mark.parametrize("reason", [reason for reason in SkipReason if not reason.is_transient])
def test_lasting_reasons_are_tried_once(tmp_path: Path, reason: SkipReason) -> None:
    source = MemorySource()
    source.put("a.jpg", reason)
    with Gallery.open(tmp_path / "i.db", counting(), [source]) as gallery:
        synced(gallery)
        assert synced(gallery).total == 0
        assert len(source.loaded) == 1
        assert len(gallery.status().skipped) == 1


def test_a_file_that_may_not_be_read_is_skipped_and_the_rest_goes_on(
    gallery: Gallery, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = make_photo(photos / "closed.png", 30)
    make_photo(photos / "open.png", 31)
    real = Path.open

    def refuse(self: Path, *args: str, **options: object) -> object:
        if self == closed:
            raise PermissionError(13, "Permission denied")
        return real(self, *args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)
    last = synced(gallery)
    assert (last.embedded, last.skipped) == (1, 1)
    assert [skip.reason for skip in gallery.status().skipped] == [SkipReason.PERMISSION_DENIED]
    monkeypatch.undo()
    assert synced(gallery).embedded == 1


def test_a_broken_link_whose_name_is_not_utf8_is_reported(gallery: Gallery, photos: Path) -> None:
    link = photos / os.fsdecode(b"broken-\xff.jpg")
    link.symlink_to("nowhere")
    assert synced(gallery).skipped == 1
    (skip,) = gallery.status().skipped
    assert (skip.uri, skip.reason) == (path_uri(link), SkipReason.BROKEN_LINK)
    assert skip.detail.encode()


def test_a_pipe_named_like_a_photo_does_not_stop_a_sync(gallery: Gallery, photos: Path) -> None:
    os.mkfifo(photos / "pipe.jpg")
    assert_reused(gallery, 0)


def test_odd_names_are_indexed_and_found(gallery: Gallery, photos: Path) -> None:
    names = ["new\nline.png", "100%.png", "quo'te\".png", "hash#?.png", os.fsdecode(b"\xff\xfe.png")]
    for seed, name in enumerate(names, 60):
        make_photo(photos / name, seed)
    assert synced(gallery).embedded == len(names)
    assert {path_uri(photos / name) for name in names} <= set(uris(gallery.search("red", k=100)))
    assert_reused(gallery, 0)


def test_a_photo_that_the_model_refuses_is_skipped_alone_and_tried_again(tmp_path: Path) -> None:
    make_photos(tmp_path / "p", 8)
    red = make_photo(tmp_path / "p" / "red.png", 1, "red")
    model = counting()
    model.refusals.append(is_nearly("red"))
    with Gallery.open(tmp_path / "i.db", model, [tmp_path / "p"]) as gallery:
        last = synced(gallery)
        assert (last.embedded, last.skipped) == (8, 1)
        (skip,) = gallery.status().skipped
        assert (skip.uri, skip.reason) == (path_uri(red), SkipReason.EMBEDDING_FAILED)
        assert_index_is_sound(gallery.index_path)
        model.refusals.clear()
        assert synced(gallery).embedded == 1
        assert gallery.status().skipped == ()


def test_copies_of_a_refused_photo_are_all_skipped(tmp_path: Path) -> None:
    make_photos(tmp_path / "p", 3)
    red = make_photo(tmp_path / "p" / "red.png", 1, "red")
    shutil.copy(red, tmp_path / "p" / "red-too.png")
    model = counting()
    model.refusals.append(is_nearly("red"))
    with Gallery.open(tmp_path / "i.db", model, [tmp_path / "p"]) as gallery:
        last = synced(gallery)
        assert (last.embedded, last.skipped) == (3, 2)


def test_a_model_that_fails_on_every_photo_is_an_error_and_marks_none_of_them(tmp_path: Path) -> None:
    make_photos(tmp_path / "p", 5)
    model = counting()
    model.refusals.append(lambda _: True)
    with Gallery.open(tmp_path / "i.db", model, [tmp_path / "p"]) as gallery:
        with pytest.raises(MagicError) as caught:
            synced(gallery)
        assert caught.value.code is ErrorCode.RUNTIME_FAILED
        assert gallery.status().skipped == ()
        model.refusals.clear()
        assert synced(gallery).embedded == 5


def test_an_error_of_the_model_that_is_no_runtime_failure_is_not_taken_for_a_bad_photo(tmp_path: Path) -> None:
    make_photos(tmp_path / "p", 2)

    def damaged() -> None:
        raise MagicError(ErrorCode.BUNDLE_INVALID, "The graph is gone.", "Install it.")

    model = counting()
    model.before.append(damaged)
    with Gallery.open(tmp_path / "i.db", model, [tmp_path / "p"]) as gallery:
        with pytest.raises(MagicError) as caught:
            synced(gallery)
        assert caught.value.code is ErrorCode.BUNDLE_INVALID
        assert gallery.status().skipped == ()


# -- progress, budget, stopping --------------------------------------------------------------------------------


def test_progress_adds_up_and_everything_reported_is_on_disk(tmp_path: Path) -> None:
    paths = make_photos(tmp_path / "p", 50)
    shutil.copy(paths[0], tmp_path / "p" / "copy.png")
    (tmp_path / "p" / "junk.jpg").write_bytes(b"junk")
    done = []
    skips = []
    with Gallery.open(tmp_path / "i.db", counting(), [tmp_path / "p"]) as gallery:
        for event in gallery.sync():
            assert event.done == event.embedded + event.reused + event.skipped
            assert event.total == 52
            assert rows_of(gallery.index_path, "SELECT COUNT(*) FROM photo") == [(event.done,)]
            vectors = event.embedded + event.reused
            assert rows_of(gallery.index_path, "SELECT COUNT(*) FROM vector") == [(vectors,)]
            done.append(event.done)
            skips += event.skips
        assert (event.embedded, event.reused, event.skipped) == (50, 1, 1)
    assert done[0] == 0
    assert done[-1] == 52
    assert done == sorted(done)
    assert len(done) >= 4
    assert [skip.reason for skip in skips] == [SkipReason.NOT_AN_IMAGE]


@pytest.mark.parametrize("budget", [Budget(files=10), Budget(seconds=0.0)])
def test_a_spent_budget_stops_the_sync_and_the_next_one_goes_on(tmp_path: Path, budget: Budget) -> None:
    make_photos(tmp_path / "p", 60)
    model = counting()
    with Gallery.open(tmp_path / "i.db", model, [tmp_path / "p"]) as gallery:
        seen = []
        while (last := synced(gallery, budget)).done < last.total:
            assert last.done > 0
            seen.append(gallery.status().indexed)
        assert len(seen) >= 2
        assert seen == sorted(set(seen))
        assert gallery.status().indexed == 60
    assert model.count == 60


def test_a_budget_of_files_is_not_overdrawn(tmp_path: Path) -> None:
    make_photos(tmp_path / "p", 40)
    with Gallery.open(tmp_path / "i.db", counting(), [tmp_path / "p"]) as gallery:
        assert synced(gallery, Budget(files=5)).done == 5
        assert synced(gallery, Budget(files=17)).done == 17
        assert synced(gallery, Budget(files=1000)).done == 18


def test_photos_that_fail_every_time_do_not_use_up_the_budget_of_the_others(tmp_path: Path) -> None:
    source = MemorySource()
    for number in range(5):
        source.put(f"a{number}.jpg", SkipReason.READ_FAILED)
    changed = source.put("z.jpg", photo_bytes(1))
    with Gallery.open(tmp_path / "i.db", counting(), [source]) as gallery:
        synced(gallery)
        source.put("z.jpg", photo_bytes(2))
        assert synced(gallery, Budget(files=3)).embedded == 1
        assert source.loaded.count(changed) == 2


def test_a_budget_that_ends_with_the_last_file_still_forgets_what_is_gone(tmp_path: Path) -> None:
    paths = make_photos(tmp_path / "p", 4)
    with Gallery.open(tmp_path / "i.db", counting(), [tmp_path / "p"]) as gallery:
        synced(gallery)
        size = paths[0].stat().st_size
        paths[0].unlink()
        (tmp_path / "p" / "new.png").write_bytes(photo_bytes(50, "red").ljust(size, b"\0"))
        last = synced(gallery, Budget(files=1))
        assert (last.done, last.removed) == (1, 1)


def test_stopping_the_iteration_keeps_what_was_committed_and_frees_the_lock(tmp_path: Path) -> None:
    make_photos(tmp_path / "p", 60)
    model = counting()
    with Gallery.open(tmp_path / "i.db", model, [tmp_path / "p"]) as gallery:
        steps = gallery.sync()
        while (event := next(steps)).done == 0:
            pass
        steps.close()  # type: ignore[attr-defined]
        assert gallery.status().indexed == event.done == 16
        assert_search_is_exact(gallery)
        assert synced(gallery).embedded == 44
    assert model.count == 60


def test_plan_foretells_the_sync_and_changes_nothing(gallery: Gallery, photos: Path) -> None:
    make_photo(photos / "new.png", 70)
    make_photo(photos / "0000.png", 71)
    touch(photos / "0001.png")
    (photos / "0002.png").unlink()
    dump = "SELECT * FROM photo"
    before = rows_of(gallery.index_path, dump), rows_of(gallery.index_path, "SELECT * FROM meta")
    plan = gallery.plan()
    assert (plan.new, plan.changed, plan.removed, plan.unchanged) == (1, 2, 1, 3)
    assert plan.seconds is not None
    assert 0 <= plan.seconds < 100
    assert (rows_of(gallery.index_path, dump), rows_of(gallery.index_path, "SELECT * FROM meta")) == before
    last = synced(gallery)
    assert (last.total, last.removed) == (plan.new + plan.changed, plan.removed)
    after = gallery.plan()
    assert (after.new, after.changed, after.removed, after.unchanged) == (0, 0, 0, 6)


def test_plan_before_the_first_sync_counts_everything_as_new(tmp_path: Path) -> None:
    make_photos(tmp_path / "p", 3)
    with Gallery.open(tmp_path / "i.db", counting(), [tmp_path / "p"]) as gallery:
        plan = gallery.plan()
        assert (plan.new, plan.changed, plan.unchanged, plan.seconds) == (3, 0, 0, None)
        assert gallery.status().sources == ()


# -- sources ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner_first", [True, False])
def test_a_source_inside_another_is_part_of_it(tmp_path: Path, inner_first: bool) -> None:
    outer, inner = tmp_path / "p", tmp_path / "p" / "inner"
    make_photos(outer, 2)
    make_photos(inner, 2, first=10)
    model = counting()
    for folder in (inner, outer) if inner_first else (outer, inner):
        with Gallery.open(tmp_path / "i.db", model, [folder]) as gallery:
            synced(gallery)
    with Gallery.open(tmp_path / "i.db", model, [inner, outer, inner]) as gallery:
        assert synced(gallery).total == 0
        assert gallery.status().sources == (FolderSource(outer).uri,)
        assert gallery.status().indexed == 4
    assert model.count == 4


def test_a_folder_whose_name_begins_like_anothers_is_a_source_of_its_own(tmp_path: Path) -> None:
    make_photos(tmp_path / "trip", 2)
    make_photos(tmp_path / "trip-2", 2, first=10)
    with Gallery.open(tmp_path / "i.db", counting(), [tmp_path / "trip", tmp_path / "trip-2"]) as gallery:
        synced(gallery)
        assert len(gallery.status().sources) == 2
        gallery.forget(FolderSource(tmp_path / "trip").uri)
        assert gallery.status().indexed == 2


def test_forget_removes_a_source_with_its_photos_only(tmp_path: Path) -> None:
    kept, gone = tmp_path / "kept", tmp_path / "gone"
    make_photos(kept, 3)
    make_photos(gone, 4, first=10)
    with Gallery.open(tmp_path / "i.db", counting(), [kept, gone]) as gallery:
        synced(gallery)
        gallery.forget(FolderSource(gone).uri)
        assert gallery.status().sources == (FolderSource(kept).uri,)
        assert all(uri.startswith(FolderSource(kept).uri) for uri in uris(gallery.search("red", k=100)))
        assert_search_is_exact(gallery)
        with pytest.raises(MagicError) as caught:
            gallery.forget(FolderSource(gone).uri)
        assert caught.value.code is ErrorCode.ARGUMENT_INVALID
    assert len(list(gone.iterdir())) == 4


def test_a_source_that_is_no_folder_is_synced_like_one(tmp_path: Path) -> None:
    source = MemorySource()
    first = source.put("1", photo_bytes(1, "red"))
    second = source.put("2", photo_bytes(2, "green"))
    model = counting()
    with Gallery.open(tmp_path / "i.db", model, [source]) as gallery:
        assert synced(gallery).embedded == 2
        assert uris(gallery.search("red", k=1)) == [first]
        photo_id = gallery.photo_id(second)
        third = source.put("3", source.photos.pop(second))
        assert_reused(gallery, 1)
        assert gallery.photo_id(third) == photo_id
        source.put("1", photo_bytes(3, "blue"))
        assert synced(gallery).embedded == 1
        source.is_reachable = False
        last = synced(gallery)
        assert (last.removed, last.unavailable) == (0, (source.uri,))


def test_a_source_that_only_the_caller_can_bring_is_reported_when_it_is_missing(tmp_path: Path) -> None:
    source = MemorySource()
    source.put("1", photo_bytes(1))
    with Gallery.open(tmp_path / "i.db", counting(), [source]) as gallery:
        synced(gallery)
    with Gallery.open(tmp_path / "i.db", counting()) as gallery:
        assert gallery.plan().unavailable == (source.uri,)
        last = synced(gallery)
        assert (last.removed, last.unavailable) == (0, (source.uri,))
        assert gallery.status().indexed == 1


def test_a_source_whose_uri_does_not_end_in_a_slash_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MagicError) as caught:
        Gallery.open(tmp_path / "i.db", counting(), [MemorySource("phone://camera")])
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


def test_a_photo_that_changes_while_it_is_read_is_looked_at_again(
    gallery: Gallery, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_photo(photos / "hot.png", 20)
    load = FolderSource.load

    def change(self: FolderSource, uri: str) -> PhotoFile:
        file = load(self, uri)
        make_photo(path, 21)
        touch(path)
        return file

    monkeypatch.setattr(FolderSource, "load", change)
    synced(gallery)
    monkeypatch.undo()
    assert synced(gallery).embedded == 1
    assert synced(gallery).total == 0


def test_known_content_that_can_no_longer_be_read_when_it_is_needed_is_skipped(
    gallery: Gallery, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin is forgotten after the worker trusted in it; decoding after all may fail."""
    shutil.copy(photos / "0000.png", photos / "copy.png")
    load = FolderSource.load
    calls: list[str] = []

    def once(self: FolderSource, uri: str) -> PhotoFile:
        calls.append(uri)
        if len(calls) > 1:
            raise PhotoSkipped(SkipReason.VANISHED, "gone")
        return load(self, uri)

    monkeypatch.setattr(FolderSource, "load", once)
    monkeypatch.setattr(sync_module.Writer, "_known", lambda self, digest: None)
    assert synced(gallery).skipped == 1
    assert len(calls) == 2
