"""`python -m magicmm_export.places OUT.json`: the SDK's table of places, out of the time zone database.

`zone.tab` has a city and its coordinates for every zone of every country, `iso3166.tab` the names of countries; both
are in the public domain, and the package `tzdata` of PyPI carries them.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from importlib import resources
from pathlib import Path

AMBIGUOUS = frozenset({"Center", "Easter", "Jersey", "Knox", "Midway", "Reunion", "Réunion", "Troll", "Wake"})
"""Names that mostly mean something else, even behind "in" or "at"."""
ALIASES = {
    "GB": ("Great Britain", "United Kingdom", "UK", "England", "Scotland", "Wales"),
    "MM": ("Burma",),
    "TL": ("East Timor",),
    "US": ("USA", "America"),
}
"""Common names that the tables lack. All of a country counts: the tables know no regions."""


def main() -> int:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT.json", help="where to write the table")
    options = parser.parse_args()
    tables = resources.files("tzdata") / "zoneinfo"
    table = make_table((tables / "zone.tab").read_text("utf-8"), (tables / "iso3166.tab").read_text("utf-8"))
    options.out.write_text(render(table), encoding="utf-8")
    return 0


def make_table(zones: str, countries: str) -> dict[str, list[list[object]]]:
    """Return `cities`, rows of name, degrees north, degrees east and country, and `countries`, rows of name and code.

    A city with an ambiguous name keeps its place, which tells countries apart, and loses the name.
    """
    cities: list[list[object]] = []
    for line in _lines(zones):
        code, coordinates, zone = line.split("\t")[:3]
        name = zone.rpartition("/")[2].replace("_", " ")
        cities.append(["" if name in AMBIGUOUS else name, *parse_coordinates(coordinates), code])
    names: list[list[object]] = []
    for line in _lines(countries):
        code, name = line.split("\t")
        names += [[alias, code] for alias in (country_name(name), *ALIASES.get(code, ())) if alias not in AMBIGUOUS]
    return {"cities": sorted(cities, key=str), "countries": sorted(names, key=str)}


def country_name(name: str) -> str:
    """Return how people write a name of `iso3166.tab`: "South Korea" for "Korea (South)"."""
    plain, _, inside = name.removesuffix(")").partition(" (")
    direction = f"{inside} " if inside in ("North", "South") else ""
    return direction + plain.replace("&", "and")


def parse_coordinates(text: str) -> tuple[float, float]:
    """Return degrees north and east of ISO 6709, as in +4852+00220 (degrees, minutes, perhaps seconds).

    Raises:
        ValueError: When the text is none.
    """
    found = re.fullmatch(r"([+-])(\d{2})(\d{2})(\d{2})?([+-])(\d{3})(\d{2})(\d{2})?", text)
    if found is None:
        raise ValueError(f"{text!r} is no pair of coordinates")
    sign, degrees, minutes, seconds, sign_east, degrees_east, minutes_east, seconds_east = found.groups()
    north = int(degrees) + int(minutes) / 60 + int(seconds or 0) / 3600
    east = int(degrees_east) + int(minutes_east) / 60 + int(seconds_east or 0) / 3600
    return round(-north if sign == "-" else north, 3), round(-east if sign_east == "-" else east, 3)


def render(table: dict[str, list[list[object]]]) -> str:
    """Return the table as JSON with a line a row."""
    parts = []
    for key, rows in table.items():
        lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        parts.append(f'"{key}": [\n{lines}\n]')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _lines(table: str) -> list[str]:
    return [line for line in table.splitlines() if line and not line.startswith("#")]


if __name__ == "__main__":
    sys.exit(main())
