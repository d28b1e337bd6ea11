"""What the rows of an index say, as frozen data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from magicmm.errors import SkipReason


class Stamp(NamedTuple):
    """What tells an unchanged file from a changed one: size in bytes and modification time in nanoseconds."""

    bytes: int
    modified: int


@dataclass(frozen=True, slots=True)
class Model:
    """A model whose vectors the index holds."""

    id: int
    fingerprint: str
    name: str
    dim: int
    is_active: bool


@dataclass(frozen=True, slots=True)
class PhotoFacts:
    """One row of the table `photo`, without its id; `reason` is None for an indexed photo."""

    uri: str
    stamp: Stamp
    hash: bytes | None
    taken: float | None = None
    latitude: float | None = None
    longitude: float | None = None
    width: int | None = None
    height: int | None = None
    reason: SkipReason | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class ExifColumns:
    """What EXIF says of photos; NaN = nothing.

    Attributes:
        ids: int64 [n], rising.
        taken: float64 [n], the camera's wall clock in seconds since 1970-01-01 00:00 of that clock.
        latitude: float64 [n], degrees north.
        longitude: float64 [n], degrees east.
    """

    ids: NDArray[np.int64]
    taken: NDArray[np.float64]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ids)
