"""Where photos come from: the `PhotoSource` protocol and folders on disk.

A source says what changed and hands out bytes; it knows nothing of models or indexes.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote_from_bytes, unquote_to_bytes

from magicmm.errors import ErrorCode, MagicError
from magicmm.reading import read_photo
from magicmm.records import Stamp

if TYPE_CHECKING:
    from magicmm.image import DecodedPhoto

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
    | {".avif", ".heic", ".heif", ".hif"}
)
_MOST_NS = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class PhotoRef:
    """A photo that a source has, with the stamp that tells whether it changed."""

    uri: str
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class Changes:
    """The difference between a source now and what is known of it.

    Attributes:
        new: Photos not known yet.
        changed: Known photos with another stamp.
        removed: URIs of known photos that are gone for certain.
        unchanged: How many known photos are as they were.
        unavailable: Places that could not be looked at; nothing below them is reported as removed.
    """

    new: list[PhotoRef] = field(default_factory=list)
    changed: list[PhotoRef] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    unchanged: int = 0
    unavailable: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PhotoFile:
    """The bytes of one photo as they were read: `hash` is the first half of their SHA-256."""

    data: bytes
    stamp: Stamp
    hash: bytes

    def decode(self, min_side: int) -> DecodedPhoto:
        """Decode; see `magicmm.image.decode_photo`."""
        from magicmm.image import decode_photo  # a text search needs no Pillow

        return decode_photo(self.data, min_side)


class PhotoSource(Protocol):
    """A place that holds photos."""

    uri: str
    """What identifies the source in the index; the URIs of its photos begin with it. Ends in "/"."""

    def changes(self, known: Mapping[str, Stamp], all_known: Set[str]) -> Changes:
        """Compare the source with the stamps in `known`; URIs of `all_known` without a stamp count as changed."""
        ...

    def load(self, uri: str) -> PhotoFile:
        """Read one photo.

        Raises:
            PhotoSkipped: When it cannot be read.
        """
        ...


class FolderSource:
    """The photos in a folder and its subfolders.

    Hidden files and folders are left out, links to folders are not followed (so loops cannot arise), links to photos
    are. A folder that cannot be read, or a root that is missing or suddenly empty (a drive that is not mounted), is
    reported as unavailable: its photos stay indexed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Take a folder; nothing is read yet."""
        self.path = Path(os.path.abspath(os.fspath(path)))
        self.uri = folder_uri(self.path)

    def changes(self, known: Mapping[str, Stamp], all_known: Set[str]) -> Changes:
        """Walk the folder and compare; see `PhotoSource.changes`."""
        changes = Changes()
        seen: set[str] = set()
        for uri, photo_stamp in self._walk(changes.unavailable):
            seen.add(uri)
            if known.get(uri) == photo_stamp:
                continue
            (changes.changed if uri in all_known else changes.new).append(PhotoRef(uri, photo_stamp))
        if not seen and all_known and self.uri not in changes.unavailable:
            changes.unavailable.append(self.uri)
        lost = tuple(changes.unavailable)
        changes.removed.extend(sorted(uri for uri in all_known - seen if not uri.startswith(lost)))
        unchanged = len(seen) - len(changes.new) - len(changes.changed)
        return replace(changes, unchanged=unchanged)

    def load(self, uri: str) -> PhotoFile:
        """Read one photo; see `PhotoSource.load`."""
        data, facts = read_photo(uri_path(uri))
        return PhotoFile(data, _stamp(facts), hashlib.sha256(data).digest()[:16])

    def _walk(self, unavailable: list[str]) -> Iterator[tuple[str, Stamp]]:
        """Yield URI and stamp of every photo, folder by folder in the order of their names."""
        folders = [(os.fspath(self.path), self.uri)]
        while folders:
            folder, prefix = folders.pop()
            try:
                with os.scandir(folder) as listing:
                    entries = sorted(listing, key=lambda entry: entry.name)
            except (OSError, ValueError):  # ValueError: a NUL byte in the path of a damaged index
                unavailable.append(prefix)
                continue
            inner = []
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                uri = prefix + _quote(entry.name)
                if entry.is_dir(follow_symlinks=False):
                    inner.append((entry.path, uri + "/"))
                elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                    photo_stamp = _entry_stamp(entry)
                    if photo_stamp is not None:
                        yield uri, photo_stamp
            folders.extend(reversed(inner))


def _entry_stamp(entry: os.DirEntry[str]) -> Stamp | None:
    """Return the stamp; None for what is no file; a zero stamp for a file that `load` will fail on and explain."""
    try:
        found = entry.stat()
    except OSError:
        return Stamp(0, 0)
    return _stamp(found) if stat.S_ISREG(found.st_mode) else None


def _stamp(found: os.stat_result) -> Stamp:
    # Times beyond the year 2262 exist on some file systems, but not in 64 bits of nanoseconds.
    return Stamp(found.st_size, max(-_MOST_NS, min(found.st_mtime_ns, _MOST_NS)))


def folder_uri(path: Path) -> str:
    """Return a folder's URI: percent-encoded ASCII, whatever bytes its name holds, ending in "/"."""
    uri = path_uri(path)
    return uri if uri.endswith("/") else uri + "/"


def path_uri(path: Path) -> str:
    """Return the file URI of a path (made absolute, links kept)."""
    absolute = os.path.abspath(os.fspath(path))
    posix = Path(absolute).as_posix()
    rooted = posix if posix.startswith("/") else "/" + posix  # a Windows drive
    return "file://" + "/".join(_quote(part) for part in rooted.split("/"))


def uri_path(uri: str) -> Path:
    """Return the path of a file URI.

    Raises:
        MagicError: `argument_invalid` for a URI of another kind.
    """
    if not uri.startswith("file:///"):
        raise MagicError(ErrorCode.ARGUMENT_INVALID, f"{uri!r} is no file on this machine.", "Use its own source.")
    path = os.fsdecode(unquote_to_bytes(uri[len("file://") :]))
    return Path(path[1:] if os.name == "nt" and path[2:3] == ":" else path)


def require_folder(path: str | os.PathLike[str]) -> FolderSource:
    """Return a source for a folder that exists and can be read.

    Raises:
        MagicError: `source_unavailable`.
    """
    try:
        with os.scandir(path):
            return FolderSource(path)
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise MagicError(
            ErrorCode.SOURCE_UNAVAILABLE, f"Cannot read the folder {os.fspath(path)!r}: {said}.", "Give a folder."
        ) from None


def _quote(name: str) -> str:
    return quote_from_bytes(os.fsencode(name), safe="!$&'()+,;=@~")
