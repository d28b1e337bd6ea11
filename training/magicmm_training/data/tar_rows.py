"""Samples of a webdataset shard: the members of a tar file that share a name up to its first dot."""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.data.json_rows import unreadable
from magicmm_training.data.rows import Row

if TYPE_CHECKING:
    from pathlib import Path

KEY = "__key__"
"""Field of a row with the name that its members share."""


class TarSamples:
    """A tar file as rows: `__key__` and, for each ending such as "jpg" or "json", the bytes of that member.

    An index of offsets is made once, so that samples are read in any order. Nothing is ever unpacked to disk, and
    links, which could point elsewhere, are not followed.
    """

    def __init__(self, path: Path) -> None:
        """Index the members.

        Raises:
            MagicError: `source_unavailable` when it is no plain tar file; `text_invalid` when a member comes twice.
        """
        self._path = path
        samples: dict[str, dict[str, tuple[int, int]]] = {}
        try:
            with tarfile.open(path, "r:") as archive:  # "r:" refuses compression, which has no offsets
                for member in archive:
                    folder, _, name = member.name.removeprefix("./").rpartition("/")
                    stem, _, ending = name.partition(".")
                    if member.isreg() and not member.issparse() and stem and ending:
                        members = samples.setdefault(f"{folder}/{stem}" if folder else stem, {})
                        if ending in members:
                            raise _twice(path, member.name)
                        members[ending] = (member.offset_data, member.size)
        except (OSError, tarfile.TarError) as error:
            raise unreadable(path, error) from None
        self._samples = list(samples.items())

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, place: int) -> Row:
        """Return a row.

        Raises:
            MagicError: `source_unavailable` when the file ends too early or is gone.
        """
        key, members = self._samples[place]
        values: dict[str, str | bytes] = {KEY: key}
        try:
            with self._path.open("rb") as file:
                for ending, (offset, size) in members.items():
                    file.seek(offset)
                    data = file.read(size)
                    if len(data) < size:
                        raise OSError("it ends too early")
                    values[ending] = data
        except OSError as error:
            raise unreadable(self._path, error) from None
        return Row(values, self._path.name, place + 1)


def _twice(path: Path, name: str) -> MagicError:
    return MagicError(ErrorCode.TEXT_INVALID, f"{path.name} holds {name} twice.", "Write the shard again.")
