"""Places: what the table holds, and who is near what; distances against the haversine formula."""

from __future__ import annotations

import math

import numpy as np
import pytest

from magicmm.places import CITY_KM, place_table, plain, sphere_points


def contains(name: str, *coordinates: tuple[float, float]) -> list[bool]:
    table = place_table()
    latitude, longitude = np.array(coordinates, np.float64).reshape(-1, 2).T
    return [bool(inside) for inside in table.contains(table.names[name], latitude, longitude)]


def haversine(first: tuple[float, float], second: tuple[float, float]) -> float:
    a, b, c, d = map(math.radians, (*first, *second))
    return (
        2
        * 6371
        * math.asin(math.sqrt(math.sin((c - a) / 2) ** 2 + math.cos(a) * math.cos(c) * math.sin((d - b) / 2) ** 2))
    )


def test_the_table_has_the_cities_and_countries_of_the_zones() -> None:
    table = place_table()
    assert len(table.points) == len(table.codes) > 400
    assert {"paris", "sao paulo", "new york", "usa", "cote d'ivoire", "south korea"} <= table.names.keys()
    assert not {"", "easter", "reunion", "jersey", "center"} & table.names.keys()


def test_names_are_compared_without_accents_and_capitals() -> None:
    assert plain("  São\u00a0PAULO ") == "sao paulo"
    assert plain("Côte d\u2019Ivoire") == "cote d'ivoire"


def test_a_city_is_a_circle() -> None:
    centre = (48.867, 2.333)
    points = [(48.867 + step / 100, 2.333) for step in range(0, 60, 3)]
    assert contains("paris", *points) == [haversine(centre, point) <= CITY_KM for point in points]


def test_a_circle_may_cross_the_date_line() -> None:
    assert contains("tuvalu", (-8.5, 179.2), (-8.5, -179.95), (50.0, 10.0)) == [True, True, False]


@pytest.mark.parametrize(
    ("country", "inside", "outside"),
    [
        ("italy", (41.9, 12.5), (43.73, 7.42)),  # Rome, Monaco
        ("spain", (40.4, -3.7), (41.39, 2.17)),  # Madrid; Barcelona is too far from it to be known
        ("andorra", (42.5, 1.52), (41.39, 2.17)),
        ("usa", (40.71, -74.0), (25.05, -77.35)),  # New York, Nassau
        ("england", (51.5, -0.12), (48.86, 2.35)),
    ],
)
def test_a_country_is_what_lies_near_its_cities_alone(
    country: str, inside: tuple[float, float], outside: tuple[float, float]
) -> None:
    assert contains(country, inside, outside) == [True, False]


def test_no_photos_and_many_photos() -> None:
    assert contains("paris") == []
    many = [(48.86, 2.35), (0.0, 0.0)] * 5000
    assert contains("france", *many) == [True, False] * 5000


def test_points_lie_on_the_sphere() -> None:
    points = sphere_points(np.array([0.0, 90.0, -33.0]), np.array([0.0, 0.0, 151.0]))
    assert points.dtype == np.float64
    assert np.allclose(np.linalg.norm(points, axis=1), 1)
    assert np.allclose(points[:2], [[1, 0, 0], [0, 0, 1]], atol=1e-6)
