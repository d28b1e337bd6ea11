"""Exact ranking, held against numpy's argsort over all scores, in chunks of every size, by torch and by faiss."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from magicmm import ErrorCode, MagicError
from magicmm_training.mining.ranking import Backend, Pool, Ranked, rank
from one_thread import one_thread as one_thread


def unit(count: int, dim: int = 6, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    rows: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return rows


def pool_of(vectors: np.ndarray, chunk: int) -> Pool:
    return Pool(len(vectors), lambda start, stop: vectors[start:stop], chunk)


def by_numpy(queries: np.ndarray, vectors: np.ndarray, truths: list[np.ndarray], top: int) -> Ranked:
    scores = queries @ vectors.T
    for row, places in zip(scores, truths, strict=True):
        row[places] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    best = np.take_along_axis(scores, order, 1)
    return Ranked(np.where(np.isneginf(best), -1, order), best)


@pytest.mark.parametrize("backend", ["torch", "faiss"])
@pytest.mark.parametrize("chunk", [1, 7, 40, 1000])
def test_the_best_are_those_of_numpy(backend: Backend, chunk: int) -> None:
    queries, vectors = unit(9), unit(40, seed=1)
    truths = [np.arange(n % 4) * 11 for n in range(9)]
    expected = by_numpy(queries, vectors, truths, 12)
    found = rank(queries, pool_of(vectors, chunk), truths, 12, backend)
    assert np.array_equal(found.places, expected.places)
    assert np.allclose(found.scores, expected.scores, atol=1e-6)


@pytest.mark.parametrize("backend", ["torch", "faiss"])
def test_a_small_pool_leaves_places_empty(backend: Backend) -> None:
    queries, vectors = unit(2), unit(5, seed=1)
    truths = [np.array([1, 3]), np.arange(5)]
    found = rank(queries, pool_of(vectors, 2), truths, 4, backend)
    assert sorted(found.places[0].tolist()) == [-1, 0, 2, 4]
    assert found.places[1].tolist() == [-1] * 4
    assert np.isneginf(found.scores[1]).all()


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_of_equal_scores_the_lower_place_comes_first(chunk: int) -> None:
    """As many candidates tie for the last place as a model without any sense makes."""
    axes = np.eye(3, dtype=np.float32)
    vectors = np.repeat(axes[:1], 30, axis=0)
    vectors[17] = -axes[0]
    queries = np.stack([axes[0], -axes[0], axes[1]])
    found = rank(queries, pool_of(vectors, chunk), [np.array([0, 2]), np.array([], int), np.array([0, 2])], 5)
    assert found.places.tolist() == [[1, 3, 4, 5, 6], [17, 0, 1, 2, 3], [1, 3, 4, 5, 6]]


def test_more_queries_than_are_scored_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magicmm_training.mining.ranking._QUERIES", 4)
    queries, vectors = unit(11), unit(20, seed=1)
    truths = [np.array([n]) for n in range(11)]
    expected = by_numpy(queries, vectors, truths, 3)
    assert np.array_equal(rank(queries, pool_of(vectors, 8), truths, 3).places, expected.places)


def test_no_pool_and_no_queries() -> None:
    assert rank(unit(2), pool_of(unit(0), 4), [np.array([], int)] * 2, 3).places.tolist() == [[-1] * 3] * 2
    assert rank(unit(0), pool_of(unit(4), 4), [], 3).places.shape == (0, 3)


def test_faiss_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MagicError, match="faiss is not installed") as caught:
        rank(unit(1), pool_of(unit(3), 4), [np.array([], int)], 1, "faiss")
    assert caught.value.code is ErrorCode.ARGUMENT_INVALID
