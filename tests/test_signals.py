"""Signals: the words that fire and those that must not, what EXIF says, and the exact ranking with both."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gallery_fixtures import answers, brute_force, counting, library, photo_bytes, synced
from magicmm import Filter, Gallery
from magicmm.records import ExifColumns
from magicmm.signals import STRENGTH, judge, read_signals

BERLIN, SYDNEY, PARIS, PACIFIC = (52.52, 13.4), (-33.87, 151.2), (48.86, 2.35), (0.0, -140.0)


def clock(*moment: int) -> float:
    return datetime(*moment, tzinfo=timezone.utc).timestamp()  # type: ignore[arg-type,misc]


def columns(*rows: tuple[float | None, tuple[float, float] | None]) -> ExifColumns:
    nowhere = (None, None)
    facts = np.array([(taken, *(place or nowhere)) for taken, place in rows], np.float64)
    return ExifColumns(np.arange(1, len(rows) + 1), *facts.T)


def said(text: str) -> list[tuple[str, str]]:
    return [(one.signal.kind, one.signal.words) for one in read_signals(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a street at night", [("time", "at night")]),
        ("Breakfast in the early morning", [("time", "in the early morning")]),
        ("people in winter", [("season", "in winter")]),
        ("trees in the fall", [("season", "in the fall")]),
        ("hiking, summer 2019", [("season", "summer"), ("year", "2019")]),
        ("the spring of 2020", [("season", "spring"), ("year", "2020")]),
        ("snow in December", [("month", "in december")]),
        ("december 2019", [("month", "december"), ("year", "2019")]),
        ("in May", [("month", "in may")]),
        ("christmas 2015", [("year", "2015")]),
        ("a bridge in Paris", [("place", "in paris")]),
        ("food from São Paulo", [("place", "from sao paulo")]),
        (
            "a beach in the Dominican Republic in August",
            [("month", "in august"), ("place", "in the dominican republic")],
        ),
        ("near Mexico City at dusk", [("time", "at dusk"), ("place", "near mexico city")]),
        ("in Côte d'Ivoire", [("place", "in cote d'ivoire")]),
        ("in Rome and in Paris", [("place", "in rome"), ("place", "in paris")]),
        ("DOGS IN BERLIN.", [("place", "in berlin")]),
        (
            "in South Georgia and the South Sandwich Islands",
            [("place", "in south georgia and the south sandwich islands")],
        ),
    ],
)
def test_words_fire(text: str, expected: list[tuple[str, str]]) -> None:
    assert said(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "a winter coat",
        "a spring roll",
        "a march in the street",
        "may I see it",
        "a night stand",
        "an august person",
        "a turkey in the oven",
        "a china plate",
        "a paris saint-germain scarf",
        "easter eggs at easter",
        "a player in jersey",
        "Peugeot 2008",
        "the number 2019",
        "in \u0662\u0660\u0661\u0669",
        "in parisian style",
        "a morning glory",
        "",
        "in",
        "in the",
        "\u732b\u306e\u5199\u771f",
    ],
)
def test_other_words_do_not(text: str) -> None:
    assert said(text) == []


def judged(text: str, *rows: tuple[float | None, tuple[float, float] | None]) -> dict[str, list[float | None]]:
    found = judge(read_signals(text), columns(*rows))
    return {kind: [None if np.isnan(value) else value for value in values] for kind, values in found.items()}


def test_hours_are_those_of_the_camera_and_cross_midnight() -> None:
    moments = [(clock(2020, 5, 1, hour), None) for hour in (20, 21, 23, 0, 4, 5, 12)]
    assert judged("at night", *moments, (None, BERLIN)) == {"time": [0, 1, 1, 1, 1, 0, 0, None]}
    before_1970 = (clock(1969, 12, 31, 23), None)
    assert judged("at midnight", before_1970) == {"time": [1]}
    assert judged("in the morning", before_1970, (clock(1969, 12, 31, 6), None)) == {"time": [0, 1]}


def test_seasons_turn_around_in_the_south() -> None:
    january, july = clock(2020, 1, 15), clock(2020, 7, 15)
    rows = [(moment, place) for moment in (january, july) for place in (None, BERLIN, SYDNEY)]
    assert judged("in winter", *rows) == {"season": [1, 1, 0, 0, 0, 1]}
    assert judged("in summer", *rows) == {"season": [0, 0, 1, 1, 1, 0]}


@pytest.mark.parametrize(("season", "months"), [("spring", (3, 4, 5)), ("autumn", (9, 10, 11)), ("winter", (12, 1, 2))])
def test_a_season_has_three_months_everywhere(season: str, months: tuple[int, ...]) -> None:
    year = [clock(2021, month, 1) for month in range(1, 13)]
    north = judged(f"in {season}", *((moment, None) for moment in year))["season"]
    south = judged(f"in {season}", *((moment, SYDNEY) for moment in year))["season"]
    assert [month for month in range(1, 13) if north[month - 1]] == sorted(months)
    assert [month for month in range(1, 13) if south[month - 1]] == sorted((month + 5) % 12 + 1 for month in months)


def test_months_and_years_are_of_the_calendar() -> None:
    rows = [
        (clock(2019, 12, 31, 23, 59, 59), None),
        (clock(2020, 1, 1), None),
        (clock(1960, 12, 5), None),
        (None, None),
    ]
    assert judged("december 2019", *rows) == {"month": [1, 0, 1, None], "year": [1, 0, 0, None]}


def test_of_several_places_one_has_to_fit() -> None:
    rows = [(None, BERLIN), (None, PARIS), (None, SYDNEY), (None, None)]
    assert judged("in berlin or in paris", *rows) == {"place": [1, 1, 0, None]}


def test_dates_that_make_no_sense_are_borne() -> None:
    assert judged("in winter", (1e300, None), (-1e300, None)).keys() == {"season"}


# -- the gallery ---------------------------------------------------------------------------------------------------


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    """Forty photos of noise."""
    yield from library(tmp_path, 40)


def set_facts(gallery: Gallery, photo_id: int, taken: float | None, place: tuple[float, float] | None) -> None:
    with closing(sqlite3.connect(gallery.index_path)) as database, database:
        latitude, longitude = place or (None, None)
        values = (taken, latitude, longitude, photo_id)
        database.execute("UPDATE photo SET taken = ?, latitude = ?, longitude = ? WHERE id = ?", values)
        database.execute("UPDATE meta SET value = value + 1 WHERE key = 'generation'")


def test_without_exif_nothing_changes(gallery: Gallery) -> None:
    for k in (1, 7, 40):
        with_signals = gallery.search("red at night in paris", k=k)
        without = gallery.search("red at night in paris", k=k, signals=False)
        assert answers(with_signals) == answers(without)
        assert all(match.signals == {} for match in with_signals.matches)
        assert [(one.kind, one.words) for one in with_signals.signals] == [("time", "at night"), ("place", "in paris")]
        assert without.signals == () and without.signal_weight == 0


@pytest.mark.parametrize("k", [1, 3, 10, 40])
@pytest.mark.parametrize("filtered", [False, True])
def test_the_ranking_is_exact(gallery: Gallery, k: int, filtered: bool) -> None:
    text = "red in winter in paris 2019, at night"
    rng = np.random.default_rng(k)
    vector = gallery.embedder.embed_text(text)
    everyone = brute_force(gallery.index_path, vector, 100)
    facts = {}
    for photo_id, _, _ in everyone:
        taken = clock(int(rng.integers(2018, 2021)), int(rng.choice([1, 7])), 3, int(rng.choice([1, 12])))
        known = (taken if rng.random() < 0.8 else None, PARIS if rng.random() < 0.5 else None)
        facts[photo_id] = known
        set_facts(gallery, photo_id, *known)
    ids = {photo_id for photo_id, _, _ in everyone if photo_id % 3} if filtered else None
    results = gallery.search(text, k=k, where=None if ids is None else Filter(ids=ids))
    weight = STRENGTH * float(np.std([score for _, _, score in everyone]))
    assert results.signal_weight == pytest.approx(weight, rel=1e-5)

    def total(row: tuple[int, str, float]) -> float:
        taken, place = facts[row[0]]
        count = float(place is not None)
        if taken is not None:
            moment = datetime.fromtimestamp(taken, timezone.utc)
            count += (moment.month == 1) + (moment.hour == 1)
        return row[2] + results.signal_weight * count

    allowed = [row for row in everyone if ids is None or row[0] in ids]
    expected = sorted(allowed, key=lambda row: (-total(row), row[0]))[:k]
    assert answers(results) == expected
    assert results.searched == len(allowed)


def test_matches_say_what_exif_said(gallery: Gallery) -> None:
    first, second, third = (match.id for match in gallery.search("red", k=3).matches)
    set_facts(gallery, first, clock(2020, 7, 1), None)
    set_facts(gallery, second, clock(2020, 1, 1), PARIS)
    set_facts(gallery, third, None, PACIFIC)
    found = {match.id: dict(match.signals) for match in gallery.search("red in winter in paris", k=40).matches}
    assert found[first] == {"season": 0.0}
    assert found[second] == {"season": 1.0, "place": 1.0}
    assert found[third] == {"place": 0.0}
    assert all(signals == {} for photo_id, signals in found.items() if photo_id not in {first, second, third})


def test_the_cosine_and_its_minimum_stay_what_they_are(gallery: Gallery) -> None:
    last = gallery.search("red at night", k=40).matches[-1]
    set_facts(gallery, last.id, clock(2020, 1, 1, 23), None)
    lifted = {match.id: match.score for match in gallery.search("red at night", k=40).matches}
    assert lifted[last.id] == last.score
    least = gallery.search("red at night", k=5).matches[-1].score
    assert last.id not in {match.id for match in gallery.search("red at night", k=40, min_score=least).matches}


def test_a_photo_needs_no_high_cosine_to_be_considered(gallery: Gallery) -> None:
    """The k best by cosine alone are not what is ranked again."""
    ordered = [match.id for match in gallery.search("red at noon", k=40, signals=False).matches]
    for photo_id in ordered[20:]:
        set_facts(gallery, photo_id, clock(2020, 1, 1, 12), None)
    results = gallery.search("red at noon", k=1)
    totals = {
        match.id: match.score + results.signal_weight * sum(match.signals.values())
        for match in gallery.search("red at noon", k=40).matches
    }
    assert results.matches[0].id == max(totals, key=lambda photo_id: totals[photo_id])


def test_exif_of_files_counts_from_end_to_end(tmp_path: Path) -> None:
    """Photos of equal content but for their EXIF: the one that fits comes first, whichever it is."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "plain.png").write_bytes(photo_bytes(1, "red"))
    red = Image.new("RGB", (20, 20), (250, 5, 5))
    for name, moment in (("july", "2019:07:05 12:00:00"), ("january", "2019:01:05 12:00:00")):
        exif = Image.Exif()
        exif[0x8769] = {0x9003: moment}
        red.save(folder / f"{name}.jpg", exif=exif)
    with Gallery.open(tmp_path / "index.db", counting(), [folder]) as gallery:
        synced(gallery)
        for text, name in (("red in winter", "january.jpg"), ("red in summer", "july.jpg")):
            assert gallery.search(text).matches[0].uri.endswith(name)


def test_an_index_without_photos_answers(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.png").write_bytes(photo_bytes(1))
    with Gallery.open(tmp_path / "index.db", counting(), [tmp_path / "photos"]) as gallery:
        synced(gallery)
        gallery.forget(gallery.status().sources[0])
        assert gallery.search("red in winter").matches == ()
