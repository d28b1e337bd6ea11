"""The quality report against plain numpy, and its gate, table, JSON and page."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from numpy.typing import NDArray

from magicmm import ErrorCode, MagicError
from magicmm_quant.quality import QualityReport, assess
from magicmm_quant.quality_plot import plot

Floats = NDArray[np.float32]


def unit_rows(count: int, seed: int, noise: float = 0, of: Floats | None = None) -> Floats:
    rows = np.random.default_rng(seed).standard_normal((count, 24))
    rows = rows if of is None else of + noise * rows
    found: Floats = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return found


PHOTOS = unit_rows(40, 0)
CAPTIONS = unit_rows(40, 1, 0.25, PHOTOS)
REFERENCE = {"photo": PHOTOS, "query": CAPTIONS}
CANDIDATE = {"photo": unit_rows(40, 2, 0.1, PHOTOS), "query": unit_rows(40, 3, 0.1, CAPTIONS)}
PAIRS = [(place, place) for place in range(40)] + [(3, 4), (7, 30)]


@pytest.fixture(scope="module")
def report() -> QualityReport:
    return assess("int4 <mixed>", "40 photos & captions", REFERENCE, CANDIDATE, PAIRS)


def test_cosines_are_numpys(report: QualityReport) -> None:
    assert [part.name for part in report.parts] == ["photo", "query"]
    for part in report.parts:
        cosines = np.diag(REFERENCE[part.name].astype(float) @ CANDIDATE[part.name].astype(float).T)
        assert part.count == sum(part.counts) == 40
        assert part.mean == pytest.approx(cosines.mean(), abs=1e-6)
        assert part.p1 == pytest.approx(np.quantile(cosines, 0.01), abs=1e-6)
        assert part.least == pytest.approx(cosines.min(), abs=1e-6)
        assert part.least < part.p1 < part.mean < 1


def test_the_overlap_is_that_of_sorted_neighbours(report: QualityReport) -> None:
    for part in report.parts:
        near = []
        for vectors in (REFERENCE[part.name], CANDIDATE[part.name]):
            scores = vectors @ vectors.T - 9 * np.eye(40)
            near.append(np.argsort(-scores, axis=1)[:, :10])
        shared = [np.isin(one, other).mean() for one, other in zip(*near, strict=True)]
        assert part.overlap == pytest.approx(np.mean(shared))
        assert part.overlap is not None
        assert 0.5 < part.overlap < 1


def test_recall_is_that_of_a_full_sort(report: QualityReport) -> None:
    assert [one.k for one in report.recall] == [1, 5, 10]
    for one in report.recall:
        for vectors, found in ((REFERENCE, one.reference), (CANDIDATE, one.candidate)):
            order = np.argsort(-(vectors["query"] @ vectors["photo"].T), axis=1, kind="stable")
            hits = [photo in order[caption, : one.k] for caption, photo in PAIRS]
            assert found == pytest.approx(np.mean(hits))
        assert one.drop == one.reference - one.candidate
    assert report.recall[0].reference < report.recall[2].reference


def test_photos_with_the_same_score_come_in_their_order() -> None:
    same = np.repeat(unit_rows(1, 0), 3, axis=0)
    found = assess("x", "y", {"photo": same, "query": same}, {"photo": same, "query": same}, [(0, 0), (0, 2)])
    assert [one.reference for one in found.recall] == [0.5, 1, 1]


def test_the_same_vectors_lose_nothing() -> None:
    found = assess("float32", "y", REFERENCE, REFERENCE, PAIRS)
    found.check(0.9999999)
    assert all(part.overlap == 1 for part in found.parts)
    assert all(one.drop == 0 for one in found.recall)


def test_the_length_of_vectors_does_not_matter() -> None:
    found = assess("x", "y", REFERENCE, {name: 3 * rows for name, rows in REFERENCE.items()})
    assert found.parts[0].mean == pytest.approx(1, abs=1e-6)
    assert found.recall == ()


def test_one_vector_has_no_neighbours() -> None:
    found = assess("x", "y", {"photo": PHOTOS[:1]}, {"photo": PHOTOS[:1]})
    assert found.parts[0].overlap is None
    assert " -" in found.table().splitlines()[-1]


def test_the_gate_names_every_part_below_it_and_the_sample(report: QualityReport) -> None:
    low, high = sorted(part.mean for part in report.parts)
    report.check(low)
    name = min(report.parts, key=lambda part: part.mean).name
    with pytest.raises(MagicError, match=rf"mean cosine of {name} \d\.\d+ \(40 photos") as caught:
        report.check((low + high) / 2)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
    with pytest.raises(MagicError, match=r"photo .*query"):
        report.check(0.99999)


def test_json_and_table_hold_the_numbers(report: QualityReport) -> None:
    data = json.loads(json.dumps(report.to_json()))
    assert data["parts"]["photo"]["mean"] == report.parts[0].mean
    assert data["recall"]["5"]["drop"] == report.recall[1].drop
    assert data["sample"] == report.sample
    lines = report.table().splitlines()
    assert len(lines) == 2 + 2 + 3
    assert f"{report.parts[0].mean:.5f}" in lines[2]
    assert report.sample in lines[0]
    assert len({len(line) for line in lines[1:4]}) == 1


class _Page(HTMLParser):
    """Notes tags, and everything that could load something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag in ("script", "link", "img", "iframe", "mixed"):
            self.loads.append(tag)
        self.loads += [name for name, _ in attributes if name in ("src", "href", "xlink:href", "onload")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_loads_nothing_and_escapes_names(report: QualityReport) -> None:
    page = _Page()
    html = plot(report)
    page.feed(html)
    assert page.loads == []
    assert "url(" not in html
    assert "http" not in html
    assert page.text.count("int4 <mixed>") >= 2
    assert page.text.count("40 photos & captions") == 2
    assert page.tags.count("svg") == 1 + 2
    # Two bars with their room, and a histogram each.
    assert page.tags.count("rect") == 4 + sum(len(part.counts) for part in report.parts)


def test_the_page_of_a_perfect_model_can_be_drawn() -> None:
    html = plot(assess("float32", "y", {"photo": PHOTOS}, {"photo": PHOTOS}))
    assert "nan" not in html
    assert "inf" not in html


def zeros_in(rows: Floats) -> Floats:
    changed = rows.copy()
    changed[3] = 0
    return changed


@pytest.mark.parametrize(
    ("candidate", "pairs", "named"),
    [
        ({"photo": PHOTOS}, [], "parts are"),
        ({"photo": PHOTOS[:5], "query": CAPTIONS}, [], "photo have the shapes"),
        ({"photo": PHOTOS * np.float32("nan"), "query": CAPTIONS}, [], "photo hold NaN"),
        ({"photo": PHOTOS, "query": zeros_in(CAPTIONS)}, [], "query hold NaN"),
        (REFERENCE, [(0, 40)], "0, 40"),
        (REFERENCE, [(-1, 0)], "-1, 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    candidate: dict[str, Floats], pairs: list[tuple[int, int]], named: str
) -> None:
    with pytest.raises(MagicError, match=named) as caught:
        assess("x", "y", REFERENCE, candidate, pairs)
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID


def test_pairs_need_captions() -> None:
    with pytest.raises(MagicError, match="no part query"):
        assess("x", "y", {"photo": PHOTOS}, {"photo": PHOTOS}, [(0, 0)])
