"""Folders as a source: what is found, what is left out, and what must never be taken for a deletion."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from gallery_fixtures import make_photo, make_photos, touch
from magicmm.errors import ErrorCode, MagicError, PhotoSkipped, SkipReason
from magicmm.records import Stamp
from magicmm.sources import Changes, FolderSource, path_uri, require_folder, uri_path

ODD_NAMES = [
    "two\nlines.jpg",
    "quote'\".jpg",
    "100%25 #1?.jpg",
    "space and +plus&.jpg",
    "ümläut 写真 🐈.jpg",
    os.fsdecode(b"not-utf8-\xff\xfe.jpg"),
    "back\\slash;semi.jpg",
    "UPPER.JPG",
]


def look(folder: Path, known: dict[str, Stamp] | None = None) -> Changes:
    known = known or {}
    return FolderSource(folder).changes(known, known.keys())


def stamps(folder: Path) -> dict[str, Stamp]:
    return {ref.uri: ref.stamp for ref in look(folder).new}


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_file_name_survives_the_way_to_a_uri_and_back(tmp_path: Path, name: str) -> None:
    path = make_photo(tmp_path / "a dir%" / name, 1)
    (ref,) = look(tmp_path).new
    assert ref.uri.isascii()
    assert not set(ref.uri) & set(' \n"<>')
    assert ref.uri == path_uri(path)
    assert uri_path(ref.uri) == path
    assert FolderSource(tmp_path).load(ref.uri).data == path.read_bytes()


def test_the_uri_of_a_foreign_scheme_is_refused() -> None:
    with pytest.raises(MagicError) as caught:
        uri_path("https://example.org/a.jpg")
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


def test_hidden_files_other_files_and_pipes_are_left_out(tmp_path: Path) -> None:
    kept = make_photo(tmp_path / "kept.png", 1)
    make_photo(tmp_path / ".hidden.png", 2)
    make_photo(tmp_path / ".thumbnails" / "a.png", 3)
    (tmp_path / "notes.txt").write_text("no photo")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link-to-pipe.jpg").symlink_to(tmp_path / "pipe.jpg")
    assert [ref.uri for ref in look(tmp_path).new] == [path_uri(kept)]


def test_a_file_that_became_a_pipe_is_skipped_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(PhotoSkipped) as caught:
        FolderSource(tmp_path).load(path_uri(tmp_path / "pipe.jpg"))
    assert caught.value.reason is SkipReason.READ_FAILED


def test_a_photo_in_a_folder_named_like_a_photo_is_found(tmp_path: Path) -> None:
    inner = make_photo(tmp_path / "album.jpg" / "a.png", 1)
    assert [ref.uri for ref in look(tmp_path).new] == [path_uri(inner)]


def test_links_to_photos_are_followed_and_links_to_folders_are_not(tmp_path: Path) -> None:
    real = make_photo(tmp_path / "outside" / "real.png", 1)
    root = tmp_path / "root"
    root.mkdir()
    (root / "link.png").symlink_to(real)
    (root / "loop").symlink_to(root)
    (root / "album.png").symlink_to(tmp_path / "outside")
    assert [ref.uri for ref in look(root).new] == [path_uri(root / "link.png")]


@pytest.mark.parametrize("target", ["nowhere.png", "broken.png"])
def test_a_link_to_nothing_or_to_itself_is_reported_and_skipped_on_load(tmp_path: Path, target: str) -> None:
    (tmp_path / "broken.png").symlink_to(tmp_path / target)
    (ref,) = look(tmp_path).new
    with pytest.raises(PhotoSkipped) as caught:
        FolderSource(tmp_path).load(ref.uri)
    assert caught.value.reason in (SkipReason.BROKEN_LINK, SkipReason.READ_FAILED)


def test_very_deep_folders_are_walked(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(1200):
        deep /= "d"
        deep.mkdir()
    photo = make_photo(deep / "a.png", 1)
    assert [ref.uri for ref in look(tmp_path).new] == [path_uri(photo)]
    photo.unlink()
    while deep != tmp_path:  # rmtree recurses too deeply
        deep.rmdir()
        deep = deep.parent


def test_folders_deeper_than_any_path_may_be_are_reported_not_fatal(tmp_path: Path) -> None:
    make_photo(tmp_path / "a.png", 1)
    name = "n" * 250
    where = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir(name, dir_fd=where)
        inner = os.open(name, os.O_RDONLY, dir_fd=where)
        os.close(where)
        where = inner
    os.close(where)
    changes = look(tmp_path)
    assert [ref.uri for ref in changes.new] == [path_uri(tmp_path / "a.png")]
    assert len(changes.unavailable) == 1
    shutil.rmtree(tmp_path / name, ignore_errors=True)


def test_photos_come_folder_by_folder_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/1.png", "a/1.png", "z.png", "b/c/0.png", "a.png"):
        make_photo(tmp_path / name, 1)
    found = [str(uri_path(ref.uri).relative_to(tmp_path)) for ref in look(tmp_path).new]
    assert found == ["a.png", "z.png", "a/1.png", "b/1.png", "b/2.png", "b/c/0.png"]


def test_new_changed_removed_and_unchanged_photos_are_told_apart(tmp_path: Path) -> None:
    same, edited, touched, gone = make_photos(tmp_path, 4)
    known = stamps(tmp_path)
    edited.write_bytes(edited.read_bytes() + b"more")
    touch(touched)
    gone.unlink()
    new = make_photo(tmp_path / "new.png", 9)
    changes = look(tmp_path, known)
    assert [ref.uri for ref in changes.new] == [path_uri(new)]
    assert {ref.uri for ref in changes.changed} == {path_uri(edited), path_uri(touched)}
    assert changes.removed == [path_uri(gone)]
    assert changes.unchanged == 1
    assert changes.unavailable == []
    assert path_uri(same) in known


def test_a_known_photo_without_a_stamp_counts_as_changed(tmp_path: Path) -> None:
    (photo,) = make_photos(tmp_path, 1)
    changes = FolderSource(tmp_path).changes({}, {path_uri(photo)})
    assert [ref.uri for ref in changes.changed] == [path_uri(photo)]
    assert changes.new == []


@pytest.mark.parametrize("state", ["missing", "empty", "a file"])
def test_a_root_that_is_gone_or_suddenly_empty_removes_nothing(tmp_path: Path, state: str) -> None:
    root = tmp_path / "drive"
    make_photos(root, 3)
    known = stamps(root)
    shutil.rmtree(root)
    if state == "empty":
        root.mkdir()
    elif state == "a file":
        root.write_bytes(b"")
    changes = look(root, known)
    assert changes.removed == []
    assert changes.unavailable == [FolderSource(root).uri]


def test_a_root_that_cannot_be_a_path_is_unavailable() -> None:
    source = FolderSource("/photos\0")
    assert source.changes({}, set()).unavailable == [source.uri]
    with pytest.raises(PhotoSkipped) as caught:
        source.load(source.uri + "a.jpg")
    assert caught.value.reason is SkipReason.READ_FAILED


def test_an_empty_root_that_never_held_photos_is_available(tmp_path: Path) -> None:
    assert look(tmp_path).unavailable == []


def test_photos_below_an_unreadable_folder_stay_while_others_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_photos(tmp_path / "closed", 2)
    make_photos(tmp_path / "closed-too", 1)
    gone, _ = make_photos(tmp_path / "open", 2)
    known = stamps(tmp_path)
    gone.unlink()
    real = os.scandir

    def scandir(path: str) -> object:
        if path == str(tmp_path / "closed"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    changes = look(tmp_path, known)
    assert changes.removed == [path_uri(gone)]
    assert changes.unavailable == [path_uri(tmp_path / "closed") + "/"]
    assert changes.unchanged == 2


def test_modification_times_beyond_64_bits_of_nanoseconds_are_clamped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photo,) = make_photos(tmp_path, 1)
    os.utime(photo, ns=(0, 2**63 + 10**18))
    stamp = FolderSource(tmp_path).load(path_uri(photo)).stamp
    assert -(2**63) <= stamp.modified < 2**63
    assert stamps(tmp_path) == {path_uri(photo): stamp}


def test_the_root_folder_and_relative_paths_have_absolute_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert FolderSource("/").uri == "file:///"
    assert FolderSource("a/../b").uri == path_uri(tmp_path / "b") + "/"


@pytest.mark.parametrize("path", ["missing", "file.txt", "nul\0byte"])
def test_require_folder_names_a_folder_that_cannot_be_read(tmp_path: Path, path: str) -> None:
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(MagicError) as caught:
        require_folder(f"{tmp_path}/{path}")
    assert caught.value.code is ErrorCode.SOURCE_UNAVAILABLE
    assert "Cannot read the folder" in caught.value.message
