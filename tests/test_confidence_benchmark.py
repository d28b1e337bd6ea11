"""The mathematics and the cases of benchmarks/confidence.py, against plain counting and other people's code."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

import confidence as benchmark
import confidence_cases
from confidence_cases import NO, UNSURE, YES, World, draw
from magicmm.manifest import ConfidenceSpec, parse_manifest
from tools.bundle_cases import dual


def some_cases(seed: int, count: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    seen = np.stack([np.ones(count), rng.normal(size=count), rng.normal(size=count)], axis=1)
    right = rng.random(count) < 1 / (1 + np.exp(-(seen @ [-0.5, 2.0, -1.0])))
    return seen, right, rng.uniform(0.1, 3, count)


def test_the_fit_is_the_one_of_scikit_learn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    seen, right, weight = some_cases(0)
    oracle = linear_model.LogisticRegression(C=1e6, fit_intercept=False, tol=1e-10).fit(seen, right, weight)
    assert benchmark.logistic(seen, right, weight) == pytest.approx(oracle.coef_[0], abs=1e-3)


def test_at_the_fit_the_likelihood_is_flat() -> None:
    seen, right, weight = some_cases(1)
    guess = benchmark.logits(seen, benchmark.logistic(seen, right, weight))
    assert seen.T @ (weight * (right - guess)) == pytest.approx(np.zeros(3), abs=1e-4)


def test_auc_counts_pairs() -> None:
    rng = np.random.default_rng(2)
    right, guess, weight = rng.random(60) < 0.4, rng.integers(0, 8, 60) / 8, rng.uniform(0.5, 2, 60)
    won = total = 0.0
    for a in np.flatnonzero(right):
        for b in np.flatnonzero(~right):
            won += weight[a] * weight[b] * ((guess[a] > guess[b]) + (guess[a] == guess[b]) / 2)
            total += weight[a] * weight[b]
    assert benchmark.auc(right, guess, weight) == pytest.approx(won / total)


def test_calibration_error_is_nothing_for_a_truthful_guess_and_all_for_a_lie() -> None:
    right = np.array([True, False, False, False])
    even = np.ones(4)
    assert benchmark.calibration_error(right, np.full(4, 0.25), even) == pytest.approx(0)
    assert benchmark.calibration_error(right, np.where(right, 0.0, 1.0), even) == pytest.approx(1)
    assert benchmark.brier(right, np.full(4, 0.25), even) == pytest.approx(benchmark.base_brier(right, even, even))


def test_drawn_libraries_have_the_subject_or_lack_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are told apart by their second number: 1 fits, 2 is unsure and never wins."""
    monkeypatch.setattr(confidence_cases, "SIZES", (20,))
    rng = np.random.default_rng(3)
    kinds = np.array([YES] * 4 + [UNSURE] * 4 + [NO] * 60, np.int8)
    score = np.where(kinds == YES, 0.9, np.where(kinds == UNSURE, 0.2, rng.uniform(0.3, 0.6, 68)))
    pictures = np.stack([score, np.sqrt(1 - score**2)], axis=1).astype(np.float32)
    world = World("w", np.array([[1.0, 0.0]], np.float32), pictures, kinds[None], np.ones(68, np.bool_))
    cases = list(draw(world, 10, rng))
    assert len(cases) == 20
    for case in cases:
        assert len(case.scores) == 20
        assert case.is_present == case.is_right == bool(case.scores.max() > 0.8)
    absent = [case.scores for case in cases if not case.is_present]
    assert all((scores > 0.25).all() for scores in absent), "what may fit is no part of a library that lacks it"


def test_an_unsure_winner_is_dropped() -> None:
    pictures = np.eye(3, dtype=np.float32)
    kinds = np.array([[YES, UNSURE, NO]], np.int8)
    world = World("w", np.array([[0.5, 0.8, 0.3]], np.float32), pictures, kinds, np.ones(3, np.bool_))
    assert [case.is_present for case in draw(world, 1, np.random.default_rng(0))] == [False]


def test_a_written_manifest_is_read_back_with_its_other_keys(tmp_path: Path) -> None:
    spec = ConfidenceSpec(0.7, -1.0, 13.0, -0.7, 50, 0.08)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(dual() | {"later": 1}))
    for _ in range(2):
        benchmark.write_section(path, lambda manifest: benchmark.with_confidence(manifest, spec))
    assert parse_manifest(path.read_text()).confidence == spec
    assert json.loads(path.read_text()) == dual() | {"later": 1, "confidence": asdict(spec)}
    assert [item.name for item in tmp_path.iterdir()] == ["manifest.json"]


def test_the_built_in_bundle_and_its_exporter_have_the_same_constants() -> None:
    from magicmm import Bundle

    assert asdict(Bundle.default().manifest.confidence) == json.loads(benchmark.CONSTANTS.read_text("utf-8"))
