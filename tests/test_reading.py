"""`read_photo` gives the bytes or one reason, and never waits for ever."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from magicmm import PhotoSkipped, SkipReason, reading
from magicmm.reading import read_photo


def reason(path: Path) -> SkipReason:
    with pytest.raises(PhotoSkipped) as caught:
        read_photo(path)
    return caught.value.reason


def test_bytes_and_facts(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"photo")
    data, facts = read_photo(path)
    assert data == b"photo"
    assert (facts.st_size, facts.st_mtime_ns) == (5, path.stat().st_mtime_ns)


def test_missing_files_and_broken_links_differ(tmp_path: Path) -> None:
    (tmp_path / "link.jpg").symlink_to("nowhere")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    assert reason(tmp_path / "none.jpg") is SkipReason.VANISHED
    assert reason(tmp_path / "link.jpg") is SkipReason.BROKEN_LINK
    assert reason(tmp_path / "loop.jpg") is SkipReason.READ_FAILED


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert reason(tmp_path / "pipe.jpg") is SkipReason.READ_FAILED
    assert reason(tmp_path) is SkipReason.READ_FAILED
    assert reason(Path("a\0b.jpg")) is SkipReason.READ_FAILED


def test_a_huge_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_PHOTO_BYTES", 4)
    (tmp_path / "a.jpg").write_bytes(b"12345")
    assert reason(tmp_path / "a.jpg") is SkipReason.FILE_TOO_LARGE


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").write_bytes(b"1")

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "open", refuse)
    assert reason(tmp_path / "a.jpg") is SkipReason.PERMISSION_DENIED
