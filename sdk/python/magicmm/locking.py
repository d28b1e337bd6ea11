"""One writer at a time: the lock beside an index file, freed by the system when its holder dies."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from magicmm.errors import ErrorCode, MagicError
from magicmm.schema import translated_errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def writer_lock(index_path: Path) -> Iterator[None]:
    """Hold the index for writing; readers are not concerned.

    Raises:
        MagicError: `index_locked` when another process writes, `storage_failed` when the folder is not writable.
    """
    from filelock import FileLock, Timeout  # 60 ms that a search does not need

    lock = FileLock(index_path.with_name(index_path.name + ".lock"))
    with translated_errors(index_path):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise MagicError(
                ErrorCode.INDEX_LOCKED,
                f"Another process is writing to {index_path}.",
                "Wait for it to finish; searching works meanwhile.",
            ) from None
    try:
        yield
    finally:
        lock.release()
