"""What the words of a query say of time and place, and which photos' EXIF says the same: apart from the cosine.

English only. A word counts where it can hardly mean anything else: "in may", "winter 2019", "at night", "in Rome"; not
in "may I", "a winter coat", "a china plate". Photos without the fact are neither lifted nor lowered, nor are those that
differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Protocol

import numpy as np

from magicmm.places import Place, place_table, plain
from magicmm.results import Signal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magicmm.records import ExifColumns

    Mask = NDArray[np.bool_]

STRENGTH = 0.5
"""What one signal adds to the cosine, in standard deviations of the library's scores for the query.

Chosen by benchmarks/signals.py: a right date helps much, and one that says nothing does no harm.
"""

_MONTHS = (
    "january|february|march|april|may|june|july|august|september|october|november|december"  # in the order of the year
)
_PLAIN_MONTHS = "january|february|july|september|october|november|december"
"""Months whose names are no other words."""
_NORTHERN_SEASONS = {
    "spring": (3, 4, 5),
    "summer": (6, 7, 8),
    "autumn": (9, 10, 11),
    "fall": (9, 10, 11),
    "winter": (12, 1, 2),
}
_SEASONS = "|".join(_NORTHERN_SEASONS)
_DAYTIMES = {
    "night": (21.0, 5.0),
    "midnight": (23.0, 1.0),
    "dawn": (4.0, 8.0),
    "sunrise": (4.0, 8.0),
    "morning": (5.0, 12.0),
    "noon": (11.0, 14.0),
    "midday": (11.0, 14.0),
    "afternoon": (12.0, 18.0),
    "evening": (17.0, 23.0),
    "sunset": (16.0, 23.0),
    "dusk": (16.0, 23.0),
}
"""First and last hour of the camera's clock; wide where the sun sets the hour."""
_YEAR = "(?:19[5-9][0-9]|20[0-9][0-9])"
_IN = r"(?:in|during|from|since) (?:the )?(?:early |late |mid )?"
_FEASTS = r"(?:christmas|easter|halloween|new year|new year's eve|trip|holidays?|vacation)"
_TIME_PATTERN = re.compile(
    r"\b(?:(?:at|by|during the|in the middle of the) (?P<at>night|midnight|noon|midday|dawn|dusk|sunrise|sunset)"
    r"|in the (?:early |late )?(?P<in>night|morning|afternoon|evening))\b"
)
_SEASON_PATTERN = re.compile(rf"\b(?:{_IN}(?P<in>{_SEASONS})|(?P<of>{_SEASONS})(?= (?:of )?{_YEAR}\b))\b")
_MONTH_PATTERN = re.compile(
    rf"\b(?:{_IN}(?P<in>{_MONTHS})|(?P<of>{_MONTHS})(?=,? (?:of )?{_YEAR}\b)|(?P<alone>{_PLAIN_MONTHS}))\b"
)
_YEAR_PATTERN = re.compile(rf"\b(?:{_IN}|(?:{_MONTHS}|{_SEASONS}|{_FEASTS}),? (?:of )?)(?P<year>{_YEAR})\b")
_PLACE_PATTERN = re.compile(r"\b(?:in|near|from|at|around|outside) (?:the )?(?=(?P<rest>\w.*))")
_PLACE_WORDS = 7
"""As many words as the longest name has."""
_AGES = 2e11
"""Seconds: dates that no EXIF can hold lie beyond."""


class Condition(Protocol):
    """Something that a query says."""

    def judge(self, photos: ExifColumns) -> tuple[Mask, Mask]:
        """Return of which photos EXIF tells, and which of them fit: bool [n] each."""


@dataclass(frozen=True, slots=True)
class Daytime:
    """Hours of the day, from `first` up to `last`; `first` > `last` crosses midnight."""

    first: float
    last: float

    def judge(self, photos: ExifColumns) -> tuple[Mask, Mask]:
        """See `Condition`."""
        hour = photos.taken % 86400 / 3600
        after, before = hour >= self.first, hour < self.last
        return np.isfinite(photos.taken), (after & before) if self.first < self.last else (after | before) & (hour >= 0)


@dataclass(frozen=True, slots=True)
class Months:
    """Months of the year (1 to 12); as a season they stand for the north, and are half a year later in the south."""

    months: tuple[int, ...]
    is_season: bool = False

    def judge(self, photos: ExifColumns) -> tuple[Mask, Mask]:
        """See `Condition`; a photo without a place counts as taken in the north."""
        known = np.isfinite(photos.taken)
        month = _calendar(photos.taken, "M") % 12 + 1
        if self.is_season:
            month = np.where(photos.latitude < 0, (month + 5) % 12 + 1, month)
        return known, known & np.isin(month, self.months)


