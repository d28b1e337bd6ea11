"""Confidence: the formula against numpy, what a filter changes, and where nothing is known."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gallery_fixtures import brute_force, make_photo, make_photos, synced
from magicmm import Embedder, Filter, Gallery
from magicmm.confidence import confidence
from magicmm.manifest import ConfidenceSpec
from tiny_bundles import dual_bundle

SPEC = ConfidenceSpec(0.7, -1.0, 12.0, -0.7, 30, 0.1)
SECTION = {
    "quantile": 0.7,
    "intercept": -1.0,
    "excess": 12.0,
    "log_photos": -0.7,
    "least_photos": 30,
    "threshold": 0.1,
}
BACKGROUND = np.linspace(-0.2, 0.3, 101, dtype=np.float32)


def expected(scores: np.ndarray, best: float, photos: int) -> float:
    """Compute it once more, in the plainest way."""
    logit = -1.0 + 12.0 * (best - np.percentile(scores, 70)) - 0.7 * math.log(photos)
    return 1 / (1 + math.exp(-logit))


def with_section(folder: Path, **changes: object) -> Path:
    path = dual_bundle(folder) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"confidence": SECTION | changes}))
    return folder


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    """Forty photos of noise."""
    make_photos(tmp_path / "photos", 40)
    bundle = with_section(tmp_path / "tiny.magicmm")
    with Gallery.open(tmp_path / "index.db", Embedder.open(bundle, threads=1), [tmp_path / "photos"]) as found:
        synced(found)
        yield found


def all_scores(gallery: Gallery, text: str) -> np.ndarray:
    rows = brute_force(gallery.index_path, gallery.embedder.embed_text(text), 10_000)
    return np.array([score for _, _, score in rows])


def test_it_is_the_documented_formula() -> None:
    for best, library, searched in ((0.3, 101, 101), (0.9, 5000, 5000), (0.1, 100_000, 300)):
        found = confidence(SPEC, best, BACKGROUND, library, searched)
        assert found == pytest.approx(expected(BACKGROUND, best, searched))


def test_it_rises_with_the_best_score_and_falls_with_the_choice() -> None:
    by_score = [confidence(SPEC, best, BACKGROUND, 101, 101) or 0.0 for best in (0.2, 0.3, 0.5, 0.9)]
    by_choice = [confidence(SPEC, 0.5, BACKGROUND, size, size) or 0.0 for size in (100, 1000, 100_000)]
    assert by_score == sorted(by_score) and len({0.0, *by_score}) == 5
    assert by_choice == sorted(by_choice, reverse=True) and len({0.0, *by_choice}) == 4


def test_extreme_scores_stay_probabilities() -> None:
    steep = ConfidenceSpec(0.7, 0.0, 1e8, 0.0, 2, 0.1)
    assert confidence(steep, 1.0, BACKGROUND, 101, 101) == 1.0
    assert confidence(steep, -1.0, BACKGROUND, 101, 101) == 0.0


def test_a_handful_is_too_few() -> None:
    assert confidence(SPEC, 0.5, BACKGROUND, 29, 29) is None
    assert confidence(SPEC, 0.5, BACKGROUND, 30, 30) is not None


def test_a_search_by_words_has_it(gallery: Gallery) -> None:
    results = gallery.search("red", k=3)
    scores = all_scores(gallery, "red")
    assert results.confidence == pytest.approx(expected(scores, scores.max(), 40), rel=1e-5)
    assert results.is_doubtful == (results.confidence is not None and results.confidence < 0.1)


def test_the_background_of_a_filtered_search_is_the_whole_library(gallery: Gallery) -> None:
    scores = all_scores(gallery, "red")
    ids = [match.id for match in gallery.search("red", k=40).matches[3:38]]
    results = gallery.search("red", where=Filter(ids=ids))
    assert results.searched == 35
    assert results.confidence == pytest.approx(expected(scores, results.matches[0].score, 35), rel=1e-5)
    few = gallery.search("red", where=Filter(ids=ids[:2]))
    assert few.confidence == pytest.approx(expected(scores, few.matches[0].score, 30), rel=1e-5)


def test_it_is_unknown_for_photos_and_mixtures_and_empty_answers(gallery: Gallery, tmp_path: Path) -> None:
    photo = make_photo(tmp_path / "other.png", 99)
    (first,) = gallery.search("red", k=1).matches
    for results in (
        gallery.search(image=photo),
        gallery.search("red", photo),
        gallery.similar(first.id),
        gallery.search("red", min_score=1.0),
        gallery.search("red", where=Filter(ids=[])),
    ):
        assert results.confidence is None
        assert not results.is_doubtful


def test_a_bundle_without_calibration_and_a_small_library_have_none(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 12)
    plain = dual_bundle(tmp_path / "plain.magicmm")
    with Gallery.open(tmp_path / "index.db", Embedder.open(plain, threads=1), [tmp_path / "photos"]) as gallery:
        synced(gallery)
        assert gallery.search("red").confidence is None
    section = with_section(tmp_path / "section.magicmm")
    with Gallery.open(tmp_path / "index.db", Embedder.open(section, threads=1)) as gallery:
        assert gallery.search("red").confidence is None  # and the same fingerprint: no model_mismatch


def test_doubt_is_what_lies_below_the_threshold(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 40)
    for threshold, is_doubtful in ((0.0, False), (1.0, True)):
        bundle = with_section(tmp_path / f"{threshold}.magicmm", threshold=threshold)
        with Gallery.open(tmp_path / "i.db", Embedder.open(bundle, threads=1), [tmp_path / "photos"]) as gallery:
            synced(gallery)
            assert gallery.search("red").is_doubtful is is_doubtful
