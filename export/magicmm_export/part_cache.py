"""Finished parts of an export on disk, by the hash of what they were made from.

A killed export finds its work again, and a changed recipe redoes only the units that it touches.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from magicmm.errors import ErrorCode, MagicError


class PartCache:
    """One file for each part; whatever cannot be read counts as absent."""

    def __init__(self, folder: Path) -> None:
        """Use a folder, which is made when the first part is kept."""
        self.folder = folder
        self.found = 0
        self.made = 0

    def has(self, key: str) -> bool:
        """Say whether a part is there and whole, without reading its values."""
        try:
            with safe_open(self._path(key), "numpy"):
                return True
        except (OSError, SafetensorError):
            return False

    def get(self, key: str) -> dict[str, NDArray[Any]] | None:
        """Return the arrays of a part, or None."""
        try:
            arrays: dict[str, NDArray[Any]] = load_file(self._path(key))
        except (OSError, SafetensorError):
            return None
        self.found += 1
        return arrays

    def put(self, key: str, arrays: dict[str, NDArray[Any]]) -> None:
        """Keep a part: written aside, then renamed.

        Raises:
            MagicError: `storage_failed` when the disk is full or forbids it.
        """
        path = self._path(key)
        aside = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(arrays, aside)
            aside.replace(path)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):  # the folder itself may be what is wrong
                aside.unlink()
            raise MagicError(
                ErrorCode.STORAGE_FAILED,
                f"{self.folder} cannot be written: {getattr(error, 'strerror', None) or error}.",
                "Free some space, choose another folder with --cache, or do without: --no-cache.",
            ) from None
        self.made += 1

    def remove(self) -> None:
        """Delete the folder with all parts."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"
