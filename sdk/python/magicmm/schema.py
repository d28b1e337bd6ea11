"""The SQLite file: its tables, its version, and how its errors become ours (docs/FORMAT.md, part 4)."""

from __future__ import annotations

import contextlib
import sqlite3
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from magicmm.errors import ErrorCode, MagicError

if TYPE_CHECKING:
    from collections.abc import Iterator

APPLICATION_ID = 0x4D4D4958  # "MMIX"
INDEX_VERSION = 1
_BUSY_SECONDS = 30.0

# Plain SQL of 2017 (SQLite 3.18), so that the same file opens on Android 8.
TABLES = """
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE model (
    id          INTEGER PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    name        TEXT NOT NULL,
    dim         INTEGER NOT NULL,
    is_active   INTEGER NOT NULL UNIQUE
);

CREATE TABLE source (
    uri TEXT PRIMARY KEY
) WITHOUT ROWID;

CREATE TABLE photo (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    uri       TEXT NOT NULL UNIQUE,
    bytes     INTEGER NOT NULL,
    modified  INTEGER NOT NULL,
    hash      BLOB,
    taken     REAL,
    latitude  REAL,
    longitude REAL,
    width     INTEGER,
    height    INTEGER,
    reason    TEXT,
    detail    TEXT
);
CREATE INDEX photo_hash ON photo (hash);

CREATE TABLE vector (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    photo_id INTEGER NOT NULL REFERENCES photo (id) ON DELETE CASCADE,
    model_id INTEGER NOT NULL REFERENCES model (id),
    scale    REAL NOT NULL,
    codes    BLOB NOT NULL,
    UNIQUE (photo_id, model_id)
);

CREATE TABLE removed (
    seq INTEGER PRIMARY KEY
);
CREATE TRIGGER vector_removed AFTER DELETE ON vector BEGIN
    INSERT INTO removed (seq) VALUES (old.seq);
END;
"""


def connect(path: Path, create: bool) -> sqlite3.Connection:
    """Open an index file in autocommit mode, with the write-ahead log on.

    Raises:
        MagicError: `source_unavailable` (no such file and not `create`), `index_corrupt`, `index_too_new`,
            `index_locked`, or `storage_failed`.
    """
    if not create and not path.exists():
        raise MagicError(
            ErrorCode.SOURCE_UNAVAILABLE, f"There is no index at {path} yet.", "Make one: magicmm index DIR"
        )
    with translated_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _refuse_foreign(path)
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            if _is_empty(connection):
                _create(connection)
            _check_version(connection, path)
            _log_ahead(connection)
            # Deleted vectors are overwritten: a removed photo leaves nothing behind in the file.
            for pragma in ("foreign_keys = ON", "secure_delete = ON", "synchronous = FULL"):
                connection.execute(f"PRAGMA {pragma}")
        except BaseException:
            connection.close()
            raise
    return connection


def _refuse_foreign(path: Path) -> None:
    """Look at another program's file without SQLite, which would clean up after that program."""
    header = b""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        header = file.read(100)
    if not header:
        return
    if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
        raise corrupt(path, "it is no database")
    pages, application = (int.from_bytes(header[at : at + 4], "big") for at in (28, 68))
    # Ours has its number from the first commit on; a single page may be one whose maker was killed before.
    if application != APPLICATION_ID and (application or pages > 1):
        raise corrupt(path, "it is a database of another program")


def _is_empty(connection: sqlite3.Connection) -> bool:
    """Tell a new file, or one whose maker was killed before it had tables."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    return bool(application == 0 and connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0] == 0)


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    # Another process may have made the tables while this one waited for the lock.
    if connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID:
        connection.execute("ROLLBACK")
        return
    for statement in _statements(TABLES):
        connection.execute(statement)
    facts = {"index_id": uuid.uuid4().hex, "generation": "0", "compacted": "0"}
    connection.executemany("INSERT INTO meta (key, value) VALUES (?, ?)", facts.items())
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {INDEX_VERSION}")
    connection.execute("COMMIT")


def _log_ahead(connection: sqlite3.Connection) -> None:
    """Switch the write-ahead log on, which lasts; SQLite does not wait by itself for others to let it."""
    end = time.monotonic() + _BUSY_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.01)


def _statements(script: str) -> Iterator[str]:
    """Split a script where SQLite itself sees a complete statement (a trigger holds semicolons)."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID:
        raise corrupt(path, "it is a database of another program")
    if version > INDEX_VERSION:
        raise MagicError(
            ErrorCode.INDEX_TOO_NEW,
            f"The index {path} has version {version}, this SDK reads up to {INDEX_VERSION}.",
            "Update it: pip install -U magicmm.",
        )
    if version < INDEX_VERSION:
        raise corrupt(path, f"it has version {version}")


@contextlib.contextmanager
def translated_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite and the file system raise inside into a `MagicError`."""
    try:
        yield
    except sqlite3.Error as error:
        raise _translate(error, path) from error
    except UnicodeDecodeError as error:  # SQLite quotes a damaged table name in its message
        raise corrupt(path, f"it holds names that are no text ({error.reason})") from error
    except OverflowError as error:
        raise MagicError(ErrorCode.ARGUMENT_INVALID, f"{error}.", "Use numbers of at most 64 bits.") from error
    except OSError as error:
        raise MagicError(
            ErrorCode.STORAGE_FAILED, f"{path}: {error.strerror or error}.", "Check the path and its permissions."
        ) from error


def _translate(error: sqlite3.Error, path: Path) -> MagicError:
    said = str(error)
    for word, code, remedy in _MEANINGS:
        if word in said:
            return MagicError(code, f"{path}: {said}.", remedy)
    return corrupt(path, said)


_MEANINGS = (
    ("full", ErrorCode.STORAGE_FAILED, "Free some space; what was indexed so far is kept."),
    ("I/O error", ErrorCode.STORAGE_FAILED, "Check the disk; what was indexed so far is kept."),
    ("readonly", ErrorCode.STORAGE_FAILED, "Make the file and its folder writable, or give another --index."),
    ("unable to open", ErrorCode.STORAGE_FAILED, "Check the path and its permissions."),
    ("closed database", ErrorCode.ARGUMENT_INVALID, "Open the gallery again."),
    ("locked", ErrorCode.INDEX_LOCKED, "Another program holds the index; wait for it and try again."),
)


def corrupt(path: Path, why: str) -> MagicError:
    """Return the error for an index that cannot be trusted."""
    return MagicError(
        ErrorCode.INDEX_CORRUPT,
        f"The index {path} is damaged: {why}.",
        "Run: magicmm rebuild (the damaged file is kept aside, photos are never touched).",
    )
