"""Filters: the SQL they become, run on a table, against the same conditions in plain Python."""

from __future__ import annotations

import sqlite3
from datetime import date, datetime, time, timedelta, timezone

import numpy as np
import pytest

from magicmm import ErrorCode, Filter, GeoBox, MagicError
from magicmm.filters import wall_seconds

ROWS = [
    # id, uri, bytes, modified (ns), taken, latitude, longitude, width, height
    (1, "file:///p/a.jpg", 100, 0, 0.0, None, None, 10, 20),
    (2, "file:///p/sub/b.jpg", 200, 0, 1_577_836_799.0, 10.0, 20.0, 30, 15),
    (3, "file:///p/sub/deep/c.jpg", 300, 0, 1_577_836_800.0, -10.0, 179.5, 40, 40),
    (4, "file:///p/sub2/d.jpg", 400, 1_577_836_800_000_000_000, None, 90.0, -180.0, 50, 49),
    (5, "file:///p0/e.jpg", 500, 1_600_000_000_000_000_000, None, -90.0, 180.0, None, None),
    (6, "file:///p/sub%20x/f.jpg", 600, 0, 1_577_923_199.0, 0.0, -179.5, 1, 1000),
]


def ids_of(where: Filter) -> list[int]:
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE photo (id, uri, bytes, modified, taken, latitude, longitude, width, height)")
    db.executemany("INSERT INTO photo VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", ROWS)
    terms, values = where.to_sql()
    found = [row[0] for row in db.execute(f"SELECT id FROM photo WHERE {terms} ORDER BY id", values)]
    db.close()
    return found


def error_of(where: Filter) -> MagicError:
    with pytest.raises(MagicError) as caught:
        where.to_sql()
    return caught.value


def test_no_condition_lets_everything_pass() -> None:
    assert ids_of(Filter()) == [1, 2, 3, 4, 5, 6]
    assert Filter().is_empty


@pytest.mark.parametrize(
    "where", [Filter(ids=()), Filter(ids=np.array([1, 2])), Filter(min_bytes=0), Filter(under=("file:///",))]
)
def test_any_condition_makes_a_filter_not_empty(where: Filter) -> None:
    assert not where.is_empty


def test_a_date_means_its_whole_day() -> None:
    assert ids_of(Filter(since=date(2020, 1, 1))) == [3, 4, 5, 6]
    assert ids_of(Filter(until=date(2019, 12, 31))) == [1, 2]
    assert ids_of(Filter(since=date(2020, 1, 1), until=date(2020, 1, 1))) == [3, 4, 6]


def test_a_moment_is_exact_and_included() -> None:
    midnight = datetime(2020, 1, 1)
    assert 3 in ids_of(Filter(since=midnight))
    assert 3 in ids_of(Filter(until=midnight))
    assert 3 not in ids_of(Filter(since=midnight + timedelta(microseconds=1)))


def test_a_photo_without_a_date_counts_with_its_files_date() -> None:
    assert ids_of(Filter(since=date(2020, 9, 1))) == [5]


def test_a_moment_with_a_time_zone_is_read_on_this_machines_clock() -> None:
    moment = datetime(2020, 6, 1, 12, tzinfo=timezone(timedelta(hours=5)))
    assert wall_seconds(moment, time.min) == wall_seconds(moment.astimezone().replace(tzinfo=None), time.min)
    assert wall_seconds(datetime(1970, 1, 2), time.min) == 86400.0


def test_folders_hold_what_is_below_them_and_not_their_neighbours() -> None:
    assert ids_of(Filter(under=("file:///p/",))) == [1, 2, 3, 4, 6]
    assert ids_of(Filter(under=("file:///p/sub/",))) == [2, 3]
    assert ids_of(Filter(under=("file:///p/sub/", "file:///p0/"))) == [2, 3, 5]
    assert ids_of(Filter(under=("file:///p/su/",))) == []


@pytest.mark.parametrize("under", [("file:///p",), ("file:///p/sub/", "file:///p/a.jpg"), ("",), "file:///p/"])
def test_what_is_no_tuple_of_folders_is_refused(under: tuple[str, ...]) -> None:
    assert error_of(Filter(under=under)).code is ErrorCode.ARGUMENT_INVALID


def test_sizes() -> None:
    assert ids_of(Filter(min_bytes=300)) == [3, 4, 5, 6]
    assert ids_of(Filter(max_bytes=300)) == [1, 2, 3]
    assert ids_of(Filter(min_bytes=300, max_bytes=300)) == [3]
    assert ids_of(Filter(min_side=40)) == [3, 4]  # a photo of unknown size does not pass


def test_boxes() -> None:
    assert ids_of(Filter(box=GeoBox(-90, -180, 90, 180))) == [2, 3, 4, 5, 6]
    assert ids_of(Filter(box=GeoBox(10, 20, 10, 20))) == [2]
    assert ids_of(Filter(box=GeoBox(0, 0, 20, 19.99))) == []


def test_a_box_may_cross_the_180th_meridian() -> None:
    assert ids_of(Filter(box=GeoBox(-20, 179, 20, -179))) == [3, 6]


@pytest.mark.parametrize(
    "edges",
    [
        (10, 0, 0, 0),
        (-91, 0, 0, 0),
        (0, 0, 91, 0),
        (0, -181, 0, 0),
        (0, 0, 0, 181),
        (float("nan"), 0, 0, 0),
        (0, float("inf"), 0, 0),
    ],
)
def test_what_is_no_box_is_refused(edges: tuple[float, float, float, float]) -> None:
    error = error_of(Filter(box=GeoBox(*edges)))
    assert error.code is ErrorCode.ARGUMENT_INVALID
    assert error.remedy


def test_all_conditions_hold_together() -> None:
    assert ids_of(Filter(since=date(2020, 1, 1), under=("file:///p/",), min_side=40, min_bytes=350)) == [4]


def test_values_never_become_part_of_the_sql() -> None:
    terms, values = Filter(under=("x' OR 1=1 --/",)).to_sql()
    assert "OR 1=1" not in terms
    assert values[0] == "x' OR 1=1 --/"
