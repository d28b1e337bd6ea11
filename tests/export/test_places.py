"""The table of places is what the time zone database says."""

from __future__ import annotations

import json

import pytest

from magicmm_export.places import country_name, make_table, parse_coordinates, render

ZONES = """# comment
FR\t+4852+00220\tEurope/Paris
US\t+394421-1045903\tAmerica/Denver\tMountain
AR\t-3436-05827\tAmerica/Argentina/Buenos_Aires\tBuenos Aires
RE\t-2052+05528\tIndian/Reunion
"""
COUNTRIES = "#code\tname\nFR\tFrance\nGB\tBritain (UK)\nKR\tKorea (South)\nBA\tBosnia & Herzegovina\nJE\tJersey\n"


def test_coordinates_have_minutes_and_perhaps_seconds() -> None:
    assert parse_coordinates("+4852+00220") == (48.867, 2.333)
    assert parse_coordinates("-394421-1045903") == (-39.739, -104.984)
    with pytest.raises(ValueError, match="no pair"):
        parse_coordinates("48.8, 2.3")


def test_names_of_countries_are_written_as_people_do() -> None:
    names = [country_name(name) for name in ("Britain (UK)", "Korea (South)", "Bosnia & Herzegovina", "France")]
    assert names == ["Britain", "South Korea", "Bosnia and Herzegovina", "France"]


def test_ambiguous_names_go_and_their_cities_stay() -> None:
    table = make_table(ZONES, COUNTRIES)
    assert [row[0] for row in table["cities"]] == ["", "Buenos Aires", "Denver", "Paris"]
    names = {(name, code) for name, code in table["countries"]}
    assert ("UK", "GB") in names and ("South Korea", "KR") in names
    assert not any(code == "JE" for _, code in names)


def test_the_file_is_the_table_with_a_line_a_row() -> None:
    table = make_table(ZONES, COUNTRIES)
    text = render(table)
    assert json.loads(text) == table
    assert text.count("\n") == sum(map(len, table.values())) + 6
