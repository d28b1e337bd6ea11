"""One writer at a time: the lock beside an index file, freed by the system when its holder dies."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
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

    path = index_path.with_name(index_path.name + ".lock")
    lock = FileLock(path)
    with translated_errors(index_path):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise _locked(index_path) from None
    try:
        with contextlib.ExitStack() as stack:
            with translated_errors(index_path):
                file = stack.enter_context(path.open("r+b"))
            if not _lock_records(file.fileno()):
                raise _locked(index_path)
            yield
    finally:
        lock.release()


def _lock_records(descriptor: int) -> bool:
    """Take the lock that a JVM takes, until the file is closed; return whether nobody else holds it.

    `filelock` takes an flock. On Linux that is another lock than those of fcntl; elsewhere one keeps the other out.
    """
    try:
        import fcntl

        # Of the open file, not of the process: that one would end as soon as anything closes the same file.
        command = fcntl.F_OFD_SETLK
    except (ImportError, AttributeError):
        return True
    whole_file = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        fcntl.fcntl(descriptor, command, whole_file)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)  # others: a file system without such locks
    return True


def _locked(index_path: Path) -> MagicError:
    return MagicError(
        ErrorCode.INDEX_LOCKED,
        f"Another process is writing to {index_path}.",
        "Wait for it to finish; searching works meanwhile.",
    )
