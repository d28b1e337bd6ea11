"""Metrics against pytrec_eval, mteb, hand-worked examples, and models that know nothing or everything."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from magicmm.errors import ErrorCode, MagicError
from magicmm_training.evaluation.metrics import Metric, Outcome, rank

NAMES = ("hit@1", "hit@3", "precision@1", "precision@3", "recall@1", "recall@3", "ndcg@1", "ndcg@3", "ndcg@5")
TREC = {"hit": "success", "precision": "P", "recall": "recall", "ndcg": "ndcg_cut"}


def measured(name: str, scores: list[float], gains: list[float]) -> Outcome:
    metric = Metric.parse(name)
    return metric.of(rank(np.array(scores, np.float32), np.array(gains, np.float64), metric.k))


def trec(name: str, runs: list[list[float]], gains: list[int]) -> list[float]:
    """Return what trec_eval says of each of some runs over the same candidates."""
    kind, depth = name.split("@")
    labels = {f"d{place}": gain for place, gain in enumerate(gains)}
    evaluator = pytrec_eval.RelevanceEvaluator(
        {f"q{query}": labels for query in range(len(runs))}, {f"{TREC[kind]}.{depth}"}
    )
    found = evaluator.evaluate(
        {f"q{query}": {f"d{place}": score for place, score in enumerate(run)} for query, run in enumerate(runs)}
    )
    return [found[f"q{query}"][f"{TREC[kind]}_{depth}"] for query in range(len(runs))]


def trec_over_orders(name: str, scores: list[float], gains: list[int]) -> list[float]:
    """Return trec_eval's value of every order that the scores leave open.

    trec_eval knows no ties: every permutation of the candidates stands for one order, made strict by tiny steps.
    """
    orders = permutations(range(len(scores)))
    return trec(
        name, [[score + 1e-3 * step for score, step in zip(scores, order, strict=True)] for order in orders], gains
    )


@pytest.mark.parametrize("name", NAMES)
def test_without_ties_all_metrics_are_those_of_trec_eval(name: str) -> None:
    random = np.random.default_rng(0)
    for _ in range(30):
        scores = random.permutation(20).astype(float).tolist()
        gains = random.choice([0, 0, 0, 1, 2, 3], 20)
        gains[random.integers(20)] = 1
        outcome = measured(name, scores, gains.tolist())
        assert outcome.expected == pytest.approx(trec(name, [scores], gains.tolist())[0], abs=1e-12)
        assert outcome.pessimistic == pytest.approx(outcome.expected, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_with_ties_expected_is_the_mean_over_all_orders_and_pessimistic_the_worst(
    name: str, data: st.DataObject
) -> None:
    scores = data.draw(st.lists(st.sampled_from([1.0, 2.0, 3.0]), min_size=5, max_size=5))
    gains = data.draw(st.lists(st.sampled_from([0, 0, 1, 3]), min_size=5, max_size=5).filter(any))
    values = trec_over_orders(name, scores, gains)
    outcome = measured(name, scores, [float(gain) for gain in gains])
    assert outcome.expected == pytest.approx(np.mean(values), abs=1e-9)
    assert outcome.pessimistic == pytest.approx(min(values), abs=1e-9)


@pytest.mark.parametrize(
    ("name", "scores", "gains", "expected", "pessimistic"),
    [
        # The right one is second of three equals that follow one better: places 2 to 4.
        ("hit@1", [9, 5, 5, 5], [0, 0, 1, 0], 0, 0),
        ("hit@2", [9, 5, 5, 5], [0, 0, 1, 0], 1 / 3, 0),
        ("hit@4", [9, 5, 5, 5], [0, 0, 1, 0], 1, 1),
        # Two right ones among four equals: both outside the first two in 1 of 6 choices.
        ("hit@2", [1, 1, 1, 1], [1, 0, 0, 1], 5 / 6, 0),
        ("recall@2", [1, 1, 1, 1], [1, 0, 0, 1], 1 / 2, 0),
        ("precision@3", [1, 1, 1, 1], [1, 0, 0, 1], 1 / 2, 1 / 3),
        ("precision@5", [2, 1], [1, 0], 1 / 5, 1 / 5),
        # (3 / log2(3) + 1 / log2(4)) / (3 / log2(2) + 1 / log2(3)), by hand.
        ("ndcg@5", [9, 5, 4], [0, 3, 1], (3 / np.log2(3) + 1 / 2) / (3 + 1 / np.log2(3)), None),
        # Equal scores: each place holds the mean gain, 4 / 3.
        (
            "ndcg@2",
            [1, 1, 1],
            [0, 3, 1],
            4 / 3 * (1 + 1 / np.log2(3)) / (3 + 1 / np.log2(3)),
            1 / np.log2(3) / (3 + 1 / np.log2(3)),
        ),
    ],
)
def test_by_hand(
    name: str, scores: list[float], gains: list[float], expected: float, pessimistic: float | None
) -> None:
    outcome = measured(name, scores, gains)
    assert outcome.expected == pytest.approx(expected)
    assert outcome.pessimistic == pytest.approx(expected if pessimistic is None else pessimistic)


@pytest.mark.parametrize("name", ["hit@1", "hit@5", "precision@1", "recall@5", "ndcg@5"])
def test_constant_scores_are_chance_wherever_the_right_one_stands(name: str) -> None:
    for place in (0, 499, 999):
        gains = [0.0] * 1000
        gains[place] = 1.0
        outcome = measured(name, [0.5] * 1000, gains)
        metric = Metric.parse(name)
        if metric.kind == "ndcg":
            assert outcome.expected == pytest.approx(sum(1 / np.log2(2 + place) for place in range(5)) / 1000)
        else:
            assert outcome.expected == pytest.approx(metric.k / 1000)
        assert outcome.pessimistic == 0


def test_mteb_agrees_where_no_scores_are_equal() -> None:
    from mteb._evaluators.retrieval_metrics import calculate_retrieval_scores

    random = np.random.default_rng(1)
    qrels, run, ours = {}, {}, []
    for query in range(25):
        scores, gains = random.permutation(30) / 30.0, random.choice([0, 0, 0, 0, 1, 2], 30)
        gains[query] = 1
        qrels[f"q{query}"] = {f"d{place}": int(gain) for place, gain in enumerate(gains)}
        run[f"q{query}"] = {f"d{place}": float(score) for place, score in enumerate(scores)}
        ours.append(
            [
                measured(name, scores.tolist(), gains.tolist()).expected
                for name in ("ndcg@5", "recall@5", "precision@5", "hit@5")
            ]
        )
    theirs = calculate_retrieval_scores(run, qrels, [5])
    means = np.mean(ours, axis=0)
    assert theirs.ndcg["NDCG@5"] == pytest.approx(means[0], abs=1e-4)
    assert theirs.recall["Recall@5"] == pytest.approx(means[1], abs=1e-4)
    assert theirs.precision["P@5"] == pytest.approx(means[2], abs=1e-4)
    assert theirs.hit_rate["HitRate@5"] == pytest.approx(means[3], abs=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_are_refused(bad: float) -> None:
    with pytest.raises(MagicError, match="1 of 3 scores are no finite numbers") as caught:
        measured("hit@1", [bad, 0.1, 0.2], [1, 0, 0])
    assert caught.value.code is ErrorCode.RUNTIME_FAILED


@pytest.mark.parametrize("gains", [[0.0, 0.0], [1.0, -1.0], [1.0]])
def test_queries_without_right_candidates_or_with_broken_gains_are_refused(gains: list[float]) -> None:
    with pytest.raises(MagicError, match="relevant"):
        measured("hit@1", [0.1, 0.2], gains)


@pytest.mark.parametrize("name", ["hit", "hit@0", "mrr@5", "hit@1.5", "hit@-1", ""])
def test_unknown_metrics_are_refused(name: str) -> None:
    with pytest.raises(MagicError, match="no metric"):
        Metric.parse(name)


def test_names_are_read_as_they_are_written() -> None:
    assert [str(Metric.parse(name)) for name in NAMES] == list(NAMES)
