"""Places by name: cities and countries of the time zone database, and which coordinates lie near them.

The table (`places.json`, made by `magicmm_export.places`) has one to thirty cities a country and no borders. So a city
is what lies within `CITY_KM` of it; a country is what lies within `COUNTRY_KM` of one of its cities, and much farther
from every other country's. Far from those cities a country is not recognised.
"""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Degrees = NDArray[np.float64]
    Mask = NDArray[np.bool_]
    Points = NDArray[np.float64]
    """float64 [n, 3], on the unit sphere: float32 errs by kilometres, and otherwise on another processor."""

CITY_KM = 40.0
COUNTRY_KM = 100.0
_FARTHER = 1.5
"""How much farther the cities of all other countries must be."""
_EARTH_KM = 6371.0
_ROWS = 4096
"""Photos compared at once with all cities of the table."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a name means: rows of cities in the table, and codes of countries. Either may be empty."""

    cities: tuple[int, ...]
    countries: frozenset[str]


@dataclass(frozen=True)
class PlaceTable:
    """The table.

    Attributes:
        points: float64 [cities, 3].
        codes: The country of each city.
        names: Names as `plain` writes them.
    """

    points: Points
    codes: NDArray[np.str_]
    names: Mapping[str, Place]

    def contains(self, place: Place, latitude: Degrees, longitude: Degrees) -> Mask:
        """Return which coordinates (degrees, [n]) lie at the place: bool [n]."""
        found = np.zeros(len(latitude), np.bool_)
        own = np.isin(self.codes, sorted(place.countries))
        for start in range(0, len(latitude), _ROWS):
            rows = np.arange(start, min(start + _ROWS, len(latitude)))
            photos = sphere_points(latitude[rows], longitude[rows])
            if place.cities:
                found[rows] = _nearest_km(photos, self.points[list(place.cities)]) <= CITY_KM
            if own.any():
                nearest = _nearest_km(photos, self.points[own])
                near = np.flatnonzero(nearest <= COUNTRY_KM)  # few: the other cities are many
                others = _nearest_km(photos[near], self.points[~own])
                found[rows[near]] |= _FARTHER * nearest[near] < others
        return found


@cache
def place_table() -> PlaceTable:
    """Return the table that comes with the package; read once."""
    raw = json.loads((resources.files("magicmm") / "places.json").read_text("utf-8"))
    cities: dict[str, list[int]] = {}
    countries: dict[str, set[str]] = {}
    for row, (name, *_) in enumerate(raw["cities"]):
        cities.setdefault(plain(name), []).append(row)
    for name, code in raw["countries"]:
        countries.setdefault(plain(name), set()).add(code)
    names = {
        name: Place(tuple(cities.get(name, ())), frozenset(countries.get(name, ())))
        for name in {*cities, *countries} - {""}
    }
    _, latitude, longitude, codes = zip(*raw["cities"], strict=True)
    return PlaceTable(sphere_points(np.array(latitude), np.array(longitude)), np.array(codes), names)


def plain(text: str) -> str:
    """Return text without accents, in small letters, with single spaces: "São  Paulo" is "sao paulo"."""
    letters = unicodedata.normalize("NFKD", text.replace("\u2019", "'"))
    return " ".join("".join(char for char in letters if not unicodedata.combining(char)).casefold().split())


def sphere_points(latitude: Degrees, longitude: Degrees) -> Points:
    """Return degrees as points of the unit sphere: float64 [n, 3]."""
    north, east = np.radians(latitude), np.radians(longitude)
    return np.stack([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)], axis=1)


def _nearest_km(photos: Points, cities: Points) -> Degrees:
    """Return great-circle distances to the nearest city [n]."""
    kilometres: Degrees = _EARTH_KM * np.arccos(np.clip((photos @ cities.T).max(1), -1, 1))
    return kilometres
