"""Files that are on the disk, whole, once they have their name."""

from __future__ import annotations

import contextlib
import os
from typing import IO, TYPE_CHECKING

from magicmm.errors import ErrorCode, MagicError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def write_aside(path: Path) -> Iterator[IO[bytes]]:
    """Give a file to write; it is on disk under its name when the block ends, and gone when the block fails.

    Args:
        path: Its name; an older file stays until the new one is whole. Missing folders are made.

    Raises:
        MagicError: `storage_failed`.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _aside(path) as file:
            yield file


def write_whole(path: Path, text: str) -> None:
    """Write a text aside, sync it and give it its name.

    Raises:
        OSError: The old file is still there.
    """
    with _aside(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def storage_errors(path: Path, remedy: str = "Free some space or choose another folder.") -> Iterator[None]:
    """Turn what the file system raises inside into a `MagicError`."""
    try:
        yield
    except OSError as error:
        raise MagicError(
            ErrorCode.STORAGE_FAILED, f"{path} cannot be written: {error.strerror or error}.", remedy
        ) from None


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _aside(path: Path) -> Iterator[IO[bytes]]:
    aside = path.with_name(f"{path.name}.new")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise
