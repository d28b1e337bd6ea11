"""Cases for signals.json: what words say of time and place, and what EXIF says to that."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import resources
from typing import Any

import numpy as np

from magicmm.places import place_table
from magicmm.records import ExifColumns
from magicmm.signals import Condition, Near, judge, read_signals

Facts = tuple[float | None, float | None, float | None]
"""What EXIF says of a photo: moment, latitude, longitude."""

_BERLIN, _SYDNEY, _PARIS, _NOWHERE = (52.52, 13.4), (-33.87, 151.2), (48.86, 2.35), (None, None)
_DAYTIMES = ["night", "midnight", "noon", "midday", "dawn", "dusk", "sunrise", "sunset"]
_HOURS = ["night", "morning", "afternoon", "evening"]
_SEASONS = ["spring", "summer", "autumn", "fall", "winter"]
_MONTHS = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
_PLACES = [
    "Paris",
    "New York",
    "Sydney",
    "Tuvalu",
    "Italy",
    "Spain",
    "Andorra",
    "USA",
    "England",
    "Russia",
    "Australia",
    "Congo",
    "Fiji",
]
_TEXTS = [
    "a street at night",
    "Breakfast in the early morning",
    "trees in the fall",
    "hiking, summer 2019",
    "the spring of 2020",
    "snow in December, during the winter of 2011",
    "december, of 2019",
    "in May",
    "christmas 2015 and new year's eve 2016",
    "holiday 1950, holidays 1949, trip 2099",
    "since the late 2014",
    "food from S\u00e3o Paulo",
    "in C\u00f4te d\u2019Ivoire",
    "a beach in the Dominican Republic in August",
    "near Mexico City at dusk",
    "in Rome and in Paris and outside of Berlin",
    "DOGS IN BERLIN.",
    "in South Georgia and the South Sandwich Islands",
    "at noon in Washington, D.C., around St. Johns",
    "in Guinea-Bissau, in Guinea-Bi\u00dfau, in GUINEA-BI\u1e9eAU",
    "at night at midnight in the evening at night",
    "a winter coat",
    "a spring roll",
    "a march in the street",
    "may I see it",
    "a night stand",
    "a turkey in the oven",
    "a china plate",
    "easter eggs at easter",
    "a player in jersey",
    "Peugeot 2008",
    "the number 2019",
    "in 20199 and in 1919",
    "in parisian style",
    "a morning glory at nightfall",
    "",
    "in",
    "in the",
    " \u3000in\u00a0the\u2028evening\x1cin\x1fparis\x85",
    "\uff29\uff2e \uff30\uff41\uff52\uff49\uff53 \uff12\uff10\uff11\uff19",
    "in pa\u0301ri\u1dc4s\u20d0",
    "\u732b\u306e\u5199\u771f in paris\u306e",
    "in paris\u3002 in berlin\U0001f600 in rome\U00010400",
    "\u00e9in paris, \u00ebat night, \u0939in berlin\u093f",
    "in paris\u00b2, in rome\u2462, in berlin\u0665, in madrid\u3007, in oslo\u0f33, in lima_",
    "in \u0662\u0660\u0661\u0669, in 201\u0669",
    "summer\u0345 2019, in\u0489 paris",
    "\u212aenya: near \u212aENYA, \ufb01ne, \u0130n Rome, \u0131n Rome",
]


def signals() -> list[dict[str, Any]]:
    """Return the cases of signals.json."""
    return [*_readings(), *_judgements()]


def _readings() -> list[dict[str, Any]]:
    texts = dict(zip(map(repr, _TEXTS), _TEXTS, strict=True))
    texts["every time of day"] = " ".join(
        [*(f"at {word}" for word in _DAYTIMES), *(f"in the {word}" for word in _HOURS), "in the middle of the night"]
    )
    texts["every season"] = ", ".join(f"in {word}, the {word} of 1999" for word in _SEASONS)
    texts["every month"] = ", ".join(f"in {word}, {word} 2001, {word} alone" for word in _MONTHS)
    texts["every name of the table"] = ", ".join(f"near {name}" for name in sorted(place_table().names))
    return [
        {"name": name, "input": {"operation": "read", "text": text}, "expect": _read(text), "tolerance": 0}
        for name, text in texts.items()
    ]


def _read(text: str) -> list[dict[str, Any]]:
    return [
        {"kind": one.signal.kind, "words": one.signal.words, "condition": _facts(one.condition)}
        for one in read_signals(text)
    ]


def _facts(condition: Condition) -> dict[str, Any]:
    if isinstance(condition, Near):
        return {"cities": list(condition.place.cities), "countries": sorted(condition.place.countries)}
    return asdict(condition)  # type: ignore[call-overload,no-any-return]


def _judgements() -> list[dict[str, Any]]:
    hours: list[Facts] = [(_clock(2020, 5, 1, hour), *_NOWHERE) for hour in range(24)]
    edges: list[Facts] = [
        (_clock(2020, 5, 1, hour) + offset, *_NOWHERE) for hour in (5, 21, 23) for offset in (-0.25, 0.25)
    ]
    year: list[Facts] = [
        (_clock(2021, month, 1), *place) for month in range(1, 13) for place in (_NOWHERE, _BERLIN, _SYDNEY)
    ]
    turns: list[Facts] = [
        (_clock(2019, 12, 31, 23, 59, 59), *_NOWHERE),
        (_clock(2020, 1, 1), *_NOWHERE),
        (_clock(1960, 12, 5), *_NOWHERE),
        (_clock(1969, 12, 31, 23, 30), *_NOWHERE),
        (_clock(2020, 2, 29), *_NOWHERE),
        (-0.5, *_NOWHERE),
        (1e300, *_NOWHERE),
        (-1e300, *_NOWHERE),
        (2e11, *_NOWHERE),
        (None, *_BERLIN),
        (None, *_NOWHERE),
    ]
    around = _around_cities()
    asked: dict[str, list[Facts]] = {
        **{f"at {word}": hours + edges + turns for word in ("night", "midnight", "noon", "sunset")},
        **{f"in the {word}": hours + edges for word in ("morning", "afternoon", "evening")},
        **{f"in {word}": year + turns for word in _SEASONS},
        "december 2019": year + turns,
        "february 2020 or in 1969": turns,
        "at night in winter in Berlin in January 2021": [*year, *turns],
        "in Berlin or in Paris": [
            (None, *_BERLIN),
            (None, *_PARIS),
            (None, *_SYDNEY),
            (None, 48.86, None),
            (None, None, 2.35),
            (1.0, *_NOWHERE),
        ],
        **{f"in {name}": around for name in _PLACES},
    }
    return [
        {
            "name": f"photos, {text}",
            "input": {"operation": "judge", "text": text, "photos": photos},
            "expect": _judged(text, photos),
            "tolerance": 0,
        }
        for text, photos in asked.items()
    ]


def _judged(text: str, photos: list[Facts]) -> dict[str, list[float | None]]:
    columns = ExifColumns(np.arange(len(photos)), *np.array(photos, np.float64).T)
    found = judge(read_signals(text), columns)
    return {kind: [None if np.isnan(value) else float(value) for value in values] for kind, values in found.items()}


def _around_cities() -> list[Facts]:
    """Return places around a fifth of the cities, nearer and farther, and those that the names ask for."""
    cities = json.loads((resources.files("magicmm") / "places.json").read_text("utf-8"))["cities"]
    special = [(41.9, 12.5), (43.73, 7.42), (42.5, 1.52), (41.39, 2.17), (-8.5, 179.2), (-8.5, -179.95), (90.0, 0.0)]
    moved = [
        (round(latitude + row % 4 / 8, 3), round(longitude - row % 7 / 8, 3))
        for row, (_, latitude, longitude, _) in enumerate(cities)
        if row % 5 == 0
    ]
    return [(None, *place) for place in [*special, _PARIS, _SYDNEY, (40.71, -74.0), *moved]]


def _clock(*moment: int) -> float:
    return datetime(*moment, tzinfo=timezone.utc).timestamp()  # type: ignore[arg-type,misc]
