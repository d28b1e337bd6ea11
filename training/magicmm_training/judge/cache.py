"""Verdicts that were given, kept in SQLite: a judge is never asked the same twice, even after a kill."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from typing import TYPE_CHECKING

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.judge.prompts import PROMPT_VERSION, question
from magicmm_training.judge.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from magicmm_training.entries import Entry

_APPLICATION = 0x4D4D4A56
"""Marks the file as ours ("MMJV")."""
_KEY_BYTES = 16
_KEYS_A_QUERY = 500
"""Older SQLite allows 999 parameters a statement."""
_TABLE = "CREATE TABLE IF NOT EXISTS verdict (key BLOB PRIMARY KEY, approved INTEGER, margin REAL) WITHOUT ROWID"


def verdict_key(fingerprint: str, query: Entry, query_id: str, target: Entry, target_id: str) -> bytes:
    """Return the name of a verdict.

    Args:
        fingerprint: Of the judge.
        query: Decides on the words of the question, and on tiles.
        query_id: Its content id.
        target: As it is shown.
        target_id: Its content id.
    """
    asked = [question(query), query_id, query.max_tiles, target_id, target.max_tiles]
    text = json.dumps([PROMPT_VERSION, fingerprint, asked])
    return hashlib.sha256(text.encode()).digest()[:_KEY_BYTES]


class VerdictCache:
    """An open file of verdicts."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it.

        Raises:
            MagicError: `storage_failed` when it cannot be used, or is another program's.
        """
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None)
            # Killed processes lose nothing that was committed; only a crash of the machine may cost the last batches.
            for pragma in ("journal_mode = WAL", "synchronous = NORMAL"):
                self._db.execute(f"PRAGMA {pragma}")
            number = self._db.execute("PRAGMA application_id").fetchone()[0]
            tables = self._db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
            if number != _APPLICATION and tables:
                raise self._failed("it is a database of another program")
            self._db.execute(_TABLE)
            self._db.execute(f"PRAGMA application_id = {_APPLICATION}")
        except (sqlite3.Error, OSError) as error:
            raise self._failed(str(error)) from None

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __len__(self) -> int:
        """Return how many verdicts there are."""
        return int(self._db.execute("SELECT COUNT(*) FROM verdict").fetchone()[0])

    def known(self, keys: Sequence[bytes]) -> dict[bytes, Verdict]:
        """Return those of some verdicts that were given already.

        Raises:
            MagicError: `storage_failed`.
        """
        found: dict[bytes, Verdict] = {}
        try:
            for start in range(0, len(keys), _KEYS_A_QUERY):
                part = keys[start : start + _KEYS_A_QUERY]
                marks = ", ".join("?" * len(part))
                rows = self._db.execute(f"SELECT key, approved, margin FROM verdict WHERE key IN ({marks})", part)  # noqa: S608
                for key, approved, margin in rows:
                    found[key] = Verdict(None if approved is None else bool(approved), margin)
        except sqlite3.Error as error:
            raise self._failed(str(error)) from None
        return found

    def keep(self, verdicts: Iterable[tuple[bytes, Verdict]]) -> None:
        """Commit some verdicts, all of them or none.

        Raises:
            MagicError: `storage_failed`.
        """
        rows = [(key, verdict.approved, verdict.margin) for key, verdict in verdicts]
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany("INSERT OR REPLACE INTO verdict VALUES (?, ?, ?)", rows)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise self._failed(str(error)) from None

    def _failed(self, what: str) -> MagicError:
        return MagicError(
            ErrorCode.STORAGE_FAILED,
            f"Verdicts cannot be kept in {self._path}: {what}.",
            "Free some space, or delete the file; its questions are asked again.",
        )
