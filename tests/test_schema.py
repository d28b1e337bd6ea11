"""The index file: made whole or not at all, refused when it is not ours, and never touched then."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gallery_fixtures import counting, make_photos, rows_of, synced
from magicmm import schema
from magicmm.errors import ErrorCode, MagicError
from magicmm.gallery import Gallery
from magicmm.index import Index


def open_code(path: Path, create: bool = True) -> ErrorCode:
    with pytest.raises(MagicError) as caught:
        Index(path, create)
    assert caught.value.remedy
    return caught.value.code


def snapshot_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def foreign_database(path: Path, wal: bool, application_id: int = 0) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None)
    if wal:
        database.execute("PRAGMA journal_mode = WAL")
    database.execute(f"PRAGMA application_id = {application_id}")
    database.execute("CREATE TABLE messages (text)")
    database.execute("INSERT INTO messages VALUES ('keep me')")
    return database


def test_a_new_index_is_ours_versioned_and_logged_ahead(tmp_path: Path) -> None:
    Index(tmp_path / "deep" / "er" / "i.db", create=True).close()
    path = tmp_path / "deep" / "er" / "i.db"
    assert rows_of(path, "PRAGMA application_id") == [(schema.APPLICATION_ID,)]
    assert rows_of(path, "PRAGMA user_version") == [(schema.INDEX_VERSION,)]
    assert rows_of(path, "PRAGMA journal_mode") == [("wal",)]
    assert len(rows_of(path, "SELECT value FROM meta WHERE key = 'index_id'")[0][0]) == 32


@pytest.mark.parametrize("wal", [False, True])
@pytest.mark.parametrize("application_id", [0, 42])
def test_another_programs_database_is_refused_and_not_touched(tmp_path: Path, wal: bool, application_id: int) -> None:
    path = tmp_path / "theirs.db"
    foreign_database(path, wal, application_id).close()
    before = snapshot_of(tmp_path)
    assert open_code(path) is ErrorCode.INDEX_CORRUPT
    assert open_code(path, create=False) is ErrorCode.INDEX_CORRUPT
    assert snapshot_of(tmp_path) == before


def test_another_programs_open_write_ahead_log_is_not_folded_in(tmp_path: Path) -> None:
    foreign_database(tmp_path / "live.db", wal=True).close()
    with closing(foreign_database_of(tmp_path / "live.db")) as database:
        (tmp_path / "copy").mkdir()
        for suffix in ("", "-wal"):
            (tmp_path / "copy" / f"theirs.db{suffix}").write_bytes((tmp_path / f"live.db{suffix}").read_bytes())
        database.execute("SELECT 1")
    before = snapshot_of(tmp_path / "copy")
    assert before["theirs.db-wal"][0]
    assert open_code(tmp_path / "copy" / "theirs.db") is ErrorCode.INDEX_CORRUPT
    assert snapshot_of(tmp_path / "copy") == before


def foreign_database_of(path: Path) -> sqlite3.Connection:
    """Open it again with something in its log."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("INSERT INTO messages VALUES ('and me')")
    return database


@pytest.mark.parametrize("content", [b"x", b"no database at all" * 500, b"SQLite format 3\0", bytes(4096)])
def test_a_file_that_is_no_database_is_refused_and_not_touched(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "holiday.jpg"
    path.write_bytes(content)
    assert open_code(path) is ErrorCode.INDEX_CORRUPT
    assert [(item.name, item.read_bytes()) for item in tmp_path.iterdir()] == [("holiday.jpg", content)]


def test_a_newer_index_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "i.db"
    Index(path, create=True).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA user_version = {schema.INDEX_VERSION + 1}")
    before = path.read_bytes()
    assert open_code(path) is ErrorCode.INDEX_TOO_NEW
    assert path.read_bytes() == before


def test_an_older_version_than_the_first_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "i.db"
    Index(path, create=True).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 0")
    assert open_code(path) is ErrorCode.INDEX_CORRUPT


@pytest.mark.parametrize("statements", range(-1, 8))
def test_a_maker_killed_at_any_statement_leaves_a_file_that_the_next_one_completes(
    tmp_path: Path, statements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def dying(script: str) -> object:
        for number, statement in enumerate(split(script)):
            if number == statements:
                os.replace(tmp_path / "i.db", tmp_path / "left.db")
                raise Killed
            yield statement

    split = schema._statements
    path = tmp_path / "i.db"
    if statements < 0:  # right after the switch to the write-ahead log
        sqlite3.connect(path).execute("PRAGMA journal_mode = WAL").connection.close()
        os.replace(path, tmp_path / "left.db")
    else:
        monkeypatch.setattr(schema, "_statements", dying)
        with pytest.raises(Killed):
            Index(path, create=True)
        monkeypatch.undo()
    make_photos(tmp_path / "p", 1)
    with Gallery.open(tmp_path / "left.db", counting(), [tmp_path / "p"]) as gallery:
        assert synced(gallery).embedded == 1


def test_a_folder_in_place_of_the_index_is_a_storage_error(tmp_path: Path) -> None:
    assert open_code(tmp_path) is ErrorCode.STORAGE_FAILED


def test_a_path_below_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert open_code(tmp_path / "file" / "i.db") is ErrorCode.STORAGE_FAILED


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (sqlite3.OperationalError("database or disk is full"), ErrorCode.STORAGE_FAILED),
        (sqlite3.OperationalError("disk I/O error"), ErrorCode.STORAGE_FAILED),
        (sqlite3.OperationalError("attempt to write a readonly database"), ErrorCode.STORAGE_FAILED),
        (sqlite3.OperationalError("unable to open database file"), ErrorCode.STORAGE_FAILED),
        (sqlite3.OperationalError("database is locked"), ErrorCode.INDEX_LOCKED),
        (sqlite3.DatabaseError("database disk image is malformed"), ErrorCode.INDEX_CORRUPT),
        (sqlite3.DatabaseError("file is not a database"), ErrorCode.INDEX_CORRUPT),
        (sqlite3.IntegrityError("UNIQUE constraint failed: photo.uri"), ErrorCode.INDEX_CORRUPT),
        (sqlite3.ProgrammingError("Cannot operate on a closed database."), ErrorCode.ARGUMENT_INVALID),
        (PermissionError(13, "Permission denied"), ErrorCode.STORAGE_FAILED),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), ErrorCode.INDEX_CORRUPT),
        (OverflowError("Python int too large"), ErrorCode.ARGUMENT_INVALID),
    ],
)
def test_errors_of_sqlite_and_the_file_system_are_told_apart(error: Exception, code: ErrorCode) -> None:
    with pytest.raises(MagicError) as caught, schema.translated_errors(Path("i.db")):
        raise error
    assert caught.value.code is code
    assert caught.value.__cause__ is error
