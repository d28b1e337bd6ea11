"""Read the bytes of a photo from disk, or say why they cannot be read."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from magicmm.errors import PhotoSkipped, SkipReason

if TYPE_CHECKING:
    from pathlib import Path

MAX_PHOTO_BYTES = 512 << 20
"""A larger file is no photo; reading it whole would endanger the process."""


def read_photo(path: Path) -> tuple[bytes, os.stat_result]:
    """Return the bytes of a file and its facts, taken before the bytes: a change meanwhile shows at the next look.

    Raises:
        PhotoSkipped: With the reason, when the file cannot be read or is too large.
    """
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):  # opening a pipe would wait for ever
            raise PhotoSkipped(SkipReason.READ_FAILED, f"{path} is no file.")
        with path.open("rb") as file:
            data = file.read(MAX_PHOTO_BYTES + 1)
    except FileNotFoundError:
        if path.is_symlink():
            raise PhotoSkipped(SkipReason.BROKEN_LINK, f"{path} is a link to a file that does not exist.") from None
        raise PhotoSkipped(SkipReason.VANISHED, f"{path} does not exist.") from None
    except PermissionError:
        raise PhotoSkipped(SkipReason.PERMISSION_DENIED, f"No permission to read {path}.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        raise PhotoSkipped(SkipReason.READ_FAILED, f"{path} cannot be read ({error}).") from None
    if len(data) > MAX_PHOTO_BYTES:
        raise PhotoSkipped(SkipReason.FILE_TOO_LARGE, f"{path} has more than {MAX_PHOTO_BYTES >> 20} MB.")
    return data, facts