@dataclass(frozen=True, slots=True)
class Year:
    """A year."""

    year: int

    def judge(self, photos: ExifColumns) -> tuple[Mask, Mask]:
        """See `Condition`."""
        known = np.isfinite(photos.taken)
        return known, known & (_calendar(photos.taken, "Y") + 1970 == self.year)


@dataclass(frozen=True, slots=True)
class Near:
    """A place of the table."""

    place: Place

    def judge(self, photos: ExifColumns) -> tuple[Mask, Mask]:
        """See `Condition`."""
        known = np.isfinite(photos.latitude) & np.isfinite(photos.longitude)
        fits = np.zeros(len(photos), np.bool_)
        fits[known] = place_table().contains(self.place, photos.latitude[known], photos.longitude[known])
        return known, fits


@dataclass(frozen=True, slots=True)
class Fired:
    """A signal in the words of a query, and what it demands."""

    signal: Signal
    condition: Condition


def read_signals(text: str) -> tuple[Fired, ...]:
    """Return what a query says of time and place, in the order of `Signal.kind` and of its words."""
    words = plain(text)
    found: list[Fired] = []
    for match in _TIME_PATTERN.finditer(words):
        found.append(_fired("time", match, Daytime(*_DAYTIMES[match["at"] or match["in"]])))
    for match in _SEASON_PATTERN.finditer(words):
        months = _NORTHERN_SEASONS[match["in"] or match["of"]]
        found.append(_fired("season", match, Months(months, is_season=True)))
    for match in _MONTH_PATTERN.finditer(words):
        month = _MONTHS.split("|").index(match["in"] or match["of"] or match["alone"]) + 1
        found.append(_fired("month", match, Months((month,))))
    for match in _YEAR_PATTERN.finditer(words):
        found.append(Fired(Signal("year", match["year"]), Year(int(match["year"]))))
    return (*found, *_places(words))


def judge(fired: Iterable[Fired], photos: ExifColumns) -> dict[str, NDArray[np.float64]]:
    """Return by kind what EXIF says of each photo: 1 fits, 0 differs, NaN is not known; float64 [n].

    Of several signals of a kind ("in Rome and in Paris") one has to fit.
    """
    found: dict[str, NDArray[np.float64]] = {}
    for one in fired:
        known, fits = one.condition.judge(photos)
        values = np.where(known, fits.astype(np.float64), np.nan)
        kind = one.signal.kind
        found[kind] = np.fmax(found[kind], values) if kind in found else values
    return found


def signals_of(judged: Mapping[str, NDArray[np.float64]], photos: ExifColumns, photo_id: int) -> dict[str, float]:
    """Return what was judged of one photo, by kind; kinds that its EXIF does not tell are left out."""
    row = int(np.searchsorted(photos.ids, photo_id))
    if row == len(photos) or photos.ids[row] != photo_id:
        return {}
    return {kind: float(values[row]) for kind, values in judged.items() if np.isfinite(values[row])}


def _places(words: str) -> list[Fired]:
    found = []
    for match in _PLACE_PATTERN.finditer(words):
        name = _longest_name(match["rest"])
        if name:
            found.append(
                Fired(Signal("place", words[match.start() : match.end()] + name), Near(place_table().names[name]))
            )
    return found


def _longest_name(rest: str) -> str:
    """Return the longest name of the table that text begins with, "" if none."""
    ends = [match.end() for match in re.finditer(r"[\w.'-]+", rest)][:_PLACE_WORDS]
    return next((rest[:end].rstrip(".") for end in reversed(ends) if rest[:end].rstrip(".") in _names()), "")


@cache
def _names() -> frozenset[str]:
    return frozenset(place_table().names)


def _fired(kind: str, match: re.Match[str], condition: Condition) -> Fired:
    return Fired(Signal(kind, match[0]), condition)


def _calendar(taken: NDArray[np.float64], unit: str) -> NDArray[np.int64]:
    """Return months or years since 1970 of wall-clock seconds; those not known become 1970."""
    seconds = np.clip(np.floor(np.nan_to_num(taken)), -_AGES, _AGES).astype("datetime64[s]")
    return seconds.astype(f"datetime64[{unit}]").astype(np.int64)
