"""Keep an export's memory at what it uses."""

from __future__ import annotations

import ctypes
import sys

_M_MMAP_THRESHOLD = -3
_THRESHOLD = 1 << 20


def return_freed_memory() -> bool:
    """Let freed arrays of a megabyte and more go back to the system at once; say whether that was possible (glibc).

    glibc raises the size from which it does so whenever a large block is freed, up to 32 MB. Layer after layer, an
    export then keeps up to 1.5 GB that nobody uses (measured at 2B).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _THRESHOLD))
    except (OSError, AttributeError):  # another C library
        return False
