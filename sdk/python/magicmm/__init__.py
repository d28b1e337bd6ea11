"""Find photos by meaning, offline.

    from magicmm import Gallery
    gallery = Gallery.open("photos.db", sources=["Pictures"])

Names are imported on first use, so that the command line answers `--help` at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from magicmm.version import __version__

if TYPE_CHECKING:
    from magicmm.bundle import Bundle
    from magicmm.concepts import Concept
    from magicmm.embedder import Embedder
    from magicmm.errors import ErrorCode, MagicError, PhotoSkipped, SkipReason
    from magicmm.filters import Filter, GeoBox
    from magicmm.gallery import Gallery
    from magicmm.results import DuplicateGroup, Match, Plan, Progress, Results, Signal, Skip, Status
    from magicmm.sources import Changes, FolderSource, PhotoFile, PhotoRef, PhotoSource
    from magicmm.sync import Budget

_HOMES = {
    "bundle": ("Bundle",),
    "concepts": ("Concept",),
    "embedder": ("Embedder",),
    "errors": ("ErrorCode", "MagicError", "PhotoSkipped", "SkipReason"),
    "filters": ("Filter", "GeoBox"),
    "gallery": ("Gallery",),
    "results": ("DuplicateGroup", "Match", "Plan", "Progress", "Results", "Signal", "Skip", "Status"),
    "sources": ("Changes", "FolderSource", "PhotoFile", "PhotoRef", "PhotoSource"),
    "sync": ("Budget",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Budget",
    "Bundle",
    "Changes",
    "Concept",
    "DuplicateGroup",
    "Embedder",
    "ErrorCode",
    "Filter",
    "FolderSource",
    "Gallery",
    "GeoBox",
    "MagicError",
    "Match",
    "PhotoFile",
    "PhotoRef",
    "PhotoSkipped",
    "PhotoSource",
    "Plan",
    "Progress",
    "Results",
    "Signal",
    "Skip",
    "SkipReason",
    "Status",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'magicmm' has no attribute {name!r}")
    return getattr(import_module(f"magicmm.{_HOME_OF[name]}"), name)
