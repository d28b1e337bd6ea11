"""Filters on what is known of a photo. They apply before top-k: k asked is k given whenever k photos pass."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone

from magicmm.errors import ErrorCode, MagicError
from magicmm.index import uri_range


@dataclass(frozen=True, slots=True)
class GeoBox:
    """A box of degrees; `west` > `east` crosses the 180th meridian."""

    south: float
    west: float
    north: float
    east: float


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions that all must hold; None = any.

    Attributes:
        since: First moment, as the camera's wall clock; a date means its first second.
        until: Last moment; a date means its last second. Photos without an EXIF date count with their file's date.
        under: URIs of folders (ending in "/"); a photo in any of them, at any depth, passes.
        min_bytes: Smallest file.
        max_bytes: Largest file.
        min_side: Pixels that the shorter side of the photo must have.
        box: Where the photo was taken; photos without a place do not pass.
        ids: Photo ids to choose from.
    """

    since: date | datetime | None = None
    until: date | datetime | None = None
    under: tuple[str, ...] = ()
    min_bytes: int | None = None
    max_bytes: int | None = None
    min_side: int | None = None
    box: GeoBox | None = None
    ids: Collection[int] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether every photo passes."""
        return self.ids is None and self == Filter()  # an array of ids cannot be compared

    def to_sql(self) -> tuple[str, list[object]]:
        """Return a WHERE expression over the table `photo` and its parameters; `ids` is left to the caller.

        Raises:
            MagicError: `argument_invalid` for a box that is none, or a folder that does not end in "/".
        """
        terms: list[str] = []
        values: list[object] = []
        wall_clock = "COALESCE(taken, modified / 1e9)"
        simple = (
            (f"{wall_clock} >= ?", None if self.since is None else wall_seconds(self.since, time.min)),
            (f"{wall_clock} <= ?", None if self.until is None else wall_seconds(self.until, time.max)),
            ("bytes >= ?", self.min_bytes),
            ("bytes <= ?", self.max_bytes),
            ("MIN(width, height) >= ?", self.min_side),
        )
        for term, value in simple:
            if value is not None:
                terms.append(term)
                values.append(value)
        if self.under:
            terms.append("(" + " OR ".join(["(uri >= ? AND uri < ?)"] * len(self.under)) + ")")
            for prefix in self.under:
                if not prefix.endswith("/"):
                    raise MagicError(
                        ErrorCode.ARGUMENT_INVALID,
                        f"under holds {prefix!r}, which is no folder.",
                        'Give a tuple of folder URIs that end in "/".',
                    )
                values += uri_range(prefix)
        if self.box is not None:
            box_terms, box_values = _box_sql(self.box)
            terms += box_terms
            values += box_values
        return " AND ".join(terms) or "1", values


def wall_seconds(moment: date | datetime, default_time: time) -> float:
    """Return a wall-clock moment as seconds since 1970-01-01 00:00 of the same clock.

    A moment with a time zone is first read on this machine's clock.
    """
    if not isinstance(moment, datetime):
        moment = datetime.combine(moment, default_time)
    if moment.tzinfo is not None:
        moment = moment.astimezone().replace(tzinfo=None)
    return (moment.replace(tzinfo=timezone.utc) - datetime(1970, 1, 1, tzinfo=timezone.utc)) / timedelta(seconds=1)


def _box_sql(box: GeoBox) -> tuple[list[str], list[object]]:
    edges = (box.south, box.west, box.north, box.east)
    is_box = all(map(math.isfinite, edges)) and -90 <= box.south <= box.north <= 90
    if not is_box or not all(-180 <= edge <= 180 for edge in (box.west, box.east)):
        raise MagicError(
            ErrorCode.ARGUMENT_INVALID,
            f"{box} is no box of degrees.",
            "Give south <= north within -90..90 and west, east within -180..180.",
        )
    joint = "AND" if box.west <= box.east else "OR"
    terms = ["latitude BETWEEN ? AND ?", f"(longitude >= ? {joint} longitude <= ?)"]
    return terms, [box.south, box.north, box.west, box.east]
