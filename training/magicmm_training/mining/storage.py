"""Files that are there whole or not at all."""

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
        path: Its name; an older file stays until the new one is whole.

    Raises:
        MagicError: `storage_failed`.
    """
    aside = path.with_name(f"{path.name}.new")
    with storage_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                aside.unlink()
            raise


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what the file system raises inside into a `MagicError`."""
    try:
        yield
    except OSError as error:
        raise MagicError(
            ErrorCode.STORAGE_FAILED,
            f"{path} cannot be written: {error.strerror or error}.",
            "Free some space or choose another folder.",
        ) from None
