"""Checkpoint folders that appear complete or not at all."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from magicmm.errors import ErrorCode, MagicError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def whole_checkpoint(target: Path) -> Iterator[Path]:
    """Give a folder to fill, `config.json` among its files; when nothing fails it is on the disk as the target.

    Args:
        target: A folder that does not exist yet; written beside it under another name first.

    Raises:
        MagicError: `argument_invalid` when the target exists; `storage_failed` when it cannot be written.
    """
    if target.exists():
        raise MagicError(ErrorCode.ARGUMENT_INVALID, f"{target} exists already.", "Choose a new folder.")
    staged = target.with_name(f"{target.name}.partial-{os.getpid()}")
    try:
        staged.mkdir(parents=True)
        yield staged
        mode = (staged / "config.json").stat().st_mode
        for path in staged.iterdir():
            path.chmod(mode)  # the library writes tensors for their owner only
            with path.open("rb") as file:
                os.fsync(file.fileno())
        staged.rename(target)
    except (OSError, SafetensorError) as error:
        raise MagicError(
            ErrorCode.STORAGE_FAILED,
            f"{target} cannot be written: {getattr(error, 'strerror', None) or error}.",
            "Free some space or choose another folder.",
        ) from None
    finally:
        shutil.rmtree(staged, ignore_errors=True)
